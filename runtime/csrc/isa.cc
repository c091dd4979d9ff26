#include "isa.h"

#include "amx.h"

namespace compress {

// One row per header in isa/, written by CMake: COMPRESS_ISA_ROW(name, description, is it supported here?).
#define COMPRESS_ISA_ROW(isa, description, is_supported) extern const KernelTable kernels_##isa;
#include "isa_rows.inc"
#undef COMPRESS_ISA_ROW

const Isa* isas() {
  static const Isa rows[] = {
#define COMPRESS_ISA_ROW(isa, description, is_supported) \
  {#isa, description, [] { return static_cast<bool>(is_supported); }, &kernels_##isa},
#include "isa_rows.inc"
#undef COMPRESS_ISA_ROW
      {nullptr, nullptr, nullptr, nullptr},
  };
  return rows;
}

const Isa* find_isa(const std::string& name, std::string* error) {
  std::string allowed;
  bool known = false;
  for (const Isa* isa = isas(); isa->name != nullptr; ++isa) {
    known = known || name == isa->name;
    if (!isa->supported()) continue;
    if (name.empty() || name == isa->name) return isa;
    allowed += (allowed.empty() ? "" : ", ") + std::string(isa->name);
  }
  *error = (known ? "this machine does not have the instruction set '" : "unknown instruction set '") + name +
           "'; choose from: " + allowed + ", or leave it empty for the best";
  return nullptr;
}

}  // namespace compress
