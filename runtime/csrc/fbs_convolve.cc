// FbsConv's second half: the winners' weights packed, and the convolution.
#include <algorithm>
#include <atomic>
#include <thread>

#include "fbs_conv.h"
#include "fbs_work.h"

namespace compress {

namespace {

// From so many weights read per call on, they are not in the second cache level when their turn comes. Asking
// for them while computing then gains 10-20 % (192 channels at 8x8: 168 -> 141 microseconds). Where all
// layers together fit the last level, the processor's own guesses serve as well up to larger layers.
constexpr int64_t kFarWeights = int64_t{1} << 15;
constexpr int64_t kFarWeightsOfFew = int64_t{1} << 19;
constexpr int32_t kLineFloats = 16;

// Tasks to cut a convolution into for each thread: enough that they end together though no two take equally
// long.
constexpr int32_t kTasksPerThread = 6;

// Rows of weights packed for one vector before the next vector's turn: what they read stays in the first
// cache level.
constexpr int32_t kPackRows = 64;

// Until `count` has reached `whole`: first busily, since it is a matter of microseconds, then giving way,
// since the thread waited for may have no processor.
void wait_for(int32_t* count, int32_t whole) {
  constexpr int kBusyTurns = 1000;
  const std::atomic_ref counted(*count);
  for (int turn = 0; counted.load(std::memory_order_acquire) < whole; ++turn) {
    if (turn >= kBusyTurns) std::this_thread::yield();
  }
}

}  // namespace

void FbsConv::convolve(const float* x, const Geometry& geometry, const Work& work, float* y,
                       const Parallel& parallel) const {
  const int64_t packed_stride = static_cast<int64_t>(taps_) * work.channels * lanes_;

  ConvTask task = {};
  task.x = x;
  task.y = work.all ? work.sums : y;
  task.vector_stride = work.pack ? packed_stride : vector_stride_;
  task.channel_offsets = work.pack || work.stored ? nullptr : work.channel_offsets;
  task.tap_stride = tap_stride_;
  task.channels = work.channels;
  task.pitch = work.pitch;
  task.k = work.all ? all_vectors_ * lanes_ : winners_;
  task.raw = work.all;
  task.epilogue = {work.bias, work.scale, post_shift_ == nullptr ? nullptr : work.post, spec_.lower,
                   spec_.upper};
  task.regions = geometry.regions.data();
  task.num_regions = static_cast<int32_t>(geometry.regions.size());
  task.input_step_x = static_cast<int32_t>(spec_.strides[1]);
  task.input_step_y = static_cast<int32_t>(spec_.strides[0] * geometry.input_width);
  task.output_width = static_cast<int32_t>(geometry.output_width);

  const int64_t work_size = geometry.tap_pixels * work.channels * work.vectors;
  const int threads = static_cast<int>(
      std::min<int64_t>(parallel.threads(), std::max<int64_t>(1, work_size / kWorkPerThread)));
  if (threads <= 1) {
    convolve_alone(task, geometry, work);
  } else {
    convolve_together(task, geometry, work, threads, parallel);
  }
  if (work.all) {
    kernels_->squeeze(work.sums, task.k, geometry.pixels(), work.steps, work.first_step, task.epilogue,
                      winners_, y);
  }
}

// Channels [begin, end) of a panel, into the slots from `slot` on: a few channels of one vector, then of the
// other, so that both read the source vector they share while it is near.
void FbsConv::pack_panel(const Work& work, int32_t panel, int32_t slot, int32_t begin, int32_t end) const {
  PackTask task = {};
  task.w = weight_.floats();
  task.vector_stride = vector_stride_;
  task.channel_stride = channel_stride_;
  task.tap_stride = tap_stride_;
  task.live = work.live;
  task.channels = work.channels;
  task.taps = taps_;
  const int32_t step = std::max(1, kPackRows / taps_);
  for (int32_t first = begin; first < end; first += step) {
    for (int32_t v = 0; v < work.width(panel); ++v) {
      const int32_t* const steps = work.first_step + 2 * panel + v;
      task.steps = work.steps + steps[0];
      task.num_steps = steps[1] - steps[0];
      task.out = work.packed + static_cast<int64_t>(slot + v) * taps_ * work.channels * lanes_;
      kernels_->pack(task, first, std::min(first + step, end));
    }
  }
}

// True where a panel's winners are whole vectors of channels, as those that always win are when they lie
// first.
bool FbsConv::lies_together(const Work& work, int32_t panel) const {
  const int32_t* const steps = work.first_step + 2 * panel;
  for (int32_t v = 0; v < work.width(panel); ++v) {
    if (steps[v + 1] - steps[v] != 1) return false;
    const int32_t* const lanes = work.steps[steps[v]].lanes;
    const int32_t winners = std::min(lanes_, winners_ - (2 * panel + v) * lanes_);
    for (int32_t i = 0; i < winners; ++i) {
      if (lanes[i] != i) return false;
    }
  }
  return true;
}

// Where a panel's weights are: stored, or in the packed ones from `slot` on. Changes `task` to read them
// there. What a stored vector holds beyond the last winner is computed and not kept.
const float* FbsConv::panel_weights(const Work& work, int32_t panel, int32_t slot, ConvTask* task) const {
  if (!work.pack) return weight_.floats() + 2 * panel * vector_stride_;
  if (!lies_together(work, panel)) return work.packed + slot * task->vector_stride;
  const SqueezeStep* const steps = work.steps + work.first_step[2 * panel];
  task->vector_stride = work.width(panel) == 2 ? (steps[1].source - steps[0].source) * vector_stride_ : 0;
  task->channel_offsets = work.channel_offsets;
  return weight_.floats() + steps[0].source * vector_stride_;
}

// One panel after the other. Alone, a thread has time to ask for what comes next while it computes.
void FbsConv::convolve_alone(ConvTask task, const Geometry& geometry, const Work& work) const {
  const int32_t panels = work.panels();
  Prefetch prefetch = {};
  const int64_t weights = int64_t{taps_} * work.channels * lanes_ * all_vectors_;
  const bool far =
      (work.pack || work.stored) && weights >= (work.weights_are_far ? kFarWeights : kFarWeightsOfFew);
  if (far) {
    task.prefetch = &prefetch;
    prefetch.sources = work.next_sources;
    prefetch.rows = work.weight_rows;
    prefetch.num_rows = taps_ * work.channels;
    for (int32_t c = 0, r = 0; c < work.channels; ++c) {
      for (int32_t t = 0; t < taps_; ++t) work.weight_rows[r++] = work.channel_offsets[c] + t * tap_stride_;
    }
  }
  for (int32_t panel = 0; panel < panels; ++panel) {
    ConvTask own = task;
    const float* const w = panel_weights(work, panel, 0, &own);
    if (w == work.packed) pack_panel(work, panel, 0, 0, work.channels);
    const auto compute = [&](int32_t first_tile, int32_t last_tile) {
      kernels_->conv(own, w, 2 * panel, work.width(panel), first_tile, last_tile);
    };
    if (panel + 1 < panels) {
      if (far) prefetch.num_sources = list_sources(work, panel + 1);
      prefetch.source = prefetch.row = 0;
      compute(0, geometry.num_tiles);
    } else if (work.next == nullptr) {
      own.prefetch = nullptr;
      compute(0, geometry.num_tiles);
    } else {
      // The last panel has time for what the next layer reads first: its predictor, then its first weights.
      own.prefetch = &prefetch;
      prefetch.rows = work.next_lines;
      prefetch.num_sources = 1;
      for (int32_t half = 0; half < 2; ++half) {
        prefetch.num_rows = half == 0 ? list_next_saliency(work) : list_next_weights(work);
        prefetch.sources = half == 0 ? &work.next->saliency_weight : &work.next->weight;
        prefetch.source = prefetch.row = 0;
        compute(geometry.first_tile(half, 2), geometry.first_tile(half + 1, 2));
      }
    }
  }
}

// One list of tasks for all threads, taken in order: first every panel's packing, cut by channels, then every
// panel's tiles. A tile's task waits for its own panel only. Whoever works on that has taken it already, so
// there is always somebody to wait for.
void FbsConv::convolve_together(const ConvTask& task, const Geometry& geometry, const Work& work, int threads,
                                const Parallel& parallel) const {
  const int32_t panels = work.panels();
  const int32_t pack_slices = work.pack ? threads : 0;
  const int32_t wanted = (kTasksPerThread * threads + panels - 1) / panels;
  const int32_t slices = std::clamp(wanted, 1, geometry.num_tiles);
  const int32_t num_packs = panels * pack_slices;
  const int32_t num_tasks = num_packs + panels * slices;
  if (work.pack) std::fill_n(work.pieces_packed, panels, 0);
  std::atomic<int32_t> next_task = 0;
  parallel(static_cast<size_t>(threads), [&](size_t) {
    for (int32_t number; (number = next_task.fetch_add(1)) < num_tasks;) {
      if (number < num_packs) {
        const int32_t panel = number / pack_slices;
        if (lies_together(work, panel)) continue;
        const int64_t slice = number % pack_slices;
        pack_panel(work, panel, 2 * panel, static_cast<int32_t>(work.channels * slice / pack_slices),
                   static_cast<int32_t>(work.channels * (slice + 1) / pack_slices));
        std::atomic_ref(work.pieces_packed[panel]).fetch_add(1, std::memory_order_release);
        continue;
      }
      const int32_t panel = (number - num_packs) / slices;
      const int32_t slice = (number - num_packs) % slices;
      ConvTask own = task;
      const float* const w = panel_weights(work, panel, 2 * panel, &own);
      const bool waits = work.pack && !lies_together(work, panel);
      if (waits) wait_for(&work.pieces_packed[panel], pack_slices);
      kernels_->conv(own, w, 2 * panel, work.width(panel), geometry.first_tile(slice, slices),
                     geometry.first_tile(slice + 1, slices));
    }
  });
}

// Lists the vectors that a panel is packed from, each once, or consists of, and returns their number.
int32_t FbsConv::list_sources(const Work& work, int32_t panel) const {
  int32_t count = 0;
  if (work.stored) {
    for (; count < work.width(panel); ++count) {
      work.next_sources[count] = weight_.floats() + (2 * panel + count) * vector_stride_;
    }
    return count;
  }
  const int32_t* const steps = work.first_step + 2 * panel;
  for (int32_t i = steps[0]; i < steps[work.width(panel)]; ++i) {
    const float* source = weight_.floats() + work.steps[i].source * vector_stride_;
    if (count == 0 || work.next_sources[count - 1] != source) work.next_sources[count++] = source;
  }
  return count;
}

// Lists the lines of the next layer's predictor that its inputs select, as far as they are known, and returns
// their number.
int32_t FbsConv::list_next_saliency(const Work& work) const {
  const bool all = work.next_reads_all || work.next->inputs != outputs_;
  const int32_t rows = all ? work.next->inputs : winners_;
  int32_t count = 0;
  for (int32_t i = 0; i < rows; ++i) {
    const int32_t row = (all ? i : work.winners[i]) * work.next->saliency_pitch;
    for (int32_t o = 0; o < work.next->saliency_pitch; o += kLineFloats) {
      if (count == kMostNextLines) return count;
      work.next_lines[count++] = row + o;
    }
  }
  return count;
}

// The same for the weights that its first panel is packed from.
int32_t FbsConv::list_next_weights(const Work& work) const {
  const bool all = work.next_reads_all || work.next->inputs != outputs_;
  const int32_t rows = all ? work.next->inputs : winners_;
  int32_t count = 0;
  for (int32_t v = 0; v < work.next->weight_sources; ++v) {
    for (int32_t i = 0; i < rows; ++i) {
      const int64_t row =
          v * work.next->vector_stride + int64_t{all ? i : work.winners[i]} * work.next->channel_stride;
      for (int32_t o = 0; o < work.next->channel_stride; o += kLineFloats) {
        if (count == kMostNextLines) return count;
        work.next_lines[count++] = static_cast<int32_t>(row + o);
      }
    }
  }
  return count;
}

}  // namespace compress
