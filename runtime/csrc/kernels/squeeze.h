// Squeezing winners' columns together: out of weight rows before a convolution (PackTask), or out of finished
// sums after one that computed every output. Both follow the same list of steps.
#ifndef COMPRESS_KERNELS_SQUEEZE_H_
#define COMPRESS_KERNELS_SQUEEZE_H_

#include "kernels/conv.h"
#include "kernels/table.h"

namespace {

using compress::PackTask;
using compress::SqueezeStep;

// kSteps at compile time keeps every step's permutation in a register across all rows; 0 reads them from
// memory.
template <int kSteps>
void pack_rows(const PackTask& task, int first, int last) {
  constexpr int kKnown = kSteps > 0 ? kSteps : 1;
  Lanes lanes[kKnown];
  const float* source[kKnown];
  if constexpr (kSteps > 0) {
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
      lanes[s] = load_lanes(task.steps[s].lanes);
      source[s] = task.w + task.steps[s].source * task.vector_stride;
    }
  }
  const int64_t out_stride = static_cast<int64_t>(task.channels) * kLanes;
  for (int c = first; c < last; ++c) {
    int64_t row = static_cast<int64_t>(task.live[c]) * task.channel_stride;
    float* out = task.out + static_cast<int64_t>(c) * kLanes;
    for (int t = 0; t < task.taps; ++t, row += task.tap_stride, out += out_stride) {
      Vec packed = zero();
      if constexpr (kSteps > 0) {
#pragma GCC unroll 8
        for (int s = 0; s < kSteps; ++s) packed = take(packed, load(source[s] + row), lanes[s]);
      } else {
        for (int s = 0; s < task.num_steps; ++s)
          packed = take(packed, load(task.w + task.steps[s].source * task.vector_stride + row),
                        load_lanes(task.steps[s].lanes));
      }
      store(out, packed);
    }
  }
}

void pack(const PackTask& task, int first, int last) {
  switch (task.num_steps) {
    case 1:
      return pack_rows<1>(task, first, last);
    case 2:
      return pack_rows<2>(task, first, last);
    case 3:
      return pack_rows<3>(task, first, last);
    case 4:
      return pack_rows<4>(task, first, last);
    default:
      return pack_rows<0>(task, first, last);
  }
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
