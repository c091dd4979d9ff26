// The tiles of a convolution, one after the other: where each pixel of a tile is read and written.
#ifndef COMPRESS_KERNELS_TILES_H_
#define COMPRESS_KERNELS_TILES_H_

#include "kernels/table.h"

namespace {

// Where a tile of pixels reads and writes.
struct PixelTile {
  const float* x[kMaxTile];  // each pixel's input at the region's first valid tap, first channel
  float* y[kMaxTile];        // each pixel's output, first channel
};

// A tile's pixels in memory, wherever they are.
template <typename Value, int kPixels>
struct ListedPixels {
  static constexpr bool kEven = false;
  Value* first[kPixels];
  int64_t offset = 0;
  ListedPixels(Value* const* pixels, int64_t /*step*/) {
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) first[p] = pixels[p];
  }
  Value* at(int p) const { return first[p] + offset; }
  void move(int64_t values) { offset += values; }
};

// A tile's pixels in memory, evenly `step` values apart. Every third has a pointer, so that these and the
// step stay in registers: an address of x86 is one register plus 0, 1 or 2 times another.
template <typename Value, int kPixels>
struct EvenPixels {
  static constexpr bool kEven = true;
  static constexpr int kEach = 3;
  static constexpr int kPointers = (kPixels + kEach - 1) / kEach;
  Value* first[kPointers];
  int64_t step;
  EvenPixels(Value* const* pixels, int64_t apart) : step(apart) {
#pragma GCC unroll 16
    for (int i = 0; i < kPointers; ++i) first[i] = pixels[0] + i * kEach * apart;
  }
  Value* at(int p) const { return first[p / kEach] + p % kEach * step; }
  void move(int64_t values) {
#pragma GCC unroll 16
    for (int i = 0; i < kPointers; ++i) first[i] += values;
  }
};

// The same pixels, so many values further on.
template <typename Pixels>
inline Pixels moved(Pixels pixels, int64_t values) {
  pixels.move(values);
  return pixels;
}

// Calls run(region, number, pixels, even) for each of the tiles [first_tile, last_tile), after setting
// tile.x[p] to the input of each of its pixels at the region's first valid tap and tile.y[p] to its first
// output of this call. `even`: the inputs lie evenly apart, tiling.input_step_x pixels, and so do the
// outputs; with `kEvenApart` those have only x[0] and y[0] set.
template <bool kEvenApart = false, typename Task, typename Tile, typename Run>
inline void for_each_tile(const Task& task, int first_output, int first_tile, int last_tile, Tile& tile,
                          const Run& run) {
  const compress::Tiling& tiling = task.tiling;
  const int64_t x_step = static_cast<int64_t>(tiling.input_step_x) * task.pitch;
  for (int g = 0; g < tiling.num_regions && tiling.regions[g].first_tile < last_tile; ++g) {
    const compress::Region& region = tiling.regions[g];
    // From the last pixel of a row to the first of the next, beyond a step.
    const int64_t x_turn =
        (tiling.input_step_y - static_cast<int64_t>(region.width) * tiling.input_step_x) * task.pitch;
    const int64_t y_turn = static_cast<int64_t>(tiling.output_width - region.width) * task.k;
    int t = first_tile - region.first_tile;
    if (t < 0) t = 0;
    int end = last_tile - region.first_tile;
    if (end > region.tiles) end = region.tiles;
    if (t >= end) continue;
    const bool rows_go_on = x_turn == 0 && y_turn == 0;
    // Tile t begins behind pixels * t / tiles pixels. Divisions are slow, so from there on all is carried on.
    const int size = region.pixels / region.tiles, rest = region.pixels % region.tiles;
    const int64_t behind = static_cast<int64_t>(region.pixels) * t;
    const int first = static_cast<int>(behind / region.tiles);
    int over = static_cast<int>(behind % region.tiles);
    int column = first % region.width;
    const int64_t row = first / region.width;
    int64_t x = (region.input_pixel + row * tiling.input_step_y +
                 static_cast<int64_t>(column) * tiling.input_step_x) *
                task.pitch;
    int64_t y = ((region.y + row) * tiling.output_width + region.x + column) * task.k + first_output;
    for (; t < end; ++t) {
      over += rest;
      const int pixels = over >= region.tiles ? size + 1 : size;
      if (over >= region.tiles) over -= region.tiles;
      const bool even = rows_go_on || column + pixels <= region.width;
      if (even) {
        const int set = kEvenApart ? 1 : pixels;
        for (int p = 0; p < set; ++p) {
          tile.x[p] = task.x + x + p * x_step;
          tile.y[p] = task.y + y + static_cast<int64_t>(p) * task.k;
        }
        column += pixels;
        x += pixels * x_step;
        y += static_cast<int64_t>(pixels) * task.k;
        if (column == region.width) {
          column = 0;
          x += x_turn;
          y += y_turn;
        }
      } else {
        for (int p = 0; p < pixels; ++p) {
          tile.x[p] = task.x + x;
          tile.y[p] = task.y + y;
          x += x_step;
          y += task.k;
          if (++column == region.width) {
            column = 0;
            x += x_turn;
            y += y_turn;
          }
        }
      }
      run(region, region.first_tile + t, pixels, even);
    }
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_TILES_H_
