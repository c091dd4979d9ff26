// The first bytes of a vector of them, where the machine has no loads of some lanes.
#ifndef COMPRESS_KERNELS_FIRST_BYTES_H_
#define COMPRESS_KERNELS_FIRST_BYTES_H_

#include <cstdint>

namespace {

// The first `count` bytes (all where there are more lanes), 0 behind them.
inline Lanes load_first_bytes(const uint8_t* p, int64_t count) {
  if (count >= kLanes) return load_bytes(p);
  uint8_t some[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) some[i] = p[i];
  return load_bytes(some);
}

}  // namespace

#endif  // COMPRESS_KERNELS_FIRST_BYTES_H_
