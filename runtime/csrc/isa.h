// The instruction sets this library was built with, best first.
#ifndef COMPRESS_ISA_H_
#define COMPRESS_ISA_H_

#include <string>

#include "kernels/table.h"

namespace compress {

struct Isa {
  const char* name;
  const char* description;
  bool (*supported)();  // by the machine this runs on
  const KernelTable* kernels;
};

// Rows in order of rank, ended by a row whose name is null. `generic` is always there, last, and supported.
const Isa* isas();

// The instruction set called `name`, or the best supported one where `name` is empty. Null, with the reason
// in `error` (what came, what is allowed), when it is unknown or this machine lacks it.
const Isa* find_isa(const std::string& name, std::string* error);

}  // namespace compress

#endif  // COMPRESS_ISA_H_
