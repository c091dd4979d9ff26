// FbsConv's second half where Winograd's minimal filtering takes fewer products than the convolution: which
// layers these are, and how threads divide them.
#include <algorithm>
#include <cstdint>

#include "fbs_conv.h"
#include "fbs_work.h"

namespace compress {

namespace {

// What a transformation of one vector takes, in vector multiply-adds: of a patch, of a row of weights, and of
// a tile's products, each of which is stored and loaded.
constexpr int64_t kPatchCost = 64;
constexpr int64_t kRowCost = 110;
constexpr int64_t kTileCost = 100;

// Where a share's patches take up to so many floats, they may be transformed once and kept, while the weights
// of two vectors are made at a time: together little memory, which stays in the second cache level from layer
// to layer.
constexpr int64_t kKeptFloats = int64_t{1} << 17;

// Elsewhere patches are transformed for as many vectors at a time as have so many floats of transformed
// weights, but for so many at least.
constexpr int64_t kChunkFloats = int64_t{9} << 15;
constexpr int32_t kLeastChunk = 4;

// Groups of tiles come in multiples of so many where there are as many, so that threads have equally many.
constexpr int32_t kEvenGroups = 4;

// Groups at a share's end that others leave to its own thread: they would have to fetch what it has made.
constexpr int32_t kLeftToOwner = 3;

constexpr int32_t kTaps = 9;

// Rows packed before they are transformed: what is written between stays in the first cache level.
constexpr int32_t kRowsAtATime = 7;

// An odd number of rows, so that those of one channel do not share a set of the first cache level.
int64_t product_stride(int32_t channels, int32_t lanes) { return int64_t{channels | 1} * lanes; }

int64_t weight_stride(int32_t channels, int32_t lanes) {
  return kWinogradProducts * product_stride(channels, lanes);
}

}  // namespace

WinogradTiles::WinogradTiles(const Geometry& geometry, int32_t max_tile)
    : per_row(static_cast<int32_t>((geometry.output_width + 1) / 2)),
      count(per_row * static_cast<int32_t>((geometry.output_height + 1) / 2)),
      groups((count + max_tile - 1) / max_tile) {
  if (groups >= kEvenGroups) groups = (groups + kEvenGroups - 1) / kEvenGroups * kEvenGroups;
}

// What one thread takes for so many tiles and vectors of outputs, in vector multiply-adds.
int64_t FbsConv::winograd_cost(int64_t tiles, int64_t vectors, int32_t channels) const {
  const int64_t patches = (channels + lanes_ - 1) / lanes_;
  const int64_t of_tile =
      vectors * (kWinogradProducts * int64_t{channels} + kTileCost) + patches * kPatchCost;
  return tiles * of_tile + vectors * channels * kRowCost + pack_cost(channels) * vectors / vectors_;
}

// A pure function of the sizes: on any number of threads a layer goes the same way.
bool FbsConv::takes_winograd(const Geometry& geometry, int32_t channels) const {
  const Window way = window();
  const auto plain = [](const Axis& axis) {
    return axis.kernel == 3 && axis.stride == 1 && axis.dilation == 1;
  };
  if (!plain(way.y) || !plain(way.x) || depthwise_ || channels == 0) return false;
  if (forced_ != Way::kNone) return forced_ == Way::kWinograd;
  const WinogradTiles tiles(geometry, kernels_->max_tile);
  return winograd_cost(tiles.count, vectors_, channels) < plain_cost(geometry, channels);
}

// Threads divide the tiles, the outputs or both: every one transforms the patches and the weights that it
// needs.
Grid FbsConv::divide_winograd(const Geometry& geometry, int32_t channels, int threads) const {
  const WinogradTiles tiles(geometry, kernels_->max_tile);
  const int64_t all = winograd_cost(tiles.count, vectors_, channels);
  const auto shares = static_cast<int32_t>(std::clamp<int64_t>(all / kWorkPerThread, 1, threads));
  // Few sums at a time hide no latency: a vector that has no second one takes half as long again.
  const bool small_groups = tiles.count < int64_t{tiles.groups} * kernels_->max_tile * 3 / 4;
  return cheapest_grid(shares, tiles.groups, vectors_, [&](int64_t stretches, int64_t vectors) {
    const int64_t groups = (tiles.groups + stretches - 1) / stretches;
    const int64_t of_share = (groups * tiles.count + tiles.groups - 1) / tiles.groups;
    const int64_t cost = winograd_cost(of_share, vectors, channels);
    return small_groups ? cost + vectors % 2 * of_share * kWinogradProducts * channels / 2 : cost;
  });
}

void FbsConv::size_winograd(Work* work) const {
  work->tiles = WinogradTiles(*work->geometry, kernels_->max_tile);
  const WinogradTiles& tiles = work->tiles;
  const int32_t channels = work->channels;
  const int32_t outputs = work->manner.shares / work->manner.stretches;
  work->patch_pitch = static_cast<int32_t>((channels + lanes_ - 1) / lanes_ * lanes_);
  const int64_t largest = (tiles.count + tiles.groups - 1) / tiles.groups;
  work->group_floats = kWinogradProducts * patches_stride(largest, work->patch_pitch);
  const int64_t groups = (tiles.groups + work->manner.stretches - 1) / work->manner.stretches;
  const int64_t kept = groups * work->group_floats;

  const int64_t of_vector = weight_stride(channels, lanes_);
  const auto of_share = static_cast<int32_t>((vectors_ + outputs - 1) / outputs);
  const auto most = static_cast<int32_t>(kChunkFloats / of_vector) / kSegmentVectors * kSegmentVectors;
  work->chunk = std::min(std::max(most, kLeastChunk), of_share);
  work->keeps_patches = kept <= kKeptFloats &&
                        (work->chunk < of_share ||
                         kept + kSegmentVectors * of_vector < work->group_floats + work->chunk * of_vector);
  if (work->keeps_patches) work->chunk = std::min(kSegmentVectors, of_share);
  work->patches_floats = work->keeps_patches ? kept : work->group_floats;
  work->slot_floats = work->chunk * of_vector;
  work->last_slot = work->manner.shares > 1 && work->chunk < of_share ? work->slot_floats : 0;
}

// Segments are stretches of groups of tiles.
void FbsConv::convolve_winograd(const float* x, const Work& work, float* y, const Parallel& parallel) const {
  const Geometry& geometry = *work.geometry;
  const WinogradTiles& tiles = work.tiles;
  const int32_t stretches = work.manner.stretches;
  share_grid(
      {work.manner.shares / stretches, stretches}, vectors_,
      [&](int32_t v, int32_t end) { return std::min(work.chunk, end - v); },
      [&](int32_t stretch) { return static_cast<int32_t>(int64_t{tiles.groups} * stretch / stretches); },
      work.shared);

  WinogradTask task = {};
  task.x = x;
  task.channels = task.pitch = work.channels;
  task.patch_pitch = work.patch_pitch;
  task.input_height = static_cast<int32_t>(geometry.input_height);
  task.input_width = static_cast<int32_t>(geometry.input_width);
  task.pad_top = static_cast<int32_t>(spec_.y().pad_begin);
  task.pad_left = static_cast<int32_t>(spec_.x().pad_begin);
  task.y = y;
  task.k = winners_;
  task.output_height = static_cast<int32_t>(geometry.output_height);
  task.output_width = static_cast<int32_t>(geometry.output_width);
  task.row_tiles = tiles.per_row;
  task.product_stride = product_stride(work.channels, lanes_);
  task.vector_stride = weight_stride(work.channels, lanes_);
  task.epilogue = epilogue(work);
  task.tile_sums = work.y_sums;
  task.tile_sums_pitch = work.y_sums_pitch;

  if (work.far) list_rows(work);
  parallel(static_cast<size_t>(work.manner.shares), [&](size_t item) {
    const auto own = static_cast<int32_t>(item);
    Patches patches = {work.own.of(work.patches, own), -1, 0, 0};
    work.shared.walk(
        own, [&](int32_t number) { compute_winograd(task, work, own, number, &patches); },
        [&](int32_t number) {
          const Segment& segment = work.shared.last_segment(number);
          take_winograd_tiles(task, work, number, segment, work.slot(number, true),
                              segment.last_tile - kLeftToOwner, &patches);
        });
  });
}

void FbsConv::compute_winograd(const WinogradTask& task, const Work& work, int32_t own, int32_t number,
                               Patches* patches) const {
  const SharedWork& shared = work.shared;
  for (int32_t s; (s = shared.take_segment(number)) >= 0;) {
    const Segment& segment = shared.segments[s];
    const bool last = shared.is_last(number, s);
    float* const slot = last ? work.slot(number, true) : work.slot(own, false);
    transform_weights(work, segment, slot);
    WinogradTask mine = task;
    Prefetch prefetch = {};
    mine.prefetch = &prefetch;
    if (!last) {
      if (work.far) ask_for_segment(work, shared.segments[s + 1], 0, work.channels, own, &prefetch);
      compute_winograd_tiles(mine, work, segment, slot, segment.first_tile, segment.last_tile, patches);
      continue;
    }
    shared.open(number);
    if (work.next.reads != nullptr && number == own) {
      ask_for_next_saliency(work, own, &prefetch);
      take_winograd_tiles(mine, work, number, segment, slot, (segment.first_tile + segment.last_tile) / 2,
                          patches);
      ask_for_next_weights(work, own, 0, &prefetch);
    }
    take_winograd_tiles(mine, work, number, segment, slot, segment.last_tile, patches);
  }
}

// The winners' weights of a segment: packed some rows at a time, then transformed.
void FbsConv::transform_weights(const Work& work, const Segment& segment, float* to) const {
  alignas(64) float rows[kTaps * kRowsAtATime * kMaxLanes];
  PackTask task = {};
  weights_.describe(&task);
  task.taps = kTaps;
  task.out = rows;
  const int64_t stride = product_stride(work.channels, lanes_);
  for (int32_t first = 0; first < work.channels; first += kRowsAtATime) {
    task.live = work.live + first;
    task.channels = std::min(kRowsAtATime, work.channels - first);
    for (int32_t v = 0; v < segment.width; ++v) {
      work.describe_steps(segment.vector + v, &task);
      kernels_->pack(task, 0, task.channels);
      kernels_->winograd_weights(rows, int64_t{task.channels} * lanes_, task.channels,
                                 to + v * weight_stride(work.channels, lanes_) + int64_t{first} * lanes_,
                                 stride);
    }
  }
}

// Groups [first, last).
void FbsConv::compute_winograd_tiles(const WinogradTask& task, const Work& work, const Segment& segment,
                                     const float* w, int32_t first, int32_t last, Patches* patches) const {
  const WinogradTiles& tiles = work.tiles;
  if (!work.keeps_patches || patches->stretch != segment.first_tile) {
    *patches = {patches->memory, segment.first_tile, first, first};
  }
  for (int32_t group = first; group < last; ++group) {
    const int32_t begin = tiles.first_tile(group), end = tiles.first_tile(group + 1);
    float* const of_group =
        patches->memory + (work.keeps_patches ? (group - segment.first_tile) * work.group_floats : 0);
    if (!work.keeps_patches || !patches->has(group)) {
      kernels_->winograd_inputs(task, begin, end, of_group);
      patches->add(group);
    }
    for (int32_t v = 0; v < segment.width; v += kSegmentVectors) {
      kernels_->winograd(task, of_group, w + v * task.vector_stride, segment.vector + v,
                         std::min(kSegmentVectors, segment.width - v), begin, end, group);
    }
  }
}

void FbsConv::take_winograd_tiles(const WinogradTask& task, const Work& work, int32_t number,
                                  const Segment& segment, const float* w, int32_t end,
                                  Patches* patches) const {
  work.shared.take_tiles(number, end, [&](int32_t first, int32_t last) {
    compute_winograd_tiles(task, work, segment, w, first, last, patches);
  });
}

}  // namespace compress
