// How a convolution of floats becomes products of matrices: where the parts of its input lie, padding
// included, so that the places that a tile reads are always evenly apart, and by which runs it reads them.
#ifndef COMPRESS_MATRIX_PLAN_H_
#define COMPRESS_MATRIX_PLAN_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "geometry.h"
#include "kernels/table.h"
#include "last.h"

namespace compress {

// Output pixel (row, column) is place row * row_places + column, and so is the input's pixel under its first
// tap, in a plane of `place_pixels` a place. Where the stride is s there are planes of every s-th row and
// column, those that taps read; where a row's taps lie side by side, columns stay together, s a place.
struct MatrixPlan {
  // `lanes`: of a vector of outputs.
  MatrixPlan(const Window& window, int64_t input_height, int64_t input_width, int32_t channels,
             int32_t lanes);

  int64_t input_height, input_width;
  int32_t channels;

  bool fits;  // else all that follows is not to be used
  int32_t places, row_places, row_pixels;
  int32_t num_tiles;
  int32_t unit;         // tiles that threads take and add up together
  int32_t band_places;  // whose parts a thread has at a time: whole units

  int32_t pitch;         // values of a pixel
  int32_t place_stride;  // and of a place
  int64_t part_stride;
  std::vector<MatrixRun> runs;
  std::vector<int32_t> first_rows;  // of each tap, as MatrixPackTask has them
  struct Rows {
    int32_t first, last;
  };
  std::vector<Rows> unused_rows;  // of packed weights: 0
  int32_t matrices;               // of all runs
  int64_t vector_values;          // of one vector's packed weights

  int32_t num_units() const { return (num_tiles + unit - 1) / unit; }
  int64_t values() const { return kFloatParts * part_stride; }
  // Values that are laid out for so many tiles, of one part.
  int64_t values_of(int64_t tiles) const;

  // Writes the parts that the tiles [first, last), a band at most, read.
  void lay_out(const MatrixKernels& kernels, const float* x, int32_t first, int32_t last, BFloat16* to) const;

 private:
  struct Plane {
    int64_t row, column;  // of the input under place 0
  };
  // A place's last tap reads so many places further on.
  int64_t reach_;
  int64_t row_step_, column_step_;
  int32_t place_pixels_;
  int64_t plane_stride_;
  std::vector<Plane> planes_;
};

// The plan of the last input size seen, for any number of threads.
class LastMatrixPlan {
 public:
  std::shared_ptr<const MatrixPlan> get(const Window& window, int64_t input_height, int64_t input_width,
                                        int32_t channels, int32_t lanes);

 private:
  Last<MatrixPlan> last_;
};

}  // namespace compress

#endif  // COMPRESS_MATRIX_PLAN_H_
