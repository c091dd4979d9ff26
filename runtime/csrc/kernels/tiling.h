// How an output plane is cut up, for every kernel that slides a window over its input. Included by ISA code,
// so: plain structs only, no STL.
#ifndef COMPRESS_KERNELS_TILING_H_
#define COMPRESS_KERNELS_TILING_H_

#include <cstdint>

namespace compress {

// Taps that lie side by side in the input (all of one kernel row where the horizontal dilation is 1).
struct Run {
  int32_t pixel;  // input pixels from the region's first valid tap
  int32_t tap;    // first tap, ky * kw + kx
  int32_t taps;   // how many
};

// A rectangle of outputs for which the same taps fall inside the input: borders need neither a padded copy
// nor a multiplication by zero. Its pixels are numbered row by row and cut into tiles of nearly equal size.
struct Region {
  int32_t y, x, width, pixels;
  // Places between its rows that tiles count, for which nothing is computed: then the inputs of a tile lie
  // evenly apart, wherever it is.
  int32_t gap;
  int32_t first_tile, tiles;
  int64_t input_pixel;  // input pixel under (y, x) at the first valid tap
  const Run* runs;
  int32_t num_runs;  // 0: every tap lies in the padding
};

// What a kernel takes at a time.
struct TileShape {
  int32_t places;     // most pixels, with those of gaps
  bool even = false;  // rather such whose inputs lie evenly apart: over gaps, or within a row
};

// All of a plane's regions, and how their pixels lie in the input.
struct Tiling {
  const Region* regions;
  int32_t num_regions;
  int32_t input_step_x;  // input pixels from one output pixel to the next
  int32_t input_step_y;  // and from one output row to the next
  int32_t output_width;
};

}  // namespace compress

#endif  // COMPRESS_KERNELS_TILING_H_
