// Planes of a few channels to pixels of them; contract at KernelTable.
#ifndef COMPRESS_KERNELS_INTERLEAVE_H_
#define COMPRESS_KERNELS_INTERLEAVE_H_

#include "kernels/table.h"

namespace {

// A vector of each channel makes as many vectors of pixels; each of these takes from all.
template <int kChannels>
void interleave_channels(const float* x, int64_t plane, int64_t first, int64_t last, float* y) {
  int32_t sources[kChannels][kChannels][kLanes];  // of each vector of pixels, from each channel
  for (int v = 0; v < kChannels; ++v) {
    for (int i = 0; i < kLanes; ++i) {
      const int place = v * kLanes + i;
      for (int c = 0; c < kChannels; ++c) sources[v][c][i] = place % kChannels == c ? place / kChannels : -1;
    }
  }
  int64_t p = first;
  for (; p + kLanes <= last; p += kLanes) {
    Vec channels[kChannels];
#pragma GCC unroll 4
    for (int c = 0; c < kChannels; ++c) channels[c] = load(x + c * plane + p);
#pragma GCC unroll 4
    for (int v = 0; v < kChannels; ++v) {
      Vec pixels = zero();
#pragma GCC unroll 4
      for (int c = 0; c < kChannels; ++c) pixels = take(pixels, channels[c], load_lanes(sources[v][c]));
      store(y + p * kChannels + v * kLanes, pixels);
    }
  }
  for (; p < last; ++p) {
    for (int c = 0; c < kChannels; ++c) y[p * kChannels + c] = x[c * plane + p];
  }
}

void interleave(const float* x, int64_t plane, int32_t channels, int64_t first, int64_t last, float* y) {
  static_assert(compress::kFewChannels == 4);
  switch (channels) {
    case 1:
      return interleave_channels<1>(x, plane, first, last, y);
    case 2:
      return interleave_channels<2>(x, plane, first, last, y);
    case 3:
      return interleave_channels<3>(x, plane, first, last, y);
    case 4:
      return interleave_channels<4>(x, plane, first, last, y);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_INTERLEAVE_H_
