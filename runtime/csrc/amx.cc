#include "amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace compress {

#if defined(__x86_64__) && defined(__linux__)
namespace {

bool processor_has_amx() {
  constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTiles) != 0 && (d & kInt8) != 0;
}

}  // namespace

bool amx_permitted() {
  constexpr int kAsk = 0x1023, kMatrixRegisters = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool permitted = processor_has_amx() && syscall(SYS_arch_prctl, kAsk, kMatrixRegisters) == 0;
  return permitted;
}
#else
bool amx_permitted() { return false; }
#endif

}  // namespace compress
