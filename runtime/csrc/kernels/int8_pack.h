// The winners' weights as groups of four channels, out of vectors of outputs; contract at Int8PackTask.
#ifndef COMPRESS_KERNELS_INT8_PACK_H_
#define COMPRESS_KERNELS_INT8_PACK_H_

#include "kernels/int8.h"
#include "kernels/table.h"

namespace {

using compress::Int8PackTask;

constexpr bool kWeightRows = false;
constexpr int kGroupsAhead = 4;  // packed before a group's weights that were asked for are read

// As pack_rows: kSteps at compile time keeps the columns in registers, 0 reads them from memory.
template <int kSteps>
void pack_int8_groups(const Int8PackTask& task) {
  constexpr int kKnown = kSteps > 0 ? kSteps : 1;
  Columns columns[kKnown];
  int64_t source[kKnown];
  if constexpr (kSteps > 0) {
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
      columns[s] = columns_of(task.steps[s].lanes);
      source[s] = task.steps[s].source * task.vector_stride;
    }
  }
  const int groups = (task.channels + kGroup - 1) / kGroup;
  const int64_t channel_stride = static_cast<int64_t>(task.taps) * kLanes;
  for (int g = 0; g < groups; ++g) {
    const int left = task.channels - g * kGroup;
    const uint8_t* rows[kGroup];
    for (int i = 0; i < kGroup; ++i) {  // of a channel that is not there: any row, masked below
      const int64_t channel = task.live[g * kGroup + (i < left ? i : 0)];
      rows[i] = reinterpret_cast<const uint8_t*>(task.w) + channel * channel_stride;
    }
    if (task.far && left >= (kGroupsAhead + 1) * kGroup) {
      for (int i = 0; i < kGroup; ++i) {
        const int8_t* const row = task.w + task.live[(g + kGroupsAhead) * kGroup + i] * channel_stride;
        for (int s = 0; s < task.num_steps; ++s) {
          const int8_t* const taps = row + task.steps[s].source * task.vector_stride;
          for (int64_t byte = 0; byte < channel_stride; byte += compress::kLineBytes)
            __builtin_prefetch(taps + byte, 0, 2);
        }
      }
    }
    const Lanes there = broadcast_lane(left >= kGroup ? -1 : (1 << 8 * left) - 1);
    int8_t* out = task.out + static_cast<int64_t>(g) * kRowBytes;
    for (int t = 0; t < task.taps; ++t, out += static_cast<int64_t>(groups) * kRowBytes) {
      Lanes found = broadcast_lane(0);
      if constexpr (kSteps > 0) {
#pragma GCC unroll 8
        for (int s = 0; s < kSteps; ++s) found = add_columns(found, rows, source[s] + t * kLanes, columns[s]);
      } else {
        for (int s = 0; s < task.num_steps; ++s) {
          const compress::SqueezeStep& step = task.steps[s];
          found =
              add_columns(found, rows, step.source * task.vector_stride + t * kLanes, columns_of(step.lanes));
        }
      }
      store_lanes(reinterpret_cast<int32_t*>(out), and_lanes(interleave(found), there));
    }
  }
}

void pack_int8(const Int8PackTask& task) {
  switch (task.num_steps) {
    case 1:
      return pack_int8_groups<1>(task);
    case 2:
      return pack_int8_groups<2>(task);
    case 3:
      return pack_int8_groups<3>(task);
    case 4:
      return pack_int8_groups<4>(task);
    default:
      return pack_int8_groups<0>(task);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_INT8_PACK_H_
