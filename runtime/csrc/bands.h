// Two convolutions in a row, the plane between them never whole: bands of its rows are made, and read while
// they are near.
#ifndef COMPRESS_BANDS_H_
#define COMPRESS_BANDS_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "geometry.h"

namespace compress {

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

// `pixel_bytes`: a pixel's in a band's memory.
BandPlan make_plan(const Window& first, const Window& second, int64_t input_height, int64_t input_width,
                   int32_t stretches, int32_t pixel_bytes, int32_t max_tile);

// The plan last asked for, for any number of threads.
class LastPlan {
 public:
  std::shared_ptr<const BandPlan> get(const Window& first, const Window& second, int64_t input_height,
                                      int64_t input_width, int32_t stretches, int32_t pixel_bytes,
                                      int32_t max_tile);

 private:
  std::mutex mutex_;
  std::shared_ptr<const BandPlan> last_;
};

}  // namespace compress

#endif  // COMPRESS_BANDS_H_
