#include "sparse_conv.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace compress {

namespace {

// Rows gathered and multiplied at a time, so that memory does not grow with the layer. Fewer would fit the
// first cache level, but adding to sums already stored costs as much as that gains (128 rows: 3 % slower).
constexpr int32_t kBlockRows = 512;

// The part of a plane that the band from output row `first_row` on reads; borders outside of the input are
// zeros.
void copy_band(const KernelTable& kernels, const SparseSpec& spec, const SparsePlan& plan,
               const SparsePlane& plane, int64_t first_row, const float* x, float* to) {
  const auto inside = [](const Axis& axis, int64_t first, int64_t input, int64_t copied) {
    // Of the copied places, those that lie in the input: [begin, end).
    const auto behind = [&](int64_t position) {
      return std::clamp<int64_t>((position - first + axis.stride - 1) / axis.stride, 0, copied);
    };
    const int64_t begin = first < 0 ? behind(0) : 0;
    const int64_t end = first < input ? behind(input) : 0;
    return std::pair(begin, std::max(begin, end));
  };
  const int64_t first_y = first_row * spec.strides[0] + plane.y - spec.pads[0];
  const int64_t first_x = plane.x - spec.pads[1];
  const auto [top, bottom] = inside(spec.y(), first_y, plan.input_height, plan.plane_height);
  const auto columns = inside(spec.x(), first_x, plan.input_width, plan.plane_width);

  CopyTask task = {};
  task.from_step = spec.strides[0] * plan.input_width;
  task.stride = spec.strides[1];
  task.width = plan.plane_width;
  const auto copy = [&](int64_t first, int64_t last, bool is_input) {
    task.from = x +
                (plane.channel * plan.input_height + first_y + first * spec.strides[0]) * plan.input_width +
                first_x;
    task.to = to + first * plan.plane_width;
    task.rows = static_cast<int32_t>(last - first);
    task.begin = is_input ? static_cast<int32_t>(columns.first) : 0;
    task.end = is_input ? static_cast<int32_t>(columns.second) : 0;
    kernels.copy_plane(task);
  };
  copy(0, top, false);
  copy(top, bottom, true);
  copy(bottom, plan.plane_height, false);
}

}  // namespace

struct SparseConv::Item {
  const float* x;  // one sample
  float* y;
  int32_t band;
  int32_t first_panel, last_panel;
};

SparseConv::SparseConv(const SparseSpec& spec, const KernelTable* kernels)
    : spec_(spec),
      kernels_(kernels),
      outputs_(static_cast<int32_t>(spec.outputs())),
      num_rows_(static_cast<int32_t>(spec.num_rows())),
      panels_((outputs_ + kernels->max_tile - 1) / kernels->max_tile),
      rows_(sparse_rows(spec)) {
  // A tile of few pixels reads whole vectors of weights.
  weight_ =
      Buffer(sizeof(float) * (static_cast<size_t>(outputs_) * static_cast<size_t>(num_rows_) + kMaxLanes));
  std::fill_n(weight_.floats() + int64_t{outputs_} * num_rows_, kMaxLanes, 0.0f);
  float* packed = weight_.floats();
  for (int32_t panel = 0; panel < panels_; ++panel) {
    for (int64_t r = 0; r < num_rows_; ++r) {
      for (int64_t o = first_output(panel); o < first_output(panel + 1); ++o) {
        *packed++ = spec.weight.data[o * num_rows_ + r];
      }
    }
  }
  bias_ = Buffer(sizeof(float) * static_cast<size_t>(outputs_));
  std::copy_n(spec.bias.data, outputs_, bias_.floats());
  spec_.weight.data = spec_.bias.data = nullptr;
  spec_.places.data = nullptr;
}

std::shared_ptr<const SparsePlan> SparseConv::plan(int64_t height, int64_t width, int64_t samples,
                                                   int threads) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (plan_ == nullptr || plan_->input_height != height || plan_->input_width != width ||
      plan_->samples != samples) {
    plan_ = std::make_shared<const SparsePlan>(
        make_sparse_plan(spec_, rows_, *kernels_, {samples, spec_.channels, height, width}, threads));
  }
  return plan_;
}

void SparseConv::run(const Tensor<float>& x, float* y, const Parallel& parallel) const {
  const int64_t samples = x.dims[0];
  if (samples == 0) return;
  const std::shared_ptr<const SparsePlan> shape = plan(x.dims[2], x.dims[3], samples, parallel.threads());
  const int64_t x_size = x.dims[1] * x.dims[2] * x.dims[3];
  const int64_t y_size = outputs_ * shape->output_pixels();
  const int32_t slices = std::min(shape->num_slices, panels_);
  const int64_t items = samples * shape->num_bands * slices;
  parallel(static_cast<size_t>(items), [&](size_t number) {
    const auto slice = static_cast<int64_t>(number) % slices;
    const auto band = static_cast<int64_t>(number) / slices % shape->num_bands;
    const auto n = static_cast<int64_t>(number) / slices / shape->num_bands;
    run_item(*shape, {x.data + n * x_size, y + n * y_size, static_cast<int32_t>(band),
                      static_cast<int32_t>(panels_ * slice / slices),
                      static_cast<int32_t>(panels_ * (slice + 1) / slices)});
  });
}

// One band of one sample, for a slice of the outputs: its planes copied, then tile by tile the rows gathered
// and multiplied.
void SparseConv::run_item(const SparsePlan& plan, const Item& item) const {
  float* planes = nullptr;
  float* tile_rows = nullptr;
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    planes = carver.take<float>(plan.plane_floats());
    tile_rows = carver.take<float>(int64_t{kBlockRows} * plan.tile_pixels);
    return carver.used();
  };
  const Scratch scratch(carve(nullptr));
  carve(scratch.data());

  const int64_t first_row = int64_t{item.band} * plan.band_rows;
  for (size_t p = 0; p < plan.planes.size(); ++p) {
    copy_band(*kernels_, spec_, plan, plan.planes[p], first_row, item.x,
              planes + static_cast<int64_t>(p) * plan.plane_size);
  }

  const int32_t num_blocks = (num_rows_ + kBlockRows - 1) / kBlockRows;
  const auto first_of = [&](int32_t block) {
    return static_cast<int32_t>(int64_t{num_rows_} * block / num_blocks);
  };
  const auto& tiles = item.band + 1 == plan.num_bands ? plan.last_tiles : plan.tiles;
  for (const SparseTile& tile : tiles) {
    MultiplyTask product = {};
    product.num_vectors = (tile.pixels + kernels_->lanes - 1) / kernels_->lanes;

    GatherTask gather = {};
    gather.planes = planes;
    gather.pieces = plan.pieces.data() + tile.first_piece;
    gather.num_pieces = tile.num_pieces;
    gather.width = product.num_vectors * kernels_->lanes;
    gather.out = tile_rows;

    product.x = tile_rows;
    product.pixels = tile.pixels;
    product.y_stride = plan.output_pixels();
    for (int32_t block = 0; block < num_blocks; ++block) {
      const int32_t first_in_block = first_of(block);
      gather.rows = plan.row_offsets.data() + first_in_block;
      gather.num_rows = product.num_rows = first_of(block + 1) - first_in_block;
      kernels_->gather(gather);

      const bool is_last = block + 1 == num_blocks;
      product.adds = block > 0;
      product.lower = is_last ? spec_.lower : -std::numeric_limits<float>::infinity();
      product.upper = is_last ? spec_.upper : std::numeric_limits<float>::infinity();
      for (int32_t panel = item.first_panel; panel < item.last_panel; ++panel) {
        const int32_t first = first_output(panel);
        product.num_outputs = first_output(panel + 1) - first;
        product.w =
            weight_.floats() + int64_t{first} * num_rows_ + int64_t{first_in_block} * product.num_outputs;
        product.bias = bias_.floats() + first;
        product.y = item.y + first * product.y_stride + first_row * plan.output_width + tile.first_pixel;
        kernels_->multiply(product);
      }
    }
  }
}

}  // namespace compress
