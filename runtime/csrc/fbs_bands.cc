// FbsConv's second half where a depthwise convolution follows: band by band, divided between threads.
#include <algorithm>
#include <cstring>

#include "fbs_conv.h"
#include "fbs_work.h"

namespace compress {

// Threads divide the vectors of outputs, and where planes are large their rows too, which costs the rows that
// both sides of a cut need. A pair of vectors reads the inputs as often as one.
void FbsConv::divide_bands(const Window& second, const Geometry& geometry, Manner* manner) const {
  const Axis& y = second.y;
  const int64_t rows = y.outputs(geometry.output_height);
  const bool banded = comes_in_bands(window(), geometry.input_height, geometry.input_width);
  const int64_t twice = std::max<int64_t>(0, (y.kernel - 1) * y.dilation + 1 - y.stride);
  const int64_t most = banded ? std::min<int64_t>(manner->shares, rows) : 1;
  int64_t least = 0, best_groups = 1;
  for (int64_t stretches = 1; stretches <= most; ++stretches) {
    const int64_t groups = std::min<int64_t>(manner->shares / stretches, vectors_);
    const int64_t vectors = (vectors_ + groups - 1) / groups;
    const int64_t made = (rows + stretches - 1) / stretches * y.stride + (stretches == 1 ? 0 : twice);
    const int64_t cost = made * (5 * vectors + vectors % 2);
    if (least == 0 || cost < least) {
      least = cost;
      best_groups = groups;
      manner->stretches = static_cast<int32_t>(stretches);
    }
  }
  manner->shares = static_cast<int>(best_groups * manner->stretches);
  manner->by_outputs = best_groups > 1;
  manner->block = 0;
}

void FbsConv::convolve_bands(const float* x, const Work& work, float* y, const Parallel& parallel) const {
  const int32_t stretches = work.plan->num_stretches();
  const int32_t groups = work.manner.shares / stretches;
  int32_t count = 0;
  for (int32_t i = 0; i < work.manner.shares; ++i) {
    Share& share = work.shared.shares[i];
    share = {};
    share.first = share.next = count;
    const int32_t group = i / stretches, stretch = i % stretches;
    const int32_t end = vectors_ * (group + 1) / groups;
    for (int32_t v = vectors_ * group / groups; v < end; v += work.shared.segments[count - 1].width) {
      work.shared.segments[count++] = {v, segment_width(v, end, work.together), stretch, stretch + 1};
    }
    share.last = count;
  }
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

    Prefetch prefetch = {}, next_weights = {};
    if (s + 1 < work.shared.shares[number].last) {
      if (work.far) ask_for_segment(work, work.shared.segments[s + 1], 0, work.channels, own, &prefetch);
    } else if (work.next.reads != nullptr && number == own) {
      ask_for_next_saliency(work, own, &prefetch);
      ask_for_next_weights(work, own, prefetch.num_rows, &next_weights);
      prefetch.then = &next_weights;
    }
    mine.prefetch = &prefetch;
    mine.k = pitch;
    mine.epilogue.bias += first;
    mine.epilogue.scale += first;
    if (mine.epilogue.post != nullptr) mine.epilogue.post += first;

    const int32_t channels = std::min(pitch, winners_ - first);
    if (channels < pitch) std::fill_n(rows, work.depthwise_floats, 0.0f);
    depthwise_->gather(work.winners + first, channels, pitch, rows);
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

    const int64_t row_floats = work.plan->between_width * pitch;
    const int32_t end = work.plan->first_band[static_cast<size_t>(segment.last_tile)];
    for (int32_t b = work.plan->first_band[static_cast<size_t>(segment.first_tile)]; b < end; ++b) {
      const Band& band = work.plan->bands[static_cast<size_t>(b)];
      std::memmove(memory, memory + band.kept_from * row_floats,
                   sizeof(float) * static_cast<size_t>(band.kept * row_floats));
      mine.y = memory;
      mine.tiling = band.made.tiling();
      kernels_->conv(mine, w, 0, segment.width, 0, band.made.num_tiles);
      behind.tiling = band.read.tiling();
      kernels_->depthwise(behind, 0, band.read.num_tiles);
    }
  }
}

}  // namespace compress
