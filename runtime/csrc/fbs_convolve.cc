// FbsConv's second half: the convolution, divided between threads.
#include "caches.h"
#include "fbs_conv.h"
#include "fbs_work.h"

namespace compress {

namespace {

// Pixels this many floats apart, or a multiple, share one set of the first cache level. Where it has few
// ways, a tile of them would evict each other's lines between one value and the next (AMD EPYC, 8 ways, 1024
// channels: 89 instead of 115 GFLOP/s); with more the copy costs 20 % (Intel Xeon, 12 ways).
constexpr int32_t kCacheWayFloats = 1024;
constexpr int kFewWays = 8;

// Planes of so many floats are not in the first cache level, and larger ones not in the second either, when a
// 1x1 layer reads them. Asking for the next tile's pixels while one is computed: 256 channels at 56x56 on one
// thread 10 to 25 % faster, 512 at 28x28 9 % (Intel Xeon).
constexpr int64_t kFarPlane = int64_t{1} << 16;

// Vector multiply-adds that the calling thread is ahead of the others, which begin when they have heard of
// the work: 1.5 microseconds. Where a tile takes 2 of them, it matters who has one more.
constexpr int64_t kHeadStart = 5000;

}  // namespace

Epilogue FbsConv::epilogue(const Work& work) const {
  return {work.bias, work.scale, post_shift_ == nullptr ? nullptr : work.post, spec_.lower, spec_.upper};
}

// All but where it writes, for the whole plane.
ConvTask FbsConv::conv_task(const float* x, const Work& work) const {
  ConvTask task = {};
  task.x = x;
  task.vector_stride = work.pack ? int64_t{taps_} * work.channels * lanes_ : weights_.vector_stride();
  task.channel_offsets = work.pack || work.stored ? nullptr : work.channel_offsets;
  task.tap_stride = weights_.tap_stride();
  task.channels = work.channels;
  task.pitch = work.channels;
  task.k = work.all ? all_vectors_ * lanes_ : winners_;
  task.raw = work.all;
  task.epilogue = epilogue(work);
  task.tiling = work.geometry->tiling();
  task.copies_lines =
      task.tiling.input_step_x * task.pitch % kCacheWayFloats == 0 && first_level_ways() <= kFewWays;
  const Geometry& geometry = *work.geometry;
  task.far_inputs = taps_ == 1 && task.tiling.input_step_x == 1 && work.manner.block == 0 &&
                    geometry.input_height * geometry.input_width * task.pitch >= kFarPlane;
  return task;
}

void FbsConv::convolve(const float* x, const Work& work, float* y, const Parallel& parallel) const {
  const Geometry& geometry = *work.geometry;
  ConvTask task = conv_task(x, work);
  task.y = work.all ? work.sums : y;
  if (!work.all) {
    task.tile_sums = work.y_sums;
    task.tile_sums_pitch = work.y_sums_pitch;
  }

  // Packing a vector's weights, in pixels computed with them.
  const double steps = 1.0 + static_cast<double>(all_vectors_) / vectors_;
  const auto pack_pixels = work.pack ? static_cast<int64_t>(kSqueezeCost * steps * taps_) : 0;
  divide({&geometry, work.vectors, work.manner.shares, work.manner.by_outputs, pack_pixels, work.together,
          kHeadStart / work.channels},
         work.shared.shares, work.shared.segments);
  if (work.far) list_rows(work);
  parallel(static_cast<size_t>(work.manner.shares), [&](size_t share) {
    const auto own = static_cast<int32_t>(share);
    work.shared.walk(
        own, [&](int32_t number) { compute_segments(task, work, own, number); },
        [&](int32_t number) { help(task, work, number); });
  });
  if (work.all) {
    kernels_->squeeze(work.sums, task.k, geometry.pixels(), work.steps, work.first_step, task.epilogue,
                      winners_, y);
  }
}

// From the sums of parts; where all outputs were computed, from the winners' planes.
void FbsConv::finish_y_means(const Sample& sample, const Work& work) const {
  float* const sums = work.y_sums + work.y_sums_parts * work.y_sums_pitch;
  if (work.all) {
    kernels_->abs_sums(sample.y, sample.y_pixels, winners_, nullptr, sums);
  } else {
    kernels_->abs_sums(work.y_sums, work.y_sums_parts, work.y_sums_pitch, nullptr, sums);
  }
  for (int32_t i = 0; i < winners_; ++i) sample.y_means[i] = sums[i] / static_cast<float>(sample.y_pixels);
}

// The segments of a share that nobody has begun. While one is computed, memory is asked for the next one's
// weights; during the last, for what the next layer reads first: its predictor, then its weights.
void FbsConv::compute_segments(const ConvTask& task, const Work& work, int32_t own, int32_t number) const {
  const SharedWork& shared = work.shared;
  for (int32_t s; (s = shared.take_segment(number)) >= 0;) {
    const Segment& segment = shared.segments[s];
    const bool last = shared.is_last(number, s);
    float* const slot = last ? work.slot(number, true) : work.slot(own, false);
    ConvTask mine = task;
    const float* const w = find_weights(work, segment, slot, &mine);
    if (w == slot && work.manner.block > 0) {
      compute_in_blocks(task, work, own, s, last, slot);
      continue;
    }
    if (w == slot) pack(work, segment, 0, work.channels, slot);
    Prefetch prefetch = {};
    if (!last) {
      if (work.far) ask_for_segment(work, shared.segments[s + 1], 0, work.channels, own, &prefetch);
      mine.prefetch = work.far ? &prefetch : nullptr;
      kernels_->conv(mine, w, segment.vector, segment.width, segment.first_tile, segment.last_tile);
      continue;
    }
    shared.open(number);
    if (work.next.reads != nullptr && number == own) {
      mine.prefetch = &prefetch;
      ask_for_next_saliency(work, own, &prefetch);
      take_tiles(mine, work, number, w, (segment.first_tile + segment.last_tile) / 2);
      ask_for_next_weights(work, own, 0, &prefetch);
    }
    take_tiles(mine, work, number, w, segment.last_tile);
  }
}

// A segment, some inputs after the other: few enough that their packed weights, their part of the planes and
// the sums all stay in the first cache level. `last`: of its share.
void FbsConv::compute_in_blocks(ConvTask task, const Work& work, int32_t own, int32_t number, bool last,
                                float* slot) const {
  const Segment& segment = work.shared.segments[number];
  const float* const x = task.x;
  Prefetch next_weights = {}, next_saliency = {}, prefetch = {};
  if (last && work.next.reads != nullptr) {
    ask_for_next_saliency(work, own, &next_saliency);
    ask_for_next_weights(work, own, next_saliency.num_rows, &next_weights);
    next_saliency.then = &next_weights;
    prefetch.then = &next_saliency;
  }
  task.sums = work.own.of(work.block_sums, own);
  task.prefetch = work.far || last ? &prefetch : nullptr;
  const int32_t blocks = (work.channels + work.manner.block - 1) / work.manner.block;
  const auto first_of = [&](int32_t block) {
    return static_cast<int32_t>(int64_t{work.channels} * block / blocks);
  };
  for (int32_t block = 0; block < blocks; ++block) {
    const int32_t begin = first_of(block), end = first_of(block + 1);
    pack(work, segment, begin, end, slot);
    if (work.far && block + 1 < blocks) {
      ask_for_segment(work, segment, end, first_of(block + 2), own, &prefetch);
    } else if (work.far && !last) {
      ask_for_segment(work, work.shared.segments[number + 1], 0, first_of(1), own, &prefetch);
    }
    task.x = x + begin;
    task.channels = end - begin;
    task.vector_stride = int64_t{taps_} * task.channels * lanes_;
    task.begins = block == 0;
    task.ends = block + 1 == blocks;
    kernels_->conv(task, slot, segment.vector, segment.width, segment.first_tile, segment.last_tile);
  }
}

void FbsConv::take_tiles(const ConvTask& task, const Work& work, int32_t number, const float* w,
                         int32_t end) const {
  const Segment& segment = work.shared.last_segment(number);
  work.shared.take_tiles(number, end, [&](int32_t first, int32_t last) {
    kernels_->conv(task, w, segment.vector, segment.width, first, last);
  });
}

// Tiles of the last segment of another thread's share.
void FbsConv::help(const ConvTask& task, const Work& work, int32_t number) const {
  const Segment& segment = work.shared.last_segment(number);
  ConvTask mine = task;
  const float* const w = find_weights(work, segment, work.slot(number, true), &mine);
  take_tiles(mine, work, number, w, segment.last_tile);
}

}  // namespace compress
