// Packed channels back to their places among all of them; contract at KernelTable.
#ifndef COMPRESS_KERNELS_UNPACK_H_
#define COMPRESS_KERNELS_UNPACK_H_

#include "kernels/table.h"

namespace {

void unpack(const float* x, int64_t pixels, int32_t k, int32_t channels, const int32_t* starts,
            const int32_t* counts, const int32_t* spread, float* y) {
  for (int64_t p = 0; p < pixels; ++p, x += k, y += channels) {
    for (int b = 0, c = 0; c < channels; ++b, c += kLanes) {
      const Vec packed = load_first(x + starts[b], counts[b]);
      store_first(y + c, take(zero(), packed, load_lanes(spread + b * kLanes)), channels - c);
    }
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_UNPACK_H_
