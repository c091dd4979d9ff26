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

// Calls run(region, number, pixels) for each of the tiles [first_tile, last_tile), after setting tile.x[p] to
// the input of each of its pixels at the region's first valid tap and tile.y[p] to its first output of this
// call.
template <typename Task, typename Tile, typename Run>
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
    for (; t < end; ++t) {
      const int first = static_cast<int>(static_cast<int64_t>(region.pixels) * t / region.tiles);
      const int last = static_cast<int>(static_cast<int64_t>(region.pixels) * (t + 1) / region.tiles);
      const int row = first / region.width;
      int column = first % region.width;
      int64_t x = (region.input_pixel + static_cast<int64_t>(row) * tiling.input_step_y +
                   static_cast<int64_t>(column) * tiling.input_step_x) *
                  task.pitch;
      int64_t y = (static_cast<int64_t>(region.y + row) * tiling.output_width + region.x + column) * task.k +
                  first_output;
      for (int p = 0; p < last - first; ++p) {
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
      run(region, region.first_tile + t, last - first);
    }
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_TILES_H_
