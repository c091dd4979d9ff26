// What goes with a convolution of bytes by packed groups of four channels: where its sums start, how they
// become bytes, the sums of its input; contracts at Int8ConvTask and Int8Kernels.
#ifndef COMPRESS_KERNELS_INT8_H_
#define COMPRESS_KERNELS_INT8_H_

#include "kernels/conv.h"
#include "kernels/int8_tasks.h"
#include "kernels/table.h"

namespace {

using compress::Int8ConvTask;
using compress::kGroup;

constexpr int kRowBytes = kLanes * kGroup;  // one group's weights for one vector of outputs
constexpr int64_t kStartPitch = int64_t{compress::kMaxInt8Vectors} * kLanes;

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

// For bytes, or for the floats that a depthwise convolution reads: int8_conv.h or int8_matrix.h.
template <typename Output>
void conv_int8_to(Output* y, const Int8ConvTask& task, const int8_t* w, int first_vector, int num_vectors,
                  int first_tile, int last_tile);

void conv_int8(const Int8ConvTask& task, const int8_t* w, int first_vector, int num_vectors, int first_tile,
               int last_tile) {
  if (task.floats != nullptr) {
    conv_int8_to(task.floats, task, w, first_vector, num_vectors, first_tile, last_tile);
  } else {
    conv_int8_to(task.y, task, w, first_vector, num_vectors, first_tile, last_tile);
  }
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

#ifdef COMPRESS_WIDE_SUMS
// Sums of the first channels, in whole wide vectors of zeros that are bytes; returns of how many.
inline int sum_wide(const uint8_t* x, int64_t pixels, int32_t channels, const int32_t* zeros, int32_t* sums) {
  int c = 0;
  for (; c + kWideLanes <= channels; c += kWideLanes) {
    uint8_t bytes[kWideLanes];
    int32_t all = 0;
    for (int i = 0; zeros != nullptr && i < kWideLanes; ++i) {
      all |= zeros[c + i];
      bytes[i] = static_cast<uint8_t>(zeros[c + i]);
    }
    if (all < 0 || all > 255) break;
    sum_wide_lanes(x + c, pixels, channels, zeros == nullptr ? nullptr : bytes, sums + c);
  }
  return c;
}
#else
inline int sum_wide(const uint8_t*, int64_t, int32_t, const int32_t*, int32_t*) { return 0; }
#endif

// Of kLanes channels or more.
inline void sum_channels(const uint8_t* x, int64_t pixels, int32_t channels, const int32_t* zeros,
                         int32_t* sums) {
  // The last lanes may be summed twice.
  for (int c = sum_wide(x, pixels, channels, zeros, sums); c < channels; c += kLanes) {
    const int first = c < channels - kLanes ? c : channels - kLanes;
    if (zeros == nullptr) {
      sum_lanes<false>(x + first, pixels, channels, nullptr, sums + first);
    } else {
      sum_lanes<true>(x + first, pixels, channels, zeros + first, sums + first);
    }
  }
}

void sum_bytes(const uint8_t* x, int64_t pixels, int32_t channels, const int32_t* zeros, int32_t* sums) {
  if (channels >= kLanes) return sum_channels(x, pixels, channels, zeros, sums);
  // Several pixels together have channels enough.
  constexpr int kTogether = 64;
  const int together = kTogether * channels;
  int32_t several[kTogether * kLanes], all_zeros[kTogether * kLanes];
  for (int i = 0; zeros != nullptr && i < together; ++i) all_zeros[i] = zeros[i % channels];
  sum_channels(x, pixels / kTogether, together, zeros == nullptr ? nullptr : all_zeros, several);
  for (int c = 0; c < channels; ++c) sums[c] = 0;
  for (int i = 0; i < together; ++i) sums[i % channels] += several[i];
  const int64_t summed = pixels / kTogether * kTogether;
  for (int64_t i = summed * channels; i < pixels * channels; ++i) {
    const auto c = static_cast<int32_t>(i % channels);
    const int32_t difference = x[i] - (zeros == nullptr ? 0 : zeros[c]);
    sums[c] += difference < 0 ? -difference : difference;
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_INT8_H_
