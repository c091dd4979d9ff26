// Where FbsConv finds the weights of a segment: stored, or squeezed together for this input.
#include <algorithm>

#include "fbs_conv.h"
#include "fbs_work.h"

namespace compress {

namespace {

// Rows of weights packed for one vector before the next vector's turn: what they read stays in the first
// cache level.
constexpr int32_t kPackRows = 64;

}  // namespace

// Channels [begin, end), a few of one vector, then of the other, so that both read the source vector they
// share while it is near. The vectors lie one behind the other.
void FbsConv::pack(const Work& work, const Segment& segment, int32_t begin, int32_t end,
                   float* packed) const {
  PackTask task = {};
  weights_.describe(&task);
  task.live = work.live + begin;
  task.channels = end - begin;
  task.taps = taps_;
  const int32_t rows = std::max(1, kPackRows / taps_);
  for (int32_t first = 0; first < task.channels; first += rows) {
    for (int32_t v = 0; v < segment.width; ++v) {
      work.describe_steps(segment.vector + v, &task);
      task.out = packed + int64_t{v} * taps_ * task.channels * lanes_;
      kernels_->pack(task, first, std::min(first + rows, task.channels));
    }
  }
}

// True where a vector's winners are a whole vector of channels, as those that always win are when they lie
// first.
bool FbsConv::lies_together(const Work& work, int32_t vector) const {
  const int32_t* const steps = work.first_step + vector;
  if (steps[1] - steps[0] != 1) return false;
  const int32_t* const lanes = work.steps[steps[0]].lanes;
  const int32_t winners = std::min(lanes_, winners_ - vector * lanes_);
  for (int32_t i = 0; i < winners; ++i) {
    if (lanes[i] != i) return false;
  }
  return true;
}

// Two and two vectors, from the first on: how threads divide them must not change by which weights an output
// is computed, since the order of its sum follows from that.
void FbsConv::find_together(const Work& work) const {
  for (int32_t v = 0; v < vectors_; v += kSegmentVectors) {
    const int32_t end = std::min(v + kSegmentVectors, vectors_);
    bool together = true;
    for (int32_t i = v; i < end; ++i) together = together && lies_together(work, i);
    std::fill(work.together + v, work.together + end, together);
  }
}

// Where a segment's weights are: stored, or packed in `slot`. Changes `task` to read them there.
// What a stored vector holds beyond the last winner is computed and not kept.
const float* FbsConv::find_weights(const Work& work, const Segment& segment, const float* slot,
                                   ConvTask* task) const {
  if (!work.pack) return weights_.floats() + segment.vector * weights_.vector_stride();
  if (work.together == nullptr || !work.together[segment.vector]) return slot;
  const SqueezeStep* const steps = work.steps + work.first_step[segment.vector];
  const int64_t vector_stride = weights_.vector_stride();
  task->vector_stride = segment.width == 2 ? (steps[1].source - steps[0].source) * vector_stride : 0;
  task->channel_offsets = work.channel_offsets;
  return weights_.floats() + steps[0].source * vector_stride;
}

}  // namespace compress
