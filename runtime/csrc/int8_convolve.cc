// FbsConvInt8's second half: the winners' weights packed, and the convolution.
#include <algorithm>
#include <atomic>

#include "int8_conv.h"
#include "int8_work.h"
#include "wait.h"

namespace compress {

namespace {

// Parts of the plane that each thread gets, so that they end together.
constexpr int32_t kSlicesPerThread = 3;

// From so many bytes of weights on, they are asked for before they are packed.
constexpr int64_t kFarWeights = int64_t{1} << 18;

}  // namespace

// Groups [first, last) of one vector of winners.
void FbsConvInt8::pack(const Work& work, int32_t vector, int8_t* out, int32_t first, int32_t last) const {
  Int8PackTask task = {};
  task.w = reinterpret_cast<const int8_t*>(weight_.data());
  task.vector_stride = static_cast<int64_t>(inputs_) * taps_ * lanes_;
  task.live = work.live;
  task.channels = work.channels;
  task.taps = taps_;
  task.steps = work.steps + work.first_step[vector];
  task.num_steps = work.first_step[vector + 1] - work.first_step[vector];
  task.far = task.vector_stride * all_vectors_ >= kFarWeights;
  task.out = out;
  kernels_->int8.pack(task, first, last);
}

void FbsConvInt8::convolve(const uint8_t* x, const Geometry& geometry, const Work& work, uint8_t* y,
                           const Parallel& parallel) const {
  Int8ConvTask task = {};
  task.x = x;
  task.y = y;
  task.vector_stride = work.vector_bytes;
  task.groups = work.groups;
  task.pitch = work.groups * kGroup;
  task.k = winners_;
  task.scale = work.scale;
  task.bias = work.bias;
  task.lower = lower_;
  task.upper = upper_;
  task.start = work.start;
  task.start_pitch = vectors_ * lanes_;
  task.input_zero = static_cast<int32_t>(spec_.x.zero);
  task.regions = geometry.regions.data();
  task.num_regions = static_cast<int32_t>(geometry.regions.size());
  task.input_step_x = static_cast<int32_t>(spec_.layer.strides[1]);
  task.input_step_y = static_cast<int32_t>(spec_.layer.strides[0] * geometry.input_width);
  task.output_width = static_cast<int32_t>(geometry.output_width);

  if (work.threads <= 1) {
    convolve_alone(task, geometry, work);
  } else {
    convolve_together(task, geometry, work, parallel);
  }
}

// The weights of panel `panel`: stored, or in the packed ones from vector `slot` on.
const int8_t* FbsConvInt8::panel_weights(const Work& work, int32_t panel, int32_t slot) const {
  if (work.stored) return reinterpret_cast<const int8_t*>(whole_.data()) + 2 * panel * work.vector_bytes;
  return work.packed + slot * work.vector_bytes;
}

// One panel after the other.
void FbsConvInt8::convolve_alone(const Int8ConvTask& task, const Geometry& geometry, const Work& work) const {
  for (int32_t panel = 0; panel < work.panels(vectors_); ++panel) {
    const int32_t width = work.width(panel, vectors_);
    for (int32_t v = 0; v < width && !work.stored; ++v) {
      pack(work, 2 * panel + v, work.packed + v * work.vector_bytes, 0, work.groups);
    }
    const int8_t* const w = panel_weights(work, panel, 0);
    if (work.start != nullptr) kernels_->int8.start(task, w, 2 * panel, width);
    kernels_->int8.conv(task, w, 2 * panel, width, 0, geometry.num_tiles);
  }
}

// One list of tasks for all threads, taken in order: first the packing, by vectors and groups, then slices of
// the plane, each with all its panels, so that a pixel's bytes are written by one thread. Slices wait for the
// packing, which somebody has taken by then.
void FbsConvInt8::convolve_together(const Int8ConvTask& task, const Geometry& geometry, const Work& work,
                                    const Parallel& parallel) const {
  const int32_t panels = work.panels(vectors_);
  const int32_t pieces = work.stored ? 0 : std::min(work.threads, work.groups);
  const int32_t num_packs = pieces * vectors_;
  const int32_t slices = std::min(work.threads * kSlicesPerThread, geometry.num_tiles);
  std::atomic<int32_t> next_task = 0, packed = 0, started = 0;
  parallel(static_cast<size_t>(work.threads), [&](size_t) {
    for (int32_t number; (number = next_task.fetch_add(1)) < num_packs + slices;) {
      if (number < num_packs) {
        const int64_t piece = number % pieces;
        const int32_t vector = number / pieces;
        pack(work, vector, work.packed + vector * work.vector_bytes,
             static_cast<int32_t>(work.groups * piece / pieces),
             static_cast<int32_t>(work.groups * (piece + 1) / pieces));
        packed.fetch_add(1, std::memory_order_release);
        continue;
      }
      wait_for(packed, num_packs);
      const int32_t slice = number - num_packs;
      const bool starts = work.start != nullptr;
      if (starts && slice == 0) {
        for (int32_t panel = 0; panel < panels; ++panel) {
          kernels_->int8.start(task, panel_weights(work, panel, 2 * panel), 2 * panel,
                               work.width(panel, vectors_));
        }
        started.store(1, std::memory_order_release);
      }
      if (starts) wait_for(started, 1);
      for (int32_t panel = 0; panel < panels; ++panel) {
        kernels_->int8.conv(task, panel_weights(work, panel, 2 * panel), 2 * panel,
                            work.width(panel, vectors_), geometry.first_tile(slice, slices),
                            geometry.first_tile(slice + 1, slices));
      }
    }
  });
}

}  // namespace compress
