// FbsConvInt8's second half: the winners' weights packed, and the convolution.
#include <algorithm>

#include "int8_conv.h"
#include "int8_work.h"

namespace compress {

namespace {

// Packing one source vector's four channels for one tap costs about this many vectors of products.
constexpr double kPackCost = 4;

// From so many bytes of weights on, they are asked for before they are packed.
constexpr int64_t kFarWeights = int64_t{1} << 18;

}  // namespace

// The weights of one vector of winners; `rows` as Int8PackTask has it.
void FbsConvInt8::pack(const Work& work, int32_t vector, int8_t* rows, int8_t* out) const {
  Int8PackTask task = {};
  task.w = reinterpret_cast<const int8_t*>(weight_.data());
  task.all_channels = inputs_;
  task.channels = work.channels;
  task.taps = taps_;
  task.out = out;
  if (kernels_->int8.weight_rows) {
    const bool whole = work.channels == inputs_ && inputs_ % kGroup == 0;
    task.winners = work.winners + vector * lanes_;
    task.outputs = std::min(lanes_, winners_ - vector * lanes_);
    task.live_bits = whole ? nullptr : work.live_bits;
    task.rows = rows;
    task.row_pitch = pack_row_pitch(work.channels);
  } else {
    task.vector_stride = static_cast<int64_t>(inputs_) * taps_ * lanes_;
    task.live = work.live;
    task.steps = work.steps + work.first_step[vector];
    task.num_steps = work.first_step[vector + 1] - work.first_step[vector];
    task.far = task.vector_stride * all_vectors_ >= kFarWeights;
  }
  kernels_->int8.pack(task);
}

// All but where it writes, and of what plane.
Int8ConvTask FbsConvInt8::conv_task(const uint8_t* x, const Geometry& geometry, const Work& work) const {
  Int8ConvTask task = {};
  task.x = x;
  task.x_end = x + geometry.input_height * geometry.input_width * work.groups * kGroup;
  task.vector_stride = work.vector_bytes;
  task.groups = work.groups;
  task.pitch = work.groups * kGroup;
  task.k = winners_;
  task.scale = work.scale;
  task.bias = work.bias;
  task.lower = lower_;
  task.upper = upper_;
  task.input_zero = static_cast<int32_t>(spec_.x.zero);
  return task;
}

void FbsConvInt8::convolve(const uint8_t* x, const Geometry& geometry, const Work& work, uint8_t* y,
                           const Parallel& parallel) const {
  Int8ConvTask task = conv_task(x, geometry, work);
  task.y = y;
  task.tiling = geometry.tiling();

  // Packing a vector's weights, in pixels computed with them.
  const double steps = 1.0 + static_cast<double>(all_vectors_) / vectors_;
  const auto pack_pixels =
      work.stored ? 0 : static_cast<int64_t>(kPackCost * steps * taps_ * kernels_->int8.speed);
  const SharedWork& shared = work.shared;
  divide({&geometry, vectors_, shared.count, work.manner->by_outputs, pack_pixels}, shared.shares,
         shared.segments);
  parallel(static_cast<size_t>(shared.count), [&](size_t number) {
    const auto own = static_cast<int32_t>(number);
    shared.walk(
        own, [&](int32_t share) { compute_segments(task, work, own, share); },
        [&](int32_t share) { take_tiles(task, work, share); });
  });
}

// The weights of a segment: stored, or packed in `slot`.
const int8_t* FbsConvInt8::segment_weights(const Work& work, const Segment& segment, Slot slot) const {
  if (!work.stored) return work.slot_weights(slot);
  return reinterpret_cast<const int8_t*>(whole_.data()) + segment.vector * work.vector_bytes;
}

void FbsConvInt8::pack_segment(const Work& work, const Segment& segment, Slot slot) const {
  for (int32_t v = 0; v < segment.width && !work.stored; ++v)
    pack(work, segment.vector + v, work.slot_rows(slot), work.slot_weights(slot) + v * work.vector_bytes);
}

// The segments of a share that nobody has begun.
void FbsConvInt8::compute_segments(const Int8ConvTask& task, const Work& work, int32_t own,
                                   int32_t share) const {
  const SharedWork& shared = work.shared;
  for (int32_t s; (s = shared.take_segment(share)) >= 0;) {
    const Segment& segment = shared.segments[s];
    const bool last = shared.is_last(share, s);
    const Slot slot = last ? shared.slot(share, true) : shared.slot(own, false);
    const int8_t* const w = segment_weights(work, segment, slot);
    pack_segment(work, segment, slot);
    Int8ConvTask mine = task;
    mine.start = work.slot_start(slot);
    if (mine.start != nullptr) kernels_->int8.start(mine, w, segment.width);
    if (!last) {
      kernels_->int8.conv(mine, w, segment.vector, segment.width, segment.first_tile, segment.last_tile);
    } else {
      shared.open(share);
      take_tiles(task, work, share);
    }
  }
}

// Tiles of a share's last segment, whose weights are ready.
void FbsConvInt8::take_tiles(const Int8ConvTask& task, const Work& work, int32_t share) const {
  const Segment& segment = work.shared.last_segment(share);
  const Slot slot = work.shared.slot(share, true);
  Int8ConvTask mine = task;
  mine.start = work.slot_start(slot);
  const int8_t* const w = segment_weights(work, segment, slot);
  work.shared.take_tiles(share, segment.last_tile, [&](int32_t first, int32_t last) {
    kernels_->int8.conv(mine, w, segment.vector, segment.width, first, last);
  });
}

}  // namespace compress
