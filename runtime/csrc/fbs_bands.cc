// FbsConv's second half where a depthwise convolution follows: band by band, divided between threads.
#include <algorithm>

#include "fbs_conv.h"
#include "fbs_work.h"

namespace compress {

BandShape FbsConv::band_shape() const {
  return {
      window(), depthwise_->window(), kSegmentVectors * lanes_, {kernels_->max_tile}, {kernels_->max_tile}};
}

void FbsConv::convolve_bands(const float* x, const Work& work, float* y, const Parallel& parallel) const {
  const int32_t stretches = work.plan->num_stretches();
  share_bands({work.manner.shares / stretches, stretches}, vectors_, work.together, work.shared);
  if (work.far) list_rows(work);
  const ConvTask task = conv_task(x, work);
  parallel(static_cast<size_t>(work.manner.shares), [&](size_t share) {
    const auto own = static_cast<int32_t>(share);
    work.shared.walk(own, [&](int32_t number) { compute_bands(task, work, own, number, y); }, [](int32_t) {});
  });
}

// The segments of a share that nobody has begun, each a stretch of rows: a band of them is made in memory of
// this thread, and the depthwise convolution reads it from there.
void FbsConv::compute_bands(const ConvTask& task, const Work& work, int32_t own, int32_t number,
                            float* y) const {
  float* const memory = work.own.of(work.band_memory, own);
  float* const rows = work.own.of(work.depthwise_rows, own);
  for (int32_t s; (s = work.shared.take_segment(number)) >= 0;) {
    const Segment& segment = work.shared.segments[s];
    const int32_t first = segment.vector * lanes_, pitch = segment.width * lanes_;
    ConvTask mine = task;
    float* const slot = work.slot(own, false);
    const float* const w = find_weights(work, segment, slot, &mine);
    if (w == slot) pack(work, segment, 0, work.channels, slot);

    Prefetch prefetch, next_weights;
    ask_while_computing(work, s, number, own, &prefetch, &next_weights);
    mine.prefetch = &prefetch;
    mine.k = pitch;
    mine.epilogue.bias += first;
    mine.epilogue.scale += first;
    if (mine.epilogue.post != nullptr) mine.epilogue.post += first;

    const int32_t channels = std::min(pitch, winners_ - first);
    if (channels < pitch) std::fill_n(rows, work.depthwise_floats, 0.0f);
    depthwise_->filters().gather(work.winners + first, channels, pitch, rows);
    DepthwiseTask behind = depthwise_->task(rows, pitch);
    behind.x = memory;
    behind.y = y + first;
    behind.channels = channels;
    behind.pitch = pitch;
    behind.k = winners_;
    if (work.y_sums != nullptr) {
      behind.row_sums = work.y_sums + first;
      behind.row_sums_pitch = work.y_sums_parts > 1 ? work.y_sums_pitch : 0;
    }

    for_each_band(*work.plan, segment, work.plan->between_width * pitch, memory, [&](const Band& band) {
      mine.y = memory;
      mine.tiling = band.made.tiling();
      kernels_->conv(mine, w, 0, segment.width, 0, band.made.num_tiles);
      behind.tiling = band.read.tiling();
      kernels_->depthwise(behind, 0, band.read.num_tiles);
    });
  }
}

}  // namespace compress
