// FbsConv's second half where the processor multiplies matrices: which layers this is for, and how threads
// divide them.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "fbs_conv.h"
#include "fbs_work.h"

namespace compress {

namespace {

// What a tile of places takes for one vector of outputs, in vector multiply-adds: a matrix of each part of x
// and w, by the number of w's, and the sums. And what it takes elsewhere for a pixel.
constexpr int64_t kProductCost[] = {0, 90, 220};
constexpr int64_t kSumsCost = 300;
constexpr int64_t kPixelSumsCost = 10;

// To lay out a row of the input takes so many, and a value one; and the call all in all.
constexpr int64_t kRowCost = 400;
constexpr int64_t kCallCost = 1500;

// Packed weights of a share at a time: they stay in the second cache level.
constexpr int64_t kChunkValues = int64_t{5} << 16;

// Pairs packed for one vector before the next vector's turn, as kPackRows.
constexpr int32_t kPackPairs = 32;

}  // namespace

// What one thread takes for so many tiles and vectors of outputs, in vector multiply-adds.
int64_t FbsConv::matrix_cost(const MatrixPlan& plan, int64_t tiles, int64_t vectors) const {
  const int64_t products = plan.matrices * kProductCost[weights_.matrix_parts()];
  const int64_t rows = tiles * kMatrixPlaces / plan.row_places + 1;
  return tiles * vectors * (products + kSumsCost) + plan.values_of(tiles) + rows * kRowCost + kCallCost +
         pack_cost(plan.channels) * vectors / vectors_;
}

// The plan by which the layer multiplies matrices, null where it does not: the processor or the weights are
// not for it, or it would take longer. Follows from the sizes alone.
std::shared_ptr<const MatrixPlan> FbsConv::matrix_plan(const Geometry& geometry, int32_t channels) const {
  if (kernels_->matrices.multiply == nullptr || depthwise_ || channels == 0 || winners_ == outputs_ ||
      weights_.precision() == Precision::kFloat || (forced_ != Way::kNone && forced_ != Way::kMatrix)) {
    return nullptr;
  }
  std::shared_ptr<const MatrixPlan> plan =
      matrix_plan_.get(window(), geometry.input_height, geometry.input_width, channels, lanes_);
  if (!plan->fits) return nullptr;
  int64_t otherwise = plain_cost(geometry, channels) + geometry.pixels() * vectors_ * kPixelSumsCost;
  if (takes_winograd(geometry, channels)) {
    const WinogradTiles tiles(geometry, kernels_->max_tile);
    otherwise = winograd_cost(tiles.count, vectors_, channels);
  }
  const bool pays = matrix_cost(*plan, plan->num_tiles, vectors_) < otherwise;
  return pays || forced_ == Way::kMatrix ? plan : nullptr;
}

Grid FbsConv::divide_matrices(const MatrixPlan& plan, int threads) const {
  const int64_t all = matrix_cost(plan, plan.num_tiles, vectors_);
  const auto shares = static_cast<int32_t>(std::clamp<int64_t>(all / kWorkPerThread, 1, threads));
  return cheapest_grid(shares, plan.num_units(), vectors_, [&](int64_t stretches, int64_t vectors) {
    return matrix_cost(plan, (plan.num_units() + stretches - 1) / stretches * plan.unit, vectors);
  });
}

void FbsConv::size_matrices(Work* work) const {
  const int64_t of_vector = work->matrix_plan->vector_values * weights_.matrix_parts();
  const int32_t outputs = work->manner.shares / work->manner.stretches;
  const auto of_share = static_cast<int32_t>((vectors_ + outputs - 1) / outputs);
  const auto most = static_cast<int32_t>(kChunkValues / of_vector) / kMatrixVectors * kMatrixVectors;
  work->chunk = std::min(std::max(most, kMatrixVectors), of_share);
  work->slot_floats = work->chunk * of_vector / 2;
  work->last_slot = 0;
}

// Segments are stretches of units of tiles.
void FbsConv::convolve_matrices(const float* x, const Work& work, float* y, const Parallel& parallel) const {
  const MatrixPlan& plan = *work.matrix_plan;
  const int32_t stretches = work.manner.stretches;
  share_grid(
      {work.manner.shares / stretches, stretches}, vectors_,
      [&](int32_t v, int32_t end) { return std::min(work.chunk, end - v); },
      [&](int32_t stretch) {
        return std::min(static_cast<int32_t>(int64_t{plan.num_units()} * stretch / stretches) * plan.unit,
                        plan.num_tiles);
      },
      work.shared);

  MatrixTask task = {};
  task.part_stride = plan.part_stride;
  task.place_stride = plan.place_stride;
  task.runs = plan.runs.data();
  task.num_runs = static_cast<int32_t>(plan.runs.size());
  task.places = plan.places;
  task.row_places = plan.row_places;
  task.row_pixels = plan.row_pixels;
  task.y = y;
  task.k = winners_;
  task.weight_parts = weights_.matrix_parts();
  task.weight_part_stride = plan.vector_values;
  task.vector_stride = task.weight_part_stride * task.weight_parts;
  task.epilogue = epilogue(work);
  task.unit_sums = work.y_sums;
  task.unit_sums_pitch = work.y_sums_pitch;
  task.unit = plan.unit;

  if (work.far) list_rows(work);
  parallel(static_cast<size_t>(work.manner.shares), [&](size_t item) {
    const auto own = static_cast<int32_t>(item);
    LaidBand band = {work.own.of(work.parts, own), 0, 0};
    work.shared.walk(
        own, [&](int32_t number) { compute_matrices(task, work, x, own, number, &band); }, [](int32_t) {});
  });
}

// The segments of a share that nobody has begun.
void FbsConv::compute_matrices(const MatrixTask& task, const Work& work, const float* x, int32_t own,
                               int32_t number, LaidBand* band) const {
  const SharedWork& shared = work.shared;
  for (int32_t s; (s = shared.take_segment(number)) >= 0;) {
    const Segment& segment = shared.segments[s];
    auto* const w = reinterpret_cast<BFloat16*>(work.slot(own, false));
    pack_matrices(work, segment, w);
    Prefetch prefetch, next_weights;
    ask_while_computing(work, s, number, own, &prefetch, &next_weights);
    MatrixTask mine = task;
    mine.prefetch = &prefetch;
    multiply_matrices(mine, work, x, segment, w, segment.first_tile, segment.last_tile, band);
  }
}

// Tiles [first, last) of a segment, a band of them after the other.
void FbsConv::multiply_matrices(MatrixTask task, const Work& work, const float* x, const Segment& segment,
                                const BFloat16* w, int32_t first, int32_t last, LaidBand* band) const {
  const MatrixPlan& plan = *work.matrix_plan;
  const int32_t tiles = plan.band_places / kMatrixPlaces;
  task.x = band->parts;
  for (int32_t begin = first, end; begin < last; begin = end) {
    end = std::min(begin + tiles, last);
    if (begin != band->first || end != band->last) {
      plan.lay_out(kernels_->matrices, x, begin, end, band->parts);
      band->first = begin;
      band->last = end;
    }
    task.first_place = begin * kMatrixPlaces;
    kernels_->matrices.multiply(task, w, segment.vector, segment.width, begin, end);
  }
}

// The winners' weights of a segment, vectors one behind the other.
void FbsConv::pack_matrices(const Work& work, const Segment& segment, BFloat16* to) const {
  const MatrixPlan& plan = *work.matrix_plan;
  const int32_t parts = weights_.matrix_parts();
  const int64_t of_vector = plan.vector_values * parts;
  MatrixPackTask task = {};
  task.part_stride = plan.vector_values;
  task.far = work.far;
  weights_.describe(&task.from);
  task.from.live = work.live;
  task.from.channels = work.channels;
  task.from.taps = taps_;
  task.first_rows = plan.first_rows.data();
  const int32_t pairs = (work.channels + 1) / 2, at_once = std::max(1, kPackPairs / taps_);
  for (int32_t first = 0; first < pairs; first += at_once) {
    for (int32_t v = 0; v < segment.width; ++v) {
      work.describe_steps(segment.vector + v, &task.from);
      task.out = to + v * of_vector;
      kernels_->matrices.pack(task, first, std::min(first + at_once, pairs));
    }
  }
  for (const MatrixPlan::Rows& rows : plan.unused_rows) {
    const auto values = static_cast<size_t>(rows.last - rows.first) * 2 * static_cast<size_t>(lanes_);
    for (int32_t part = 0; part < segment.width * parts; ++part) {
      std::memset(to + part * plan.vector_values + int64_t{rows.first} * 2 * lanes_, 0,
                  sizeof(BFloat16) * values);
    }
  }
}

}  // namespace compress
