#include "unpack.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "plane_means.h"
#include "scratch.h"

namespace compress {

namespace {

// Values written from which on another thread is worth it.
constexpr int64_t kFloatsPerThread = 3 << 11;
constexpr int64_t kBytesPerThread = 1 << 14;

// The places of each sample's channels.
class PlaceLists {
 public:
  PlaceLists(int32_t lanes, int64_t channels, const Tensor<int64_t>& index)
      : lanes_(lanes), blocks_((channels + lanes - 1) / lanes), index_(index), scratch_(carve(nullptr)) {
    carve(scratch_.data());
  }

  // Good until the next call.
  Places of(int64_t n) {
    const int64_t k = index_.dims[1];
    if (n == 0 || index_.dims[0] != 1) {
      const int64_t* row = index_.data + n * k;
      for (int64_t b = 0, i = 0; b < blocks_; ++b) {
        starts_[b] = static_cast<int32_t>(i);
        std::fill_n(spread_ + b * lanes_, lanes_, -1);
        for (; i < k && row[i] < (b + 1) * lanes_; ++i) {
          spread_[row[i]] = static_cast<int32_t>(i) - starts_[b];
        }
        counts_[b] = static_cast<int32_t>(i) - starts_[b];
      }
    }
    return {static_cast<int32_t>(k), starts_, counts_, spread_};
  }

 private:
  size_t carve(char* memory) {
    Carver carver(memory);
    starts_ = carver.take<int32_t>(blocks_);
    counts_ = carver.take<int32_t>(blocks_);
    spread_ = carver.take<int32_t>(blocks_ * lanes_);
    return carver.used();
  }

  const int64_t lanes_, blocks_;
  const Tensor<int64_t>& index_;
  int32_t *starts_, *counts_, *spread_;
  const Scratch scratch_;  // last: it is as large as the others say
};

// What one thread writes: some pixels, and of each some blocks of channels.
struct Part {
  int64_t first, last;
  int64_t first_block, last_block;
};

// Calls run(part) for all parts of a plane, whose pixels begin at multiples of `step`. A thread's band of
// pixels is the one whose inputs are near, where the layer before was divided alike. Where a plane has too
// few steps for all threads, they divide its blocks of channels too.
template <typename Run>
void for_each_part(int64_t pixels, int64_t channels, int64_t blocks, int64_t values_per_thread, int64_t step,
                   const Parallel& parallel, const Run& run) {
  const int64_t steps = (pixels + step - 1) / step;
  const int64_t wanted = std::clamp<int64_t>(pixels * channels / values_per_thread, 1, parallel.threads());
  const int64_t bands = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(steps, 1));
  const int64_t columns = std::clamp<int64_t>(wanted / bands, 1, blocks);
  parallel(static_cast<size_t>(bands * columns), [&](size_t item) {
    const auto band = static_cast<int64_t>(item) / columns, column = static_cast<int64_t>(item) % columns;
    run(Part{steps * band / bands * step, std::min(steps * (band + 1) / bands * step, pixels),
             blocks * column / columns, blocks * (column + 1) / columns});
  });
}

}  // namespace

void unpack(const KernelTable& kernels, int64_t channels, const Tensor<float>& x,
            const Tensor<int64_t>& index, const Sum& sum, float* y, const Parallel& parallel) {
  const int64_t pixels = x.dims[1] * x.dims[2];
  // Part by part where means are taken.
  const bool sums_up = sum.means != nullptr && pixels > 0;
  const int64_t step = sums_up ? sum_pixels(pixels) : 1;
  const Scratch scratch(sums_up ? sizeof(float) * sum_parts(pixels) * part_floats(channels) : 0);
  auto* const partial_sums = reinterpret_cast<float*>(scratch.data());
  PlaceLists x_places(kernels.lanes, channels, index);
  std::optional<PlaceLists> z_places;
  if (sum.z_index != nullptr) z_places.emplace(kernels.lanes, channels, *sum.z_index);
  const int64_t blocks = (channels + kernels.lanes - 1) / kernels.lanes;
  UnpackTask task = {};
  task.channels = static_cast<int32_t>(channels);
  task.lower = sum.lower;
  for (int64_t n = 0; n < x.dims[0]; ++n) {
    task.x_places = x_places.of(n);
    if (z_places) task.z_places = z_places->of(n);
    const int64_t z_step = z_places ? task.z_places.k : channels;
    for_each_part(pixels, channels, blocks, kFloatsPerThread, step, parallel, [&](const Part& part) {
      UnpackTask own = task;
      own.first = static_cast<int32_t>(part.first_block * kernels.lanes);
      own.last = static_cast<int32_t>(std::min(part.last_block * kernels.lanes, channels));
      const int64_t size = sums_up ? step : part.last - part.first;
      for (int64_t first = part.first; first < part.last; first += size) {
        const int64_t at = n * pixels + first;
        own.pixels = std::min(size, part.last - first);
        own.x = x.data + at * task.x_places.k;
        own.z = sum.z == nullptr ? nullptr : sum.z + at * z_step;
        own.y = y + at * channels;
        float* const sums = sums_up ? partial_sums + first / step * part_floats(channels) : nullptr;
        own.sums = channels > kFewChannels ? sums : nullptr;
        kernels.unpack(own);
        if (sums != own.sums) kernels.abs_sums(own.y, own.pixels, own.channels, nullptr, sums);
      }
    });
    if (sums_up) finish_means(partial_sums, pixels, channels, sum.means + n * channels);
  }
  if (sum.means != nullptr && pixels == 0)
    std::fill_n(sum.means, x.dims[0] * channels, std::numeric_limits<float>::quiet_NaN());
}

void unpack_bytes(const KernelTable& kernels, int64_t channels, const Tensor<uint8_t>& x,
                  const Tensor<int64_t>& index, const ByteSum& sum, uint8_t* y, const Parallel& parallel) {
  const auto in_steps_of_y = [&](const Int8Scale& scale) {
    return static_cast<double>(scale.step) / static_cast<double>(sum.y_scale.step);
  };
  const double x_scale = in_steps_of_y(sum.x_scale), z_scale = in_steps_of_y(sum.z_scale);
  Int8UnpackTask task = {};
  task.k = static_cast<int32_t>(x.dims[3]);
  task.x_end = x.data + x.dims[0] * x.dims[1] * x.dims[2] * x.dims[3];
  task.channels = static_cast<int32_t>(channels);
  task.x_zero = static_cast<float>(sum.x_scale.zero);
  task.x_scale = static_cast<float>(x_scale);
  task.z_scale = static_cast<float>(z_scale);
  const double of_z = sum.z == nullptr ? 0.0 : z_scale * static_cast<double>(sum.z_scale.zero);
  const auto y_zero = static_cast<double>(sum.y_scale.zero);
  task.shift = static_cast<float>(y_zero - x_scale * static_cast<double>(sum.x_scale.zero) - of_z);
  task.lower = std::clamp(sum.lower / sum.y_scale.step + static_cast<float>(y_zero), 0.0f, 255.0f);
  const int64_t pixels = x.dims[1] * x.dims[2];
  PlaceLists places(kernels.lanes, channels, index);
  for (int64_t n = 0; n < x.dims[0]; ++n) {
    const Places here = places.of(n);
    for_each_part(pixels, channels, 1, kBytesPerThread, 1, parallel, [&](const Part& part) {
      const int64_t at = n * pixels + part.first;
      Int8UnpackTask band = task;
      band.x = x.data + at * task.k;
      band.z = sum.z == nullptr ? nullptr : sum.z + at * channels;
      band.pixels = part.last - part.first;
      band.starts = here.starts;
      band.spread = here.spread;
      band.y = y + at * channels;
      kernels.int8.unpack(band);
    });
  }
}

}  // namespace compress
