#include "unpack.h"

#include <algorithm>
#include <limits>

#include "plane_means.h"
#include "scratch.h"

namespace compress {

namespace {

// Values written from which on another thread is worth it.
constexpr int64_t kFloatsPerThread = 1 << 13;
constexpr int64_t kBytesPerThread = 1 << 14;

// Where packed channels go: for each vector of channels the first packed one, how many follow it, and which
// one each lane takes (-1: none).
struct Places {
  int32_t *starts, *counts, *spread;
};

// Calls run(n, first, last, places) for bands [first, last) of each sample's pixels, which begin at multiples
// of `step`, then behind(n). A thread's band is the one whose inputs are near, where the layer before was
// divided alike.
template <typename Run, typename Behind>
void for_each_band(int32_t lanes, int64_t channels, const Dims& x, const Tensor<int64_t>& index,
                   int64_t values_per_thread, int64_t step, const Parallel& parallel, const Run& run,
                   const Behind& behind) {
  const int64_t samples = x[0];
  const int64_t pixels = x[1] * x[2];
  const int64_t steps = (pixels + step - 1) / step;
  const auto k = static_cast<int32_t>(x[3]);
  const int64_t blocks = (channels + lanes - 1) / lanes;

  Places places;
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    places.starts = carver.take<int32_t>(blocks);
    places.counts = carver.take<int32_t>(blocks);
    places.spread = carver.take<int32_t>(blocks * lanes);
    return carver.used();
  };
  const Scratch scratch(carve(nullptr));
  carve(scratch.data());

  const int64_t wanted = std::min<int64_t>(parallel.threads(), pixels * channels / values_per_thread);
  const int64_t items = std::max<int64_t>(std::min(wanted, steps), 1);
  for (int64_t n = 0; n < samples; ++n) {
    if (n == 0 || index.dims[0] != 1) {
      const int64_t* row = index.data + n * k;
      for (int64_t b = 0, i = 0; b < blocks; ++b) {
        places.starts[b] = static_cast<int32_t>(i);
        std::fill_n(places.spread + b * lanes, lanes, -1);
        for (; i < k && row[i] < (b + 1) * lanes; ++i) {
          places.spread[row[i]] = static_cast<int32_t>(i) - places.starts[b];
        }
        places.counts[b] = static_cast<int32_t>(i) - places.starts[b];
      }
    }
    parallel(static_cast<size_t>(items), [&](size_t item) {
      const auto i = static_cast<int64_t>(item);
      run(n, steps * i / items * step, std::min(steps * (i + 1) / items * step, pixels), places);
    });
    behind(n);
  }
}

}  // namespace

void unpack(const KernelTable& kernels, int64_t channels, const Tensor<float>& x,
            const Tensor<int64_t>& index, const Sum& sum, float* y, const Parallel& parallel) {
  const int64_t k = x.dims[3], pixels = x.dims[1] * x.dims[2];
  // Part by part where means are taken.
  const bool sums_up = sum.means != nullptr && pixels > 0;
  const int64_t step = sums_up ? sum_pixels(pixels) : 1;
  const Scratch scratch(sums_up ? sizeof(float) * sum_parts(pixels) * part_floats(channels) : 0);
  auto* const partial_sums = reinterpret_cast<float*>(scratch.data());
  UnpackTask task = {};
  task.k = static_cast<int32_t>(k);
  task.channels = static_cast<int32_t>(channels);
  task.lower = sum.lower;
  const auto run = [&](int64_t n, int64_t first, int64_t last, const Places& places) {
    UnpackTask part = task;
    part.starts = places.starts;
    part.counts = places.counts;
    part.spread = places.spread;
    const int64_t size = sums_up ? step : last - first;
    for (; first < last; first += size) {
      const int64_t at = n * pixels + first;
      part.pixels = std::min(size, last - first);
      part.x = x.data + at * k;
      part.z = sum.z == nullptr ? nullptr : sum.z + at * channels;
      part.y = y + at * channels;
      float* const sums = sums_up ? partial_sums + first / step * part_floats(channels) : nullptr;
      part.sums = channels > kFewChannels ? sums : nullptr;
      kernels.unpack(part);
      if (sums != part.sums) kernels.abs_sums(part.y, part.pixels, part.channels, nullptr, sums);
    }
  };
  const auto behind = [&](int64_t n) {
    if (sums_up) finish_means(partial_sums, pixels, channels, sum.means + n * channels);
  };
  for_each_band(kernels.lanes, channels, x.dims, index, kFloatsPerThread, step, parallel, run, behind);
  if (sum.means != nullptr && pixels == 0)
    std::fill_n(sum.means, x.dims[0] * channels, std::numeric_limits<float>::quiet_NaN());
}

void unpack_bytes(const KernelTable& kernels, int64_t channels, const Tensor<uint8_t>& x,
                  const Tensor<int64_t>& index, const ByteSum& sum, uint8_t* y, const Parallel& parallel) {
  const auto in_steps_of_y = [&](const Int8Scale& scale) {
    return static_cast<float>(static_cast<double>(scale.step) / static_cast<double>(sum.y_scale.step));
  };
  Int8UnpackTask task = {};
  task.k = static_cast<int32_t>(x.dims[3]);
  task.x_end = x.data + x.dims[0] * x.dims[1] * x.dims[2] * x.dims[3];
  task.channels = static_cast<int32_t>(channels);
  task.x_zero = static_cast<float>(sum.x_scale.zero);
  task.x_scale = in_steps_of_y(sum.x_scale);
  task.z_zero = static_cast<float>(sum.z_scale.zero);
  task.z_scale = in_steps_of_y(sum.z_scale);
  task.y_zero = static_cast<float>(sum.y_scale.zero);
  task.lower = std::clamp(sum.lower / sum.y_scale.step + task.y_zero, 0.0f, 255.0f);
  const auto run = [&](int64_t n, int64_t first, int64_t last, const Places& places) {
    const int64_t at = n * x.dims[1] * x.dims[2] + first;
    Int8UnpackTask band = task;
    band.x = x.data + at * task.k;
    band.z = sum.z == nullptr ? nullptr : sum.z + at * channels;
    band.pixels = last - first;
    band.starts = places.starts;
    band.spread = places.spread;
    band.y = y + at * channels;
    kernels.int8.unpack(band);
  };
  for_each_band(kernels.lanes, channels, x.dims, index, kBytesPerThread, 1, parallel, run, [](int64_t) {});
}

}  // namespace compress
