// FbsConvInt8's second half where a depthwise convolution follows, as in fbs_bands.cc. Between the two, bytes
// are kept as the floats that they are: their products with whole weights are exact there.
#include <algorithm>

#include "int8_conv.h"
#include "int8_work.h"

namespace compress {

void FbsConvInt8::convolve_bands(const uint8_t* x, const Geometry& geometry, const Work& work, uint8_t* y,
                                 const Parallel& parallel) const {
  const int32_t stretches = work.manner->plan->num_stretches();
  share_bands({work.manner->shares / stretches, stretches}, vectors_, nullptr, work.shared);
  Int8ConvTask task = conv_task(x, geometry, work);
  task.floats_zero = static_cast<float>(spec_.made().zero);
  parallel(static_cast<size_t>(work.manner->shares), [&](size_t share) {
    const auto own = static_cast<int32_t>(share);
    work.shared.walk(own, [&](int32_t number) { compute_bands(task, work, own, number, y); }, [](int32_t) {});
  });
}

// The segments of a share that nobody has begun, each a stretch of rows.
void FbsConvInt8::compute_bands(const Int8ConvTask& task, const Work& work, int32_t own, int32_t share,
                                uint8_t* y) const {
  const BandPlan& plan = *work.manner->plan;
  const DepthwiseSpec& spec = spec_.depthwise->spec;
  float* const rows = work.own.of(work.filter_rows, own);
  for (int32_t s; (s = work.shared.take_segment(share)) >= 0;) {
    const Segment& segment = work.shared.segments[s];
    const int32_t first = segment.vector * lanes_, pitch = segment.width * lanes_;
    const Slot slot = {own, 0};
    pack_segment(work, segment, slot);
    const int8_t* const w = segment_weights(work, segment, slot);
    Int8ConvTask mine = task;
    mine.floats = work.own.of(work.band_memory, own);
    mine.k = pitch;
    mine.scale += first;
    mine.bias += first;
    mine.start = work.slot_start(slot);

    const int32_t channels = std::min(pitch, winners_ - first);
    if (channels < pitch) std::fill_n(rows, filters_.floats(pitch), 0.0f);
    filters_.gather(work.winners + first, channels, pitch, rows);
    Int8DepthwiseTask behind = {};
    behind.x = mine.floats;
    behind.y = y + first;
    behind.w = rows;
    behind.scale = rows + int64_t{filter_taps_} * pitch;
    behind.shift = behind.scale + pitch;
    behind.post = behind.shift + pitch;
    behind.w_pitch = behind.pitch = pitch;
    behind.channels = channels;
    behind.k = winners_;
    behind.lower = spec.lower / spec_.y.step;
    behind.upper = spec.upper / spec_.y.step;

    for_each_band(plan, segment, plan.between_width * pitch, mine.floats, [&](const Band& band) {
      mine.tiling = band.made.tiling();
      if (mine.start != nullptr) kernels_->int8.start(mine, w, segment.width);
      kernels_->int8.conv(mine, w, 0, segment.width, 0, band.made.num_tiles);
      behind.tiling = band.read.tiling();
      kernels_->int8.depthwise(behind, 0, band.read.num_tiles);
    });
  }
}

}  // namespace compress
