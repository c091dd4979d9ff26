#include "unpack.h"

#include <algorithm>

#include "scratch.h"

namespace compress {

namespace {

// Floats written from which on another thread is worth it.
constexpr int64_t kFloatsPerThread = 1 << 13;

}  // namespace

void unpack(const KernelTable& kernels, int64_t channels, const Tensor<float>& x,
            const Tensor<int64_t>& index, const Sum& sum, float* y, const Parallel& parallel) {
  const int64_t samples = x.dims[0];
  const int64_t pixels = x.dims[1] * x.dims[2];
  const auto k = static_cast<int32_t>(x.dims[3]);
  const int32_t lanes = kernels.lanes;
  const int64_t blocks = (channels + lanes - 1) / lanes;

  int32_t *starts, *counts, *spread;
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    starts = carver.take<int32_t>(blocks);
    counts = carver.take<int32_t>(blocks);
    spread = carver.take<int32_t>(blocks * lanes);
    return carver.used();
  };
  const Scratch scratch(carve(nullptr));
  carve(scratch.data());

  // A band of pixels each: the one whose inputs are near, where the layer before was divided alike.
  const int64_t wanted = std::min<int64_t>(parallel.threads(), pixels * channels / kFloatsPerThread);
  const int64_t items = std::max<int64_t>(std::min(wanted, pixels), 1);
  for (int64_t n = 0; n < samples; ++n) {
    if (n == 0 || index.dims[0] != 1) {
      const int64_t* row = index.data + n * k;
      for (int64_t b = 0, i = 0; b < blocks; ++b) {
        starts[b] = static_cast<int32_t>(i);
        std::fill_n(spread + b * lanes, lanes, -1);
        for (; i < k && row[i] < (b + 1) * lanes; ++i) {
          spread[row[i]] = static_cast<int32_t>(i) - starts[b];
        }
        counts[b] = static_cast<int32_t>(i) - starts[b];
      }
    }
    parallel(static_cast<size_t>(items), [&](size_t item) {
      const auto i = static_cast<int64_t>(item);
      const int64_t first = pixels * i / items;
      kernels.unpack(x.data + (n * pixels + first) * k, pixels * (i + 1) / items - first, k,
                     static_cast<int32_t>(channels), starts, counts, spread,
                     sum.z == nullptr ? nullptr : sum.z + (n * pixels + first) * channels, sum.lower,
                     y + (n * pixels + first) * channels);
    });
  }
}

}  // namespace compress
