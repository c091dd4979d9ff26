// Squeezing winners' columns together: out of weight rows before a convolution (PackTask), or out of finished
// sums after one that computed every output. Both follow the same list of steps.
#ifndef COMPRESS_KERNELS_SQUEEZE_H_
#define COMPRESS_KERNELS_SQUEEZE_H_

#include "kernels/conv.h"
#include "kernels/table.h"

namespace {

using compress::PackTask;
using compress::SqueezeStep;

// Where a step's source lies in the first row, and the sums that it adds to: of floats,
inline const float* source_of(const PackTask& task, const SqueezeStep& step, const float* w) {
  return w + step.source * task.vector_stride;
}
inline Lanes lanes_of(const SqueezeStep& step, const float*) { return load_lanes(step.lanes); }
inline Vec nothing(const float*) { return zero(); }
inline Vec take_from(Vec packed, const float* source, Lanes lanes) {
  return take(packed, load(source), lanes);
}
inline Vec finished(Vec packed) { return packed; }

// of halves,
inline const compress::Half* source_of(const PackTask& task, const SqueezeStep& step,
                                       const compress::Half* w) {
  constexpr int kSources = compress::kLineHalves / kHalfSource;  // of a line
  return w + step.source / kSources * task.vector_stride + step.source % kSources * kHalfSource;
}
inline HalfLanes lanes_of(const SqueezeStep& step, const compress::Half*) {
  return half_lanes_of(step.lanes);
}
inline HalfVec nothing(const compress::Half*) { return no_halves(); }
inline HalfVec take_from(HalfVec packed, const compress::Half* source, HalfLanes lanes) {
  return take_halves(packed, source, lanes);
}

// and of bytes.
inline const int8_t* source_of(const PackTask& task, const SqueezeStep& step, const int8_t* w) {
  constexpr int kSources = compress::kLineBytes / kByteSource;  // of a line
  return w + step.source / kSources * task.vector_stride + step.source % kSources * kByteSource;
}
inline ByteLanes lanes_of(const SqueezeStep& step, const int8_t*) { return byte_lanes_of(step.lanes); }
inline ByteVec nothing(const int8_t*) { return no_bytes(); }
inline ByteVec take_from(ByteVec packed, const int8_t* source, ByteLanes lanes) {
  return take_bytes(packed, source, lanes);
}

// The winners' columns of one vector, out of any row. kSteps at compile time keeps every step's permutation
// in a register across all rows; 0 reads them from memory.
template <int kSteps, typename Weight>
struct Squeezed {
  static constexpr int kKnown = kSteps > 0 ? kSteps : 1;
  const PackTask& task;
  const Weight* w;
  decltype(lanes_of(*static_cast<const SqueezeStep*>(nullptr),
                    static_cast<const Weight*>(nullptr))) lanes[kKnown];
  const Weight* source[kKnown];

  COMPRESS_INLINE Squeezed(const PackTask& of, const Weight* weights) : task(of), w(weights) {
    if constexpr (kSteps > 0) {
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) {
        lanes[s] = lanes_of(task.steps[s], w);
        source[s] = source_of(task, task.steps[s], w);
      }
    }
  }

  COMPRESS_INLINE Vec at(int64_t row) const {
    auto packed = nothing(w);
    if constexpr (kSteps > 0) {
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) packed = take_from(packed, source[s] + row, lanes[s]);
    } else {
      for (int s = 0; s < task.num_steps; ++s) {
        const SqueezeStep& step = task.steps[s];
        packed = take_from(packed, source_of(task, step, w) + row, lanes_of(step, w));
      }
    }
    return finished(packed);
  }
};

// Calls run with a Squeezed of as many steps as the task has.
template <typename Weight, typename Run>
COMPRESS_INLINE void with_steps(const PackTask& task, const Weight* w, const Run& run) {
  switch (task.num_steps) {
    case 1:
      return run(Squeezed<1, Weight>(task, w));
    case 2:
      return run(Squeezed<2, Weight>(task, w));
    case 3:
      return run(Squeezed<3, Weight>(task, w));
    case 4:
      return run(Squeezed<4, Weight>(task, w));
    default:
      return run(Squeezed<0, Weight>(task, w));
  }
}

template <typename Weight>
void pack_weights(const PackTask& task, const Weight* w, int first, int last) {
  with_steps(task, w, [&](const auto& squeezed) {
    const int64_t out_stride = static_cast<int64_t>(task.channels) * kLanes;
    for (int c = first; c < last; ++c) {
      int64_t row = static_cast<int64_t>(task.live[c]) * task.channel_stride;
      float* out = task.out + static_cast<int64_t>(c) * kLanes;
      for (int t = 0; t < task.taps; ++t, row += task.tap_stride, out += out_stride)
        store(out, squeezed.at(row));
    }
  });
}

void pack(const PackTask& task, int first, int last) {
  if (task.bytes != nullptr) return pack_weights(task, task.bytes, first, last);
  if (task.halves != nullptr) return pack_weights(task, task.halves, first, last);
  pack_weights(task, task.w, first, last);
}

void squeeze(const float* sums, int64_t pitch, int64_t pixels, const SqueezeStep* steps,
             const int32_t* first_step, const compress::Epilogue& epilogue, int32_t k, float* y) {
  for (int64_t p = 0; p < pixels; ++p, sums += pitch, y += k) {
    for (int v = 0, o = 0; o < k; ++v, o += kLanes) {
      Vec packed = zero();
      for (int s = first_step[v]; s < first_step[v + 1]; ++s)
        packed = take(packed, load(sums + steps[s].source * kLanes), load_lanes(steps[s].lanes));
      Vec finished[1][1] = {{add(packed, load(epilogue.bias + o))}};
      apply_epilogue<1, 1>(epilogue, o, finished);
      store_first(y + o, finished[0][0], k - o);
    }
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_SQUEEZE_H_
