#include "max_pool.h"

#include <algorithm>
#include <memory>

namespace compress {

namespace {

// Values read below which another thread costs more than it brings.
constexpr int64_t kFloatsPerThread = 1 << 14;

}  // namespace

std::string check_max_pool(const MaxPoolSpec& spec) {
  std::string error = check_list("kernel_shape", spec.kernel, 2, 1);
  if (error.empty()) error = check_window(spec);
  if (!error.empty()) return error;
  for (size_t i = 0; i < 4; ++i) {
    const int64_t most = spec.dilations[i % 2] > 1 ? 0 : spec.kernel[i % 2] - 1;
    if (spec.pads[i] > most) {
      return "pads is " + text(spec.pads) + " with kernel_shape " + text(spec.kernel) + " and dilations " +
             text(spec.dilations) +
             "; each must be smaller than its kernel, and 0 where that is dilated, so that no window lies "
             "outside";
    }
  }
  return "";
}

std::string check_max_pool_input(const MaxPoolSpec& spec, const Dims& x) {
  if (x.size() != 4 || !small_product({x[1], x[2], x[3]})) {
    return "X has shape " + text(x) + "; it must be [N, H, W, C], and one sample at most 2147483647 values";
  }
  const int64_t height = x[1] < 1 ? 0 : spec.y().outputs(x[1]), width = x[2] < 1 ? 0 : spec.x().outputs(x[2]);
  if (height < 1 || width < 1) {
    return "X has shape " + text(x) + ", smaller than kernel_shape " + text(spec.kernel) +
           " with dilations " + text(spec.dilations) + " and pads " + text(spec.pads);
  }
  if (small_product({height, width, x[3]})) return "";
  return "X has shape " + text(x) + "; one sample may hold at most 2147483647 values, in and out";
}

void MaxPool::run(const Tensor<float>& x, float* y, const Parallel& parallel) const {
  const int64_t samples = x.dims[0];
  const auto channels = static_cast<int32_t>(x.dims[3]);
  if (samples == 0 || channels == 0) return;
  const std::shared_ptr<const Geometry> geometry =
      geometry_.get(spec_.y(), spec_.x(), x.dims[1], x.dims[2], {kernels_->max_tile});
  PoolTask task = {};
  task.k = task.pitch = channels;
  task.tiling = geometry->tiling();

  const int64_t threads = parallel.threads(), values = geometry->tap_pixels * channels;
  const int64_t parts =
      samples >= threads ? 1 : std::clamp<int64_t>(values / kFloatsPerThread, 1, geometry->num_tiles);
  const int64_t shares = std::min(parts, threads);
  const int64_t x_size = x.dims[1] * x.dims[2] * channels, y_size = geometry->pixels() * channels;
  parallel(static_cast<size_t>(samples * shares), [&](size_t item) {
    const int64_t n = static_cast<int64_t>(item) / shares, share = static_cast<int64_t>(item) % shares;
    PoolTask mine = task;
    mine.x = x.data + n * x_size;
    mine.y = y + n * y_size;
    kernels_->max_pool(mine, geometry->first_tile(share, shares), geometry->first_tile(share + 1, shares));
  });
}

}  // namespace compress
