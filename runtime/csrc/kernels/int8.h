// What goes with a convolution of bytes by packed groups of four channels: its weights, where its sums start,
// how they become bytes; contracts at Int8ConvTask, Int8PackTask and Int8Kernels.
#ifndef COMPRESS_KERNELS_INT8_H_
#define COMPRESS_KERNELS_INT8_H_

#include "kernels/conv.h"
#include "kernels/int8_tasks.h"
#include "kernels/table.h"

namespace {

using compress::Int8ConvTask;
using compress::Int8PackTask;
using compress::kGroup;

constexpr int kRowBytes = kLanes * kGroup;  // one group's weights for one vector of outputs
constexpr int64_t kStartPitch = int64_t{compress::kMaxInt8Vectors} * kLanes;
constexpr int kLineBytes = 64;
constexpr int kGroupsAhead = 4;  // packed before a group's weights that were asked for are read

// Adding it leaves no bits for fractions, so the addition itself rounds: 1.5 * 2^23.
constexpr float kRound = 12582912.0f;

// Values from 0 to 255 to a byte in each lane, which its low 8 bits are.
inline Lanes round_to_bytes(Vec value) { return as_lanes(add(value, broadcast(&kRound))); }

// Stores them, of the first `left` lanes; or, of all, the floats that they are, minus task.floats_zero.
inline void store_rounded(const Int8ConvTask&, uint8_t* y, Vec value, int left) {
  store_bytes(y, round_to_bytes(value), left);
}
inline void store_rounded(const Int8ConvTask& task, float* y, Vec value, int /*left*/) {
  const float back = kRound + task.floats_zero;  // exact
  store(y, sub(add(value, broadcast(&kRound)), broadcast(&back)));
}

void start_int8(const Int8ConvTask& task, const int8_t* w, int num_vectors) {
  uint8_t zeros[kGroup];
  for (uint8_t& zero : zeros) zero = static_cast<uint8_t>(task.input_zero);
  const Activations four = broadcast_four(zeros);
  for (int g = 0; g < task.tiling.num_regions; ++g) {
    const Region& region = task.tiling.regions[g];
    for (int v = 0; v < num_vectors; ++v) {
      Lanes sums = broadcast_lane(0);
      for (int r = 0; r < region.num_runs; ++r) {
        const int64_t first = static_cast<int64_t>(region.runs[r].tap) * task.groups;
        const int64_t last = first + static_cast<int64_t>(region.runs[r].taps) * task.groups;
        for (int64_t row = first; row < last; ++row)
          sums = dot(sums, four, load_weights(w + v * task.vector_stride + row * kRowBytes));
      }
      int32_t* const start = task.start + static_cast<int64_t>(g) * kStartPitch + v * kLanes;
      store_lanes(start, sums);
      for (int i = 0; i < kLanes; ++i) start[i] = -start[i];
    }
  }
}

// As pack_rows: kSteps at compile time keeps the columns in registers, 0 reads them from memory.
template <int kSteps>
void pack_int8_groups(const Int8PackTask& task, int first, int last) {
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
  for (int g = first; g < last; ++g) {
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
          for (int64_t byte = 0; byte < channel_stride; byte += kLineBytes)
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

void pack_int8(const Int8PackTask& task, int first, int last) {
  switch (task.num_steps) {
    case 1:
      return pack_int8_groups<1>(task, first, last);
    case 2:
      return pack_int8_groups<2>(task, first, last);
    case 3:
      return pack_int8_groups<3>(task, first, last);
    case 4:
      return pack_int8_groups<4>(task, first, last);
    default:
      return pack_int8_groups<0>(task, first, last);
  }
}

// sums[i] += |x[i] - zeros[i]| for i < count: compilers make vectors of it.
inline void add_sizes(const uint8_t* x, int count, const int32_t* zeros, int32_t* sums) {
  for (int i = 0; i < count; ++i) {
    const int32_t difference = x[i] - (zeros == nullptr ? 0 : zeros[i]);
    sums[i] += difference < 0 ? -difference : difference;
  }
}

// Of kLanes channels.
template <bool kShifted>
inline void sum_lanes(const uint8_t* x, int64_t pixels, int32_t channels, const int32_t* zeros,
                      int32_t* sums) {
  const Lanes zero = kShifted ? load_lanes(zeros) : broadcast_lane(0);
  const auto size = [&](const uint8_t* from) {
    return kShifted ? distance(load_bytes(from), zero) : load_bytes(from);
  };
  Lanes even = broadcast_lane(0), odd = even;
  int64_t p = 0;
  for (; p + 2 <= pixels; p += 2, x += 2 * static_cast<int64_t>(channels)) {
    even = add_lanes(even, size(x));
    odd = add_lanes(odd, size(x + channels));
  }
  if (p < pixels) even = add_lanes(even, size(x));
  store_lanes(sums, add_lanes(even, odd));
}

void sum_bytes(const uint8_t* x, int64_t pixels, int32_t channels, const int32_t* zeros, int32_t* sums) {
  if (channels >= kLanes) {
    for (int c = 0; c < channels; c += kLanes) {  // the last lanes may be summed twice
      const int first = c < channels - kLanes ? c : channels - kLanes;
      if (zeros == nullptr) {
        sum_lanes<false>(x + first, pixels, channels, nullptr, sums + first);
      } else {
        sum_lanes<true>(x + first, pixels, channels, zeros + first, sums + first);
      }
    }
    return;
  }
  // So many pixels at a time that there is something to make vectors of.
  int32_t several[kLanes * kLanes] = {}, all_zeros[kLanes * kLanes];
  for (int i = 0; zeros != nullptr && i < kLanes * channels; ++i) all_zeros[i] = zeros[i % channels];
  int64_t p = 0;
  for (; p + kLanes <= pixels; p += kLanes, x += kLanes * channels)
    add_sizes(x, kLanes * channels, zeros == nullptr ? nullptr : all_zeros, several);
  for (int c = 0; c < channels; ++c) sums[c] = 0;
  for (int i = 0; i < kLanes * channels; ++i) sums[i % channels] += several[i];
  for (; p < pixels; ++p, x += channels) add_sizes(x, channels, zeros, sums);
}

}  // namespace

#endif  // COMPRESS_KERNELS_INT8_H_
