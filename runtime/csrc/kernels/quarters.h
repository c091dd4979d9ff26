// Sums over pixels in four parts, pixel p in part p % 4: [4][channels] in memory, of which a call may have
// the channels [first, last) alone.
#ifndef COMPRESS_KERNELS_QUARTERS_H_
#define COMPRESS_KERNELS_QUARTERS_H_

#include "kernels/table.h"

namespace {

inline void clear_quarters(float* sums, int channels, int first, int last) {
  for (int q = 0; q < 4; ++q, sums += channels) {
    for (int c = first; c < last; c += kLanes) store_first(sums + c, zero(), last - c);
  }
}

// The first part becomes the sum of all.
inline void add_quarters(float* sums, int channels, int first, int last) {
  for (int c = first; c < last; c += kLanes) {
    const int left = last - c;
    const auto part = [&](int i) { return load_first(sums + i * channels + c, left); };
    store_first(sums + c, add(add(part(0), part(1)), add(part(2), part(3))), left);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_QUARTERS_H_
