// Convolution of bytes by packed groups of four channels; contracts at Int8ConvTask and Int8PackTask. As in
// conv.h, vectors of outputs lie in the lanes and pixels are broadcast against them, but each lane multiplies
// four channels at a time.
#ifndef COMPRESS_KERNELS_INT8_H_
#define COMPRESS_KERNELS_INT8_H_

#include "kernels/conv.h"
#include "kernels/int8_tasks.h"
#include "kernels/table.h"
#include "kernels/tiles.h"

namespace {

using compress::Int8ConvTask;
using compress::Int8PackTask;
using compress::kGroup;

constexpr int kRowBytes = kLanes * kGroup;  // one group's weights for one vector of outputs
constexpr int64_t kStartPitch = int64_t{compress::kMaxInt8Vectors} * kLanes;
constexpr int kLineBytes = 64;
constexpr int kGroupsAhead = 4;  // packed before a group's weights that were asked for are read

// `Output`: bytes, or floats for a depthwise convolution.
template <typename Output>
struct Int8Tile {
  const uint8_t* x[kMaxInt8Tile];
  Output* y[kMaxInt8Tile];
  const int8_t* w;
};

// What for_each_tile reads.
template <typename Output>
struct Int8Planes {
  const uint8_t* x;
  Output* y;
  int32_t pitch, k;
  const compress::Tiling& tiling;
};

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

template <int kVectors, int kPixels>
COMPRESS_INLINE void add_group(const uint8_t* const* x, int64_t offset, const int8_t* row,
                               int64_t vector_stride, Lanes (&sums)[kPixels][kVectors]) {
  Weights w[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) w[v] = load_weights(row + v * vector_stride);
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    const Activations four = broadcast_four(x[p] + offset);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[p][v] = dot(sums[p][v], four, w[v]);
  }
}

template <typename Output, int kVectors, int kPixels>
void conv_int8_tile(const Int8ConvTask& task, const Region& region, const Int8Tile<Output>& tile,
                    int first_output) {
  constexpr int kPartial = num_partial_sums(kPixels);
  Lanes sums[kPartial][kPixels][kVectors];
#pragma GCC unroll 4
  for (int s = 0; s < kPartial; ++s)
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[s][p][v] = broadcast_lane(0);
  if (task.start != nullptr) {
    const int32_t* const start = task.start + (&region - task.tiling.regions) * kStartPitch;
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[0][p][v] = load_lanes(start + v * kLanes);
  }

  const uint8_t* x[kPixels];
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) x[p] = tile.x[p];
  const int64_t vector_stride = task.vector_stride;
  for (int r = 0; r < region.num_runs; ++r) {
    const Run run = region.runs[r];
    int64_t offset = static_cast<int64_t>(run.pixel) * task.pitch;
    const int64_t end = offset + static_cast<int64_t>(run.taps) * task.pitch;
    const int8_t* row = tile.w + static_cast<int64_t>(run.tap) * task.groups * kRowBytes;
    for (; offset + kPartial * kGroup <= end; offset += kPartial * kGroup, row += kPartial * kRowBytes) {
#pragma GCC unroll 4
      for (int s = 0; s < kPartial; ++s)
        add_group<kVectors, kPixels>(x, offset + s * kGroup, row + s * kRowBytes, vector_stride, sums[s]);
    }
    if constexpr (kPartial > 1) {
      for (; offset < end; offset += kGroup, row += kRowBytes)
        add_group<kVectors, kPixels>(x, offset, row, vector_stride, sums[0]);
    }
  }
#pragma GCC unroll 4
  for (int s = 1; s < kPartial; ++s)
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[0][p][v] = add_lanes(sums[0][p][v], sums[s][p][v]);

  const Vec lower = broadcast(&task.lower);
  const Vec upper = broadcast(&task.upper);
  const int left = task.k - first_output;
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const Vec scale = load(task.scale + first_output + v * kLanes);
    const Vec bias = load(task.bias + first_output + v * kLanes);
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      const Vec value = clamp(add(mul(to_floats(sums[0][p][v]), scale), bias), lower, upper);
      store_rounded(task, tile.y[p] + v * kLanes, value, left - v * kLanes);
    }
  }
}

template <typename Output>
using Int8TileFunction = void (*)(const Int8ConvTask&, const Region&, const Int8Tile<Output>&, int);

template <typename Output, int kVectors, int kPixels = kMaxInt8Tile>
Int8TileFunction<Output> int8_tile_function(int pixels) {
  if (pixels == kPixels) return conv_int8_tile<Output, kVectors, kPixels>;
  if constexpr (kPixels > 1) {
    return int8_tile_function<Output, kVectors, kPixels - 1>(pixels);
  } else {
    return nullptr;
  }
}

template <typename Output>
inline void conv_int8_to(Output* y, const Int8ConvTask& task, const int8_t* w, int first_vector,
                         int num_vectors, int first_tile, int last_tile) {
  const int first_output = first_vector * kLanes;
  const Int8Planes<Output> planes = {task.x, y, task.pitch, task.k, task.tiling};
  Int8Tile<Output> tile;
  tile.w = w;
  int known_pixels = 0;
  Int8TileFunction<Output> function = nullptr;
  for_each_tile(planes, first_output, first_tile, last_tile, tile,
                [&](const Region& region, int, int pixels, bool) {
                  if (pixels != known_pixels) {
                    known_pixels = pixels;
                    function = num_vectors == 2 ? int8_tile_function<Output, 2>(pixels)
                                                : int8_tile_function<Output, 1>(pixels);
                  }
                  function(task, region, tile, first_output);
                });
}

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
