#include "depthwise.h"

#include <algorithm>
#include <memory>

namespace compress {

namespace {

// Vector multiply-adds below which another thread costs more than it brings, as in fbs_work.h.
constexpr int64_t kWorkPerThread = 15000;

}  // namespace

std::string check_depthwise(const DepthwiseSpec& spec) {
  const std::string error = check_window(spec);
  if (!error.empty()) return error;
  const Dims& w = spec.weight.dims;
  const auto within = [&](size_t i, int64_t most) { return w[i] >= 1 && w[i] <= most; };
  if (w.size() != 4 || w[0] != spec.channels || !within(0, kMaxChannels) || w[1] != 1 ||
      !within(2, kMaxGeometry) || !within(3, kMaxGeometry) ||
      !small_product({w[0] + kMaxLanes, w[2] + 2, w[3] + 2})) {
    return "W has shape " + text(w) +
           "; it must be [C, 1, kh, kw] with C = channels = " + std::to_string(spec.channels) +
           " and sizes of 1 or more";
  }
  if (spec.shift.dims != Dims{w[0]}) {
    return "B has shape " + text(spec.shift.dims) + "; with W of shape " + text(w) + " it must be [" +
           std::to_string(w[0]) + "]";
  }
  return check_bounds(spec.lower, spec.upper);
}

std::string check_depthwise_input(const DepthwiseSpec& spec, const Tensor<float>& x,
                                  const Tensor<int64_t>& index) {
  const std::string error = check_unpack(spec.channels, x.dims, index);
  return error.empty() ? check_depthwise_planes(spec, x.dims) : error;
}

std::string check_depthwise_planes(const DepthwiseSpec& spec, const Dims& x) {
  if (x[1] < 1 || x[2] < 1) return "X has shape " + text(x) + "; its planes must have 1 pixel or more";
  const int64_t height = spec.y().outputs(x[1]), width = spec.x().outputs(x[2]);
  if (height < 1 || width < 1) {
    return "X has shape " + text(x) + ", smaller than the kernel of W " + text(spec.weight.dims) +
           " with dilations " + text(spec.dilations) + " and pads " + text(spec.pads);
  }
  if (!small_product({height, width, spec.channels + kMaxLanes})) {
    return "X has shape " + text(x) + "; one sample may hold at most 2147483647 values, in and out";
  }
  return "";
}

DepthwiseConv::DepthwiseConv(const DepthwiseSpec& spec, const KernelTable* kernels)
    : spec_(spec),
      kernels_(kernels),
      taps_(static_cast<int32_t>(spec.weight.dims[2] * spec.weight.dims[3])),
      filters_(taps_ + 2, static_cast<int32_t>(spec.channels)) {
  for (int64_t c = 0; c < spec.channels; ++c) {
    for (int32_t t = 0; t < taps_; ++t) filters_.row(t)[c] = spec.weight.data[c * taps_ + t];
    const float shift = spec.shift.data[c];
    filters_.row(taps_)[c] = shift;
    filters_.row(taps_ + 1)[c] = -std::clamp(shift, spec.lower, spec.upper);
  }
  spec_.weight.data = spec_.shift.data = nullptr;
}

DepthwiseTask DepthwiseConv::task(const float* rows, int32_t pitch) const {
  DepthwiseTask task = {};
  task.w = rows;
  task.bias = rows + int64_t{taps_} * pitch;
  task.post = task.bias + pitch;
  task.w_pitch = pitch;
  task.lower = spec_.lower;
  task.upper = spec_.upper;
  return task;
}

void DepthwiseConv::run(const Tensor<float>& x, const Tensor<int64_t>& index, float* y,
                        const Parallel& parallel) const {
  const int64_t samples = x.dims[0];
  const auto live = static_cast<int32_t>(x.dims[3]);
  if (samples == 0 || live == 0) return;
  const std::shared_ptr<const Geometry> geometry =
      geometry_.get(spec_.y(), spec_.x(), x.dims[1], x.dims[2], {kernels_->max_tile});

  // The rows of the channels that exist, for each sample.
  const int32_t lanes = kernels_->lanes;
  const int32_t vectors = (live + lanes - 1) / lanes;
  const int32_t pitch = vectors * lanes;
  const int64_t sample_rows = filters_.floats(pitch);
  const Scratch scratch(sizeof(float) * static_cast<size_t>(samples * sample_rows));
  auto* const rows = reinterpret_cast<float*>(scratch.data());

  const int64_t work = geometry->tap_pixels * vectors;
  const int64_t threads = parallel.threads();
  const int64_t parts =
      samples >= threads ? 1 : std::clamp<int64_t>(work / kWorkPerThread, 1, geometry->num_tiles);
  const int64_t shares = std::min(parts, threads);
  for (int64_t n = 0; n < samples; ++n) {
    filters_.gather(index.data + (index.dims[0] == 1 ? 0 : n * live), live, pitch, rows + n * sample_rows);
  }
  const int64_t x_size = x.dims[1] * x.dims[2] * live;
  const int64_t y_size = geometry->pixels() * live;
  parallel(static_cast<size_t>(samples * shares), [&](size_t item) {
    const int64_t n = static_cast<int64_t>(item) / shares, share = static_cast<int64_t>(item) % shares;
    DepthwiseTask mine = task(rows + n * sample_rows, pitch);
    mine.x = x.data + n * x_size;
    mine.y = y + n * y_size;
    mine.channels = mine.pitch = mine.k = live;
    mine.tiling = geometry->tiling();
    kernels_->depthwise(mine, geometry->first_tile(share, shares), geometry->first_tile(share + 1, shares));
  });
}

}  // namespace compress
