// Which taps reach which outputs: the plane cut into rectangles with the same valid taps, and those into
// tiles.
#ifndef COMPRESS_GEOMETRY_H_
#define COMPRESS_GEOMETRY_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/table.h"
#include "last.h"

namespace compress {

inline int64_t divided_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

// A convolution along one axis.
struct Axis {
  int64_t kernel, stride, dilation, pad_begin, pad_end;

  // Outputs for an input of `size`; 0 or less where the kernel does not fit.
  int64_t outputs(int64_t size) const {
    const int64_t room = size + pad_begin + pad_end - ((kernel - 1) * dilation + 1);
    return room < 0 ? 0 : room / stride + 1;
  }
};

// And along both.
struct Window {
  Axis y, x;
};

struct Geometry {
  int64_t input_height, input_width, output_height, output_width;
  int64_t stride_y, stride_x;
  std::vector<Region> regions;
  std::vector<Run> runs;  // the regions point into it
  int32_t num_tiles;
  std::vector<int64_t> tile_work;  // of all tiles before this one, in tap_pixels; one entry more than tiles
  int64_t tap_pixels;  // sum over outputs of their valid taps: multiplications per input and output channel

  int64_t pixels() const { return output_height * output_width; }

  // For the kernels; it points into this geometry.
  Tiling tiling() const;

  // The first tile of part `part` of `parts`, cut so that all parts have about the same work; parts may be
  // empty.
  int32_t first_tile(int64_t part, int64_t parts) const;
  // Of the places between tiles the one nearest to so much work from the first tile on, up to tap_pixels: the
  // tile behind it, num_tiles at the end.
  int32_t tile_near(int64_t work) const;
};

// Some rows of an output, made in memory that holds some rows of it, out of memory that holds some of the
// input.
struct PlaneRows {
  int64_t first, last;   // rows [first, last) of the output
  int64_t output_first;  // the row of it that lies first in memory
  int64_t input_first;   // the row of the input that does
  bool apart;  // no tile goes on from one row to the next: they do not depend on which rows these are
};

// The geometry of a non-empty output.
Geometry make_geometry(const Axis& y, const Axis& x, int64_t input_height, int64_t input_width,
                       const TileShape& tile);
// And of some of its rows, maybe none; tap_pixels and tiles are theirs, sizes those of the whole planes.
Geometry make_geometry(const Axis& y, const Axis& x, int64_t input_height, int64_t input_width,
                       const TileShape& tile, const PlaneRows& rows);

// Of places of an axis, whose place p reads input first_input + p * step, those whose input exists:
// [first, last).
struct Inside {
  Inside(int64_t first_input, int64_t step, int64_t inputs, int64_t places)
      : first(std::clamp<int64_t>(divided_up(-first_input, step), 0, places)),
        last(std::clamp<int64_t>(divided_up(inputs - first_input, step), first, places)) {}
  int64_t first, last;
};

// The geometry of the last input size seen, for any number of threads.
class LastGeometry {
 public:
  std::shared_ptr<const Geometry> get(const Axis& y, const Axis& x, int64_t input_height, int64_t input_width,
                                      const TileShape& tile);

 private:
  Last<Geometry> last_;
};

}  // namespace compress

#endif  // COMPRESS_GEOMETRY_H_
