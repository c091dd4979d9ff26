#include "to_nhwc.h"

#include <algorithm>
#include <cstdint>

namespace compress {

namespace {

constexpr int64_t kFloatsPerThread = 8192;

// Pixels at a time, so that what is written of many channels stays near.
constexpr int64_t kBlock = 64;

// The pixels [first, last) of any number of channels.
void transpose(const float* x, int64_t plane, int64_t channels, int64_t first, int64_t last, float* y) {
  for (int64_t begin = first; begin < last; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, last);
    for (int64_t c = 0; c < channels; ++c) {
      const float* const source = x + c * plane;
      for (int64_t p = begin; p < end; ++p) y[p * channels + c] = source[p];
    }
  }
}

}  // namespace

std::string check_to_nhwc(const Dims& x) {
  if (x.size() == 4 && small_product({x[1], x[2], x[3]})) return "";
  return "X has shape " + text(x) + "; it must be [N, C, H, W], and one sample at most 2147483647 values";
}

void to_nhwc(const KernelTable& kernels, const Tensor<float>& x, float* y, const Parallel& parallel) {
  const int64_t channels = x.dims[1], plane = x.dims[2] * x.dims[3], size = channels * plane;
  const int64_t wanted = std::min<int64_t>(parallel.threads(), size / kFloatsPerThread);
  const int64_t items = std::max<int64_t>(wanted, 1);
  for (int64_t n = 0; n < x.dims[0]; ++n) {
    parallel(static_cast<size_t>(items), [&](size_t item) {
      const auto i = static_cast<int64_t>(item);
      const int64_t first = plane * i / items, last = plane * (i + 1) / items;
      if (channels <= kFewChannels) {
        kernels.interleave(x.data + n * size, plane, static_cast<int32_t>(channels), first, last,
                           y + n * size);
      } else {
        transpose(x.data + n * size, plane, channels, first, last, y + n * size);
      }
    });
  }
}

}  // namespace compress
