// Sums over pixels in four parts, pixel p in part p % 4: [4][channels] in memory.
#ifndef COMPRESS_KERNELS_QUARTERS_H_
#define COMPRESS_KERNELS_QUARTERS_H_

#include "kernels/table.h"

namespace {

inline void clear_quarters(float* sums, int channels) {
  for (int i = 0; i < 4 * channels; i += kLanes) store_first(sums + i, zero(), 4 * channels - i);
}

// The first `channels` become the sums of all.
inline void add_quarters(float* sums, int channels) {
  for (int c = 0; c < channels; c += kLanes) {
    const int left = channels - c;
    const auto part = [&](int i) { return load_first(sums + i * channels + c, left); };
    store_first(sums + c, add(add(part(0), part(1)), add(part(2), part(3))), left);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_QUARTERS_H_
