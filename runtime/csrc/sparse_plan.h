// How a SparseConv layer goes over one input size: bands of output rows, the input planes that each band
// reads, and where every row of the lowered feature map starts in them.
#ifndef COMPRESS_SPARSE_PLAN_H_
#define COMPRESS_SPARSE_PLAN_H_

#include <cstdint>
#include <vector>

#include "kernels/table.h"
#include "sparse_layer.h"

namespace compress {

// A row of the lowered feature map: an input channel as one tap sees it.
struct SparseRow {
  int32_t channel, ky, kx;
};

// The places that a layer's P marks, ascending.
std::vector<SparseRow> sparse_rows(const SparseSpec& spec);

// What a band copies of the input: every stride-th pixel of a channel, from (y, x) on, borders of zeros
// around it. So every tap reads neighbouring outputs from neighbouring places, whatever the stride.
struct SparsePlane {
  int32_t channel, y, x;
};

// Output pixels of a band that are computed together.
struct SparseTile {
  int32_t first_pixel, pixels;
  int32_t first_piece, num_pieces;
};

struct SparsePlan {
  int64_t input_height, input_width, samples;
  int64_t output_height, output_width;
  int32_t band_rows;  // output rows of a band; the last one may have fewer
  int32_t num_bands;
  int32_t num_slices;  // parts that the outputs are cut into, where bands are too few for the threads
  int32_t plane_height, plane_width;  // of a band's copy
  int64_t plane_size;
  std::vector<SparsePlane> planes;
  std::vector<int32_t> row_offsets;  // of each row, in the planes of a band
  int32_t tile_pixels;
  std::vector<Piece> pieces;           // of all tiles
  std::vector<SparseTile> tiles;       // of a band
  std::vector<SparseTile> last_tiles;  // of the last band

  int64_t output_pixels() const { return output_height * output_width; }
  int64_t plane_floats() const {
    return plane_size * static_cast<int64_t>(planes.size()) + tile_pixels + kMaxLanes;
  }
};

// The plan for a non-empty output on `threads` threads.
SparsePlan make_sparse_plan(const SparseSpec& spec, const std::vector<SparseRow>& rows,
                            const KernelTable& kernels, const Dims& x, int threads);

}  // namespace compress

#endif  // COMPRESS_SPARSE_PLAN_H_
