// Convolution of bytes by packed groups of four channels; contract at Int8ConvTask. As in conv.h, vectors of
// outputs lie in the lanes and pixels are broadcast against them, but each lane multiplies four channels at a
// time.
#ifndef COMPRESS_KERNELS_INT8_CONV_H_
#define COMPRESS_KERNELS_INT8_CONV_H_

#include "kernels/conv.h"
#include "kernels/int8.h"
#include "kernels/tiles.h"

namespace {

constexpr bool kEvenTiles = false;
constexpr int32_t kProductSpeed = 1;

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
      const Vec value = clamp(mul_add_once(to_floats(sums[0][p][v]), scale, bias), lower, upper);
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
void conv_int8_to(Output* y, const Int8ConvTask& task, const int8_t* w, int first_vector, int num_vectors,
                  int first_tile, int last_tile) {
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

}  // namespace

#endif  // COMPRESS_KERNELS_INT8_CONV_H_
