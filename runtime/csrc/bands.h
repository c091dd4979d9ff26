// Two convolutions in a row, the plane between them never whole: bands of its rows are made, and read while
// they are near.
#ifndef COMPRESS_BANDS_H_
#define COMPRESS_BANDS_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "geometry.h"
#include "last.h"
#include "shares.h"

namespace compress {

// The two, and what a band's memory is read and written in.
struct BandShape {
  Window first, second;
  int32_t pitch;                   // floats of a pixel in a band's memory
  TileShape made_tile, read_tile;  // of the first, and of the second
};

// Some rows of the last plane, and of the plane between what they need and no band before has made.
struct Band {
  Geometry made;      // out of the whole input, into the band's memory
  Geometry read;      // out of the band's memory, into the whole output
  int64_t kept_from;  // in rows of the memory, where the band before has made what this one needs too,
  int64_t kept;       // and how many rows; they come first in this one's memory
};

// All bands for one input size. A stretch is what one thread makes: bands that keep rows for each other.
struct BandPlan {
  int64_t input_height, input_width;
  int64_t between_width;
  int64_t most_rows;  // of the plane between that a band's memory holds
  std::vector<Band> bands;
  std::vector<int32_t> first_band;  // of each stretch, and the end of the last

  // In which sums over its pixels come: each for itself where stretches may divide them, else all together.
  int64_t sum_rows;

  int32_t num_stretches() const { return static_cast<int32_t>(first_band.size()) - 1; }
};

// True where a plane between is large enough for more than one band. Its rows are then apart: bands and
// stretches do not change a bit.
bool comes_in_bands(const Window& first, int64_t input_height, int64_t input_width);

BandPlan make_plan(const BandShape& shape, int64_t input_height, int64_t input_width, int32_t stretches);

// How at most `shares` threads divide the two: the vectors of outputs, and where planes are large their rows
// too.
Grid divide_bands(const BandShape& shape, int64_t input_height, int64_t input_width, int32_t vectors,
                  int32_t shares);

// Writes the shares and segments of such a grid, whose segments' tiles are their stretch.
void share_bands(const Grid& grid, int32_t vectors, const bool* kinds, const SharedWork& shared);

// compute(band) for the bands of a segment, one after the other, in `memory` of rows of `row_floats`, in
// which each finds the rows that it keeps.
template <typename Compute>
void for_each_band(const BandPlan& plan, const Segment& segment, int64_t row_floats, float* memory,
                   const Compute& compute) {
  const int32_t end = plan.first_band[static_cast<size_t>(segment.last_tile)];
  for (int32_t b = plan.first_band[static_cast<size_t>(segment.first_tile)]; b < end; ++b) {
    const Band& band = plan.bands[static_cast<size_t>(b)];
    std::memmove(memory, memory + band.kept_from * row_floats,
                 sizeof(float) * static_cast<size_t>(band.kept * row_floats));
    compute(band);
  }
}

// The plan last asked for, for any number of threads.
class LastPlan {
 public:
  std::shared_ptr<const BandPlan> get(const BandShape& shape, int64_t input_height, int64_t input_width,
                                      int32_t stretches);

 private:
  Last<BandPlan> last_;
};

}  // namespace compress

#endif  // COMPRESS_BANDS_H_
