// Packed channels back to their places among all of them; contract at KernelTable.
#ifndef COMPRESS_KERNELS_UNPACK_H_
#define COMPRESS_KERNELS_UNPACK_H_

#include "kernels/table.h"

namespace {

template <bool kSum>
inline void unpack_pixels(const float* x, int64_t pixels, int32_t k, int32_t channels, const int32_t* starts,
                          const int32_t* counts, const int32_t* spread, const float* z, float lower,
                          float* y) {
  constexpr float kHighest = __builtin_inff();
  const Vec lowest = broadcast(&lower);
  const Vec highest = broadcast(&kHighest);
  for (int64_t p = 0; p < pixels; ++p, x += k, y += channels) {
    for (int b = 0, c = 0; c < channels; ++b, c += kLanes) {
      Vec value = take(zero(), load_first(x + starts[b], counts[b]), load_lanes(spread + b * kLanes));
      if constexpr (kSum) value = clamp(add(load_first(z + c, channels - c), value), lowest, highest);
      store_first(y + c, value, channels - c);
    }
    if constexpr (kSum) z += channels;
  }
}

void unpack(const float* x, int64_t pixels, int32_t k, int32_t channels, const int32_t* starts,
            const int32_t* counts, const int32_t* spread, const float* z, float lower, float* y) {
  if (z == nullptr) {
    unpack_pixels<false>(x, pixels, k, channels, starts, counts, spread, z, lower, y);
  } else {
    unpack_pixels<true>(x, pixels, k, channels, starts, counts, spread, z, lower, y);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_UNPACK_H_
