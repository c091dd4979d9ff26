#include "sparse_plan.h"

#include <algorithm>
#include <cstddef>

namespace compress {

namespace {

// Floats of input planes that a band may copy before a lower one is taken: they stay in the second cache
// level together with the rows gathered from them.
constexpr int64_t kMostPlaneFloats = int64_t{1} << 17;

// Planes this many floats apart, or a multiple, share sets of the first cache level.
constexpr int64_t kCacheWayFloats = 512;

// Costs in vector multiply-adds: of gathering one vector of one row, and of copying one vector of a plane.
constexpr double kGatherCost = 4.0;
constexpr double kCopyCost = 4.0;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Vectors of pixels, or as much time, that a band of `rows` takes.
double band_vectors(const SparsePlan& plan, int64_t rows, const KernelTable& kernels) {
  const int64_t pixels = rows * plan.output_width;
  const int64_t rest = pixels % kernels.lanes;
  const double last = rest == 0                    ? 0.0
                      : rest <= kernels.few_pixels ? static_cast<double>(rest) / kernels.max_tile
                                                   : 1.0;
  return static_cast<double>(pixels / kernels.lanes) + last;
}

// Vector multiply-adds, or as much time, of bands of `rows` outputs, times what idle threads lose.
double cost(const SparseSpec& spec, const SparsePlan& plan, int64_t rows, const KernelTable& kernels,
            int threads) {
  const int64_t bands = ceil_div(plan.output_height, rows);
  const int64_t last = plan.output_height - (bands - 1) * rows;
  const double vectors =
      static_cast<double>(bands - 1) * band_vectors(plan, rows, kernels) + band_vectors(plan, last, kernels);
  const double copied = static_cast<double>(bands * (rows + plan.plane_height) * plan.plane_width) *
                        static_cast<double>(plan.planes.size()) / kernels.lanes;
  const double work =
      vectors * static_cast<double>(spec.num_rows()) * (static_cast<double>(spec.outputs()) + kGatherCost) +
      copied * kCopyCost;
  const int64_t items = bands * plan.samples;
  return work * static_cast<double>(ceil_div(items, threads) * threads) / static_cast<double>(items);
}

// Rows of a band: the cheapest number whose planes stay near.
int32_t choose_band(const SparseSpec& spec, const SparsePlan& plan, const KernelTable& kernels, int threads) {
  int64_t best = 1;
  double least = cost(spec, plan, 1, kernels, threads);
  for (int64_t rows = 2; rows <= plan.output_height; ++rows) {
    const int64_t floats =
        (rows + plan.plane_height) * plan.plane_width * static_cast<int64_t>(plan.planes.size());
    if (floats > kMostPlaneFloats) break;
    const double found = cost(spec, plan, rows, kernels, threads);
    if (found <= least) {
      least = found;
      best = rows;
    }
  }
  return static_cast<int32_t>(best);
}

// Cuts the pixels of a band of `rows` into tiles, and these into pieces: where an output row ends, and into
// vectors.
std::vector<SparseTile> cut_tiles(SparsePlan* plan, int64_t rows, const KernelTable& kernels) {
  const int32_t lanes = kernels.lanes;
  const auto width = static_cast<int32_t>(plan->output_width);
  const auto pixels = static_cast<int32_t>(rows * width);
  std::vector<SparseTile> tiles;
  for (int32_t first = 0; first < pixels; first += tiles.back().pixels) {
    SparseTile tile = {first, std::min(plan->tile_pixels, pixels - first),
                       static_cast<int32_t>(plan->pieces.size()), 0};
    // A few pixels behind a whole vector are cheaper alone.
    if (tile.pixels > lanes && tile.pixels <= lanes + kernels.few_pixels) tile.pixels = lanes;
    const int32_t end = first + tile.pixels;
    for (int32_t p = first; p < end; ++tile.num_pieces) {
      const int32_t y = p / width;
      plan->pieces.push_back({p + y * (plan->plane_width - width), p - first});
      const int32_t row_end = plan->plane_width == width ? end : (y + 1) * width;
      p = std::min({end, row_end, p + lanes - (p - first) % lanes});
    }
    tiles.push_back(tile);
  }
  return tiles;
}

}  // namespace

std::vector<SparseRow> sparse_rows(const SparseSpec& spec) {
  std::vector<SparseRow> rows;
  const int64_t taps = spec.taps();
  for (int64_t place = 0; place < spec.channels * taps; ++place) {
    if (!spec.has_row(place)) continue;
    const int64_t tap = place % taps;
    rows.push_back({static_cast<int32_t>(place / taps), static_cast<int32_t>(tap / spec.kernel_shape[1]),
                    static_cast<int32_t>(tap % spec.kernel_shape[1])});
  }
  return rows;
}

SparsePlan make_sparse_plan(const SparseSpec& spec, const std::vector<SparseRow>& rows,
                            const KernelTable& kernels, const Dims& x, int threads) {
  SparsePlan plan = {};
  plan.samples = x[0];
  plan.input_height = x[2];
  plan.input_width = x[3];
  plan.output_height = spec.y().outputs(x[2]);
  plan.output_width = spec.x().outputs(x[3]);
  plan.tile_pixels = 2 * kernels.lanes;

  // Each row's plane, and where in it the band's first output reads.
  const auto stride_y = static_cast<int32_t>(spec.strides[0]);
  const auto stride_x = static_cast<int32_t>(spec.strides[1]);
  const auto dilation_y = static_cast<int32_t>(spec.dilations[0]);
  const auto dilation_x = static_cast<int32_t>(spec.dilations[1]);
  struct Place {
    int32_t plane, y, x;
  };
  std::vector<Place> places;
  size_t of_channel = 0;  // the first plane of the row's channel
  int32_t border_y = 0;
  int32_t border_x = 0;
  for (const SparseRow& row : rows) {
    const int32_t y = row.ky * dilation_y;
    const int32_t x_offset = row.kx * dilation_x;
    if (of_channel < plan.planes.size() && plan.planes[of_channel].channel != row.channel) {
      of_channel = plan.planes.size();
    }
    const SparsePlane wanted = {row.channel, y % stride_y, x_offset % stride_x};
    size_t plane = of_channel;
    while (plane < plan.planes.size() &&
           (plan.planes[plane].y != wanted.y || plan.planes[plane].x != wanted.x)) {
      ++plane;
    }
    if (plane == plan.planes.size()) plan.planes.push_back(wanted);
    places.push_back({static_cast<int32_t>(plane), y / stride_y, x_offset / stride_x});
    border_y = std::max(border_y, y / stride_y);
    border_x = std::max(border_x, x_offset / stride_x);
  }

  plan.plane_width = static_cast<int32_t>(plan.output_width) + border_x;
  plan.plane_height = border_y;  // of the border alone, until the band is chosen
  plan.band_rows = choose_band(spec, plan, kernels, threads);
  plan.num_bands = static_cast<int32_t>(ceil_div(plan.output_height, plan.band_rows));
  plan.num_slices = static_cast<int32_t>(std::max<int64_t>(1, threads / (plan.num_bands * plan.samples)));
  plan.plane_height += plan.band_rows;
  plan.plane_size = int64_t{plan.plane_height} * plan.plane_width;
  if (plan.plane_size % kCacheWayFloats == 0) plan.plane_size += kMaxLanes;
  for (const Place& place : places) {
    plan.row_offsets.push_back(
        static_cast<int32_t>(place.plane * plan.plane_size + int64_t{place.y} * plan.plane_width + place.x));
  }
  plan.tiles = cut_tiles(&plan, plan.band_rows, kernels);
  const int64_t last_rows = plan.output_height - int64_t{plan.num_bands - 1} * plan.band_rows;
  plan.last_tiles = last_rows == plan.band_rows ? plan.tiles : cut_tiles(&plan, last_rows, kernels);
  return plan;
}

}  // namespace compress
