// Convolution of bytes for instruction sets that multiply matrices; contract at Int8ConvTask. A matrix of x
// has a pixel a row and sixteen groups of channels in it, one of w a group a row: packed weights as they lie.
// Two matrices of x and two of w are read for four of sums.
#ifndef COMPRESS_KERNELS_INT8_MATRIX_H_
#define COMPRESS_KERNELS_INT8_MATRIX_H_

#include <cstring>

#include "kernels/int8.h"

namespace {

constexpr bool kEvenTiles = true;
constexpr int32_t kProductSpeed = 8;

static_assert(kRowBytes == kMatrixBytes && kLanes == kMatrixRows);

// The registers: sums are 2 * matrix of pixels + vector of outputs. What is left of a run behind whole
// matrices has registers of its own, since sizes belong to these.
constexpr int kX = 4, kW = 5, kRestX = 6, kRestW = 7;

// Matrices of x that are copied at a time, where pixels do not lie evenly apart.
constexpr int kCopied = 8;

// `rest`: how many groups kRestX and kRestW have, up to kMatrixRows.
inline void size_registers(int rest) {
  MatrixSizes sizes;
  for (int m = 0; m < 8; ++m) {
    sizes.row_bytes[m] = kMatrixBytes;
    sizes.rows[m] = kMatrixRows;
  }
  sizes.row_bytes[kRestX] = static_cast<uint16_t>(rest * kGroup);
  sizes.rows[kRestW] = static_cast<uint8_t>(rest);
  size_matrices(sizes);
}

// A region as lines of pixels that lie evenly apart, with a gap behind each.
template <typename Output>
struct Lines {
  const uint8_t* x;        // the first pixel's input at the first valid tap, first channel
  Output* y;               // its first output of this call
  int64_t x_step, x_line;  // from pixel to pixel, and from line to line
  int64_t y_step, y_line;
  int pixels;  // of a line
  int places;  // and with its gap
};

// Pixels of a tile that follow each other in a line: its rows [first, last).
template <typename Output>
struct LinePiece {
  int first, last;
  const uint8_t* x;
  Output* y;
};

template <typename Output>
struct MatrixTile {
  int rows;
  bool even;  // all rows are evenly apart in memory, from `x` on
  const uint8_t* x;
  int64_t x_step, y_step;
  int before;  // rows of the first matrix before the tile's: 0 but at a plane's end
  int second;  // the row that the second matrix begins with: both end where the tile does
  int num_pieces;
  LinePiece<Output> pieces[kMaxInt8Tile];
};

// One matrix of each vector of w by one or two of x, the second so many bytes behind the first.
template <int kVectors, int kMatrices, int kXRegister, int kWRegister>
inline void multiply_step(const uint8_t* x, int64_t step, int64_t second, const int8_t* w,
                          int64_t vector_stride) {
  load_matrix<kXRegister>(x, step);
  load_matrix<kWRegister>(w, kMatrixBytes);
  add_products<0, kXRegister, kWRegister>();
  if constexpr (kMatrices == 1) {
    if constexpr (kVectors == 2) {
      load_matrix<kWRegister>(w + vector_stride, kMatrixBytes);
      add_products<1, kXRegister, kWRegister>();
    }
  } else if constexpr (kVectors == 1) {
    load_matrix<kXRegister>(x + second, step);
    add_products<2, kXRegister, kWRegister>();
  } else {
    load_matrix<kWRegister>(w + vector_stride, kMatrixBytes);
    add_products<1, kXRegister, kWRegister>();
    load_matrix<kXRegister>(x + second, step);
    add_products<3, kXRegister, kWRegister>();
    load_matrix<kWRegister>(w, kMatrixBytes);
    add_products<2, kXRegister, kWRegister>();
  }
}

// So many groups, matrices of x `forward` bytes from one to the next.
template <int kVectors, int kMatrices>
inline void multiply_groups(const uint8_t* x, int64_t step, int64_t second, int64_t forward, const int8_t* w,
                            int64_t vector_stride, int64_t groups) {
  for (; groups >= kMatrixRows; groups -= kMatrixRows) {
    multiply_step<kVectors, kMatrices, kX, kW>(x, step, second, w, vector_stride);
    x += forward;
    w += kMatrixRows * kRowBytes;
  }
  if (groups > 0) multiply_step<kVectors, kMatrices, kRestX, kRestW>(x, step, second, w, vector_stride);
}

// Of a tile's pixels so many bytes from `offset` on, as matrices one behind the other.
template <typename Output>
inline void copy_rows(const MatrixTile<Output>& tile, int64_t offset, int64_t bytes,
                      uint8_t (*to)[kMaxInt8Tile][kMatrixBytes]) {
  const int64_t whole = bytes / kMatrixBytes, rest = bytes % kMatrixBytes;
  for (int i = 0; i < tile.num_pieces; ++i) {
    const LinePiece<Output>& piece = tile.pieces[i];
    const uint8_t* from = piece.x + offset;
    for (int r = piece.first; r < piece.last; ++r, from += tile.x_step) {
      for (int64_t m = 0; m < whole; ++m) std::memcpy(to[m][r], from + m * kMatrixBytes, kMatrixBytes);
      if (rest > 0) copy_first_bytes(to[whole][r], from + whole * kMatrixBytes, rest);
    }
  }
}

// Sums of a tile, [vector][row][lane], to its outputs.
template <int kVectors, typename Output>
inline void store_sums(const Int8ConvTask& task, const MatrixTile<Output>& tile,
                       const int32_t (*sums)[kMaxInt8Tile][kLanes], int first_output) {
  const Vec lower = broadcast(&task.lower);
  const Vec upper = broadcast(&task.upper);
  const int left = task.k - first_output;
  Vec scale[kVectors], bias[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    scale[v] = load(task.scale + first_output + v * kLanes);
    bias[v] = load(task.bias + first_output + v * kLanes);
  }
  const auto value = [&](int v, int r) {
    return clamp(mul_add_once(to_floats(load_lanes(sums[v][tile.before + r])), scale[v], bias[v]), lower,
                 upper);
  };
  for (int i = 0; i < tile.num_pieces; ++i) {
    const LinePiece<Output>& piece = tile.pieces[i];
    Output* y = piece.y;
    int r = piece.first;
    if constexpr (kVectors == 2 && sizeof(Output) == 1) {
      if (left >= 2 * kLanes) {
        for (; r + 2 <= piece.last; r += 2, y += 2 * tile.y_step)
          store_two_rows(y, y + tile.y_step, value(0, r), value(1, r), value(0, r + 1), value(1, r + 1));
      }
    }
    for (; r < piece.last; ++r, y += tile.y_step) {
      for (int v = 0; v < kVectors; ++v) store_rounded(task, y + v * kLanes, value(v, r), left - v * kLanes);
    }
  }
}

template <int kVectors, int kMatrices, typename Output>
void conv_matrices(const Int8ConvTask& task, const Region& region, const MatrixTile<Output>& tile,
                   const int8_t* w, int first_output) {
  const int32_t* const start =
      task.start == nullptr ? nullptr : task.start + (&region - task.tiling.regions) * kStartPitch;
  if (start == nullptr) {
    zero_matrix<0>();
    zero_matrix<1>();
    zero_matrix<2>();
    zero_matrix<3>();
  } else {  // the same in every row
    load_matrix<0>(start, 0);
    load_matrix<2>(start, 0);
    if constexpr (kVectors == 2) {
      load_matrix<1>(start + kLanes, 0);
      load_matrix<3>(start + kLanes, 0);
    }
  }

  const int64_t vector_stride = task.vector_stride;
  for (int r = 0; r < region.num_runs; ++r) {
    const Run run = region.runs[r];
    const int64_t offset = static_cast<int64_t>(run.pixel) * task.pitch;
    const int64_t groups = static_cast<int64_t>(run.taps) * task.groups;
    const int8_t* const row = w + static_cast<int64_t>(run.tap) * task.groups * kRowBytes;
    if (tile.even) {
      multiply_groups<kVectors, kMatrices>(tile.x + offset, tile.x_step, tile.second * tile.x_step,
                                           kMatrixBytes, row, vector_stride, groups);
      continue;
    }
    alignas(kMatrixBytes) uint8_t copied[kCopied][kMaxInt8Tile][kMatrixBytes];
    constexpr int64_t kAtOnce = int64_t{kCopied} * kMatrixRows;
    for (int64_t first = 0; first < groups; first += kAtOnce) {
      const int64_t left = groups - first < kAtOnce ? groups - first : kAtOnce;
      copy_rows(tile, offset + first * kGroup, left * kGroup, copied);
      multiply_groups<kVectors, kMatrices>(copied[0][0], kMatrixBytes, tile.second * kMatrixBytes,
                                           kMaxInt8Tile * kMatrixBytes, row + first * kRowBytes,
                                           vector_stride, left);
    }
  }

  alignas(kMatrixBytes) int32_t sums[2][kMaxInt8Tile][kLanes];  // of each vector
  store_matrix<0>(sums[0][0], kRowBytes);
  if constexpr (kVectors == 2) store_matrix<1>(sums[1][0], kRowBytes);
  if constexpr (kMatrices == 2) store_matrix<2>(sums[0][tile.second], kRowBytes);
  if constexpr (kMatrices == 2 && kVectors == 2) store_matrix<3>(sums[1][tile.second], kRowBytes);
  store_sums<kVectors>(task, tile, sums, first_output);
}

template <typename Output>
inline Lines<Output> lines_of(const Int8ConvTask& task, Output* y, const Region& region, int first_output) {
  const compress::Tiling& tiling = task.tiling;
  Lines<Output> lines;
  lines.x = task.x + region.input_pixel * task.pitch;
  lines.y = y + (static_cast<int64_t>(region.y) * tiling.output_width + region.x) * task.k + first_output;
  lines.x_step = static_cast<int64_t>(tiling.input_step_x) * task.pitch;
  lines.x_line = static_cast<int64_t>(tiling.input_step_y) * task.pitch;
  lines.y_step = task.k;
  lines.y_line = static_cast<int64_t>(tiling.output_width) * task.k;
  lines.pixels = region.width;
  lines.places = region.width + region.gap;
  if (region.width == 1) {  // its rows are one line
    lines.x_step = lines.x_line;
    lines.y_step = lines.y_line;
    lines.pixels = lines.places = region.pixels;
  } else if (lines.x_line == region.width * lines.x_step && lines.y_line == region.width * lines.y_step) {
    lines.pixels = lines.places = region.pixels;
  }
  return lines;
}

// Sets the tile of the places [first, last) of a region.
template <typename Output>
inline void fill_tile(const Lines<Output>& lines, int first, int last, MatrixTile<Output>& tile) {
  int line = first / lines.places, column = first % lines.places;
  tile.rows = last - first;
  tile.x = lines.x + line * lines.x_line + column * lines.x_step;
  tile.even = lines.places > lines.pixels || column + tile.rows <= lines.pixels;
  tile.num_pieces = 0;
  for (int r = 0; r < tile.rows; ++line) {
    const int pixels = lines.pixels - column < tile.rows - r ? lines.pixels - column : tile.rows - r;
    if (pixels > 0) {
      tile.pieces[tile.num_pieces++] = {r, r + pixels, lines.x + line * lines.x_line + column * lines.x_step,
                                        lines.y + line * lines.y_line + column * lines.y_step};
    }
    r += lines.places - column;
    column = 0;
  }
}

// A matrix has all of its rows, so where a tile has fewer others are read too: those behind it or, at the end
// of the plane, those before it. `extent`: bytes that a pixel's taps span.
template <typename Output>
inline void end_within_plane(const Int8ConvTask& task, int64_t extent, MatrixTile<Output>& tile) {
  tile.before = 0;
  tile.second = tile.rows > kMatrixRows ? tile.rows - kMatrixRows : 0;
  if (!tile.even || tile.rows >= kMatrixRows) return;
  if ((kMatrixRows - 1) * tile.x_step + extent <= task.x_end - tile.x) return;
  const int missing = kMatrixRows - tile.rows;
  tile.even = missing * tile.x_step <= tile.x - task.x;
  if (!tile.even) return;
  tile.before = missing;
  tile.x -= missing * tile.x_step;
}

template <typename Output>
void conv_int8_to(Output* y, const Int8ConvTask& task, const int8_t* w, int first_vector, int num_vectors,
                  int first_tile, int last_tile) {
  const int first_output = first_vector * kLanes;
  int sized = -1;  // the rest that registers are sized for
  for (int g = 0; g < task.tiling.num_regions; ++g) {
    const Region& region = task.tiling.regions[g];
    const int begin = first_tile > region.first_tile ? first_tile - region.first_tile : 0;
    const int end =
        last_tile - region.first_tile < region.tiles ? last_tile - region.first_tile : region.tiles;
    if (begin >= end) continue;
    int64_t extent = 0;  // bytes that a pixel's taps span
    int rest = 0;        // all runs are of as many taps
    if (region.num_runs > 0) {
      const Run& run = region.runs[region.num_runs - 1];
      extent = (static_cast<int64_t>(run.pixel) + run.taps) * task.pitch;
      rest = run.taps * task.groups % kMatrixRows;
    }
    if (rest != sized && (rest > 0 || sized < 0)) {
      size_registers(rest == 0 ? kMatrixRows : rest);
      sized = rest;
    }
    const Lines<Output> lines = lines_of(task, y, region, first_output);
    const int64_t places =
        region.pixels + static_cast<int64_t>(region.pixels / region.width - 1) * region.gap;
    MatrixTile<Output> tile;
    tile.x_step = lines.x_step;
    tile.y_step = lines.y_step;
    auto first = static_cast<int>(places * begin / region.tiles);
    for (int t = begin; t < end; ++t) {
      const auto last = static_cast<int>(places * (t + 1) / region.tiles);
      fill_tile(lines, first, last, tile);
      first = last;
      const bool two = tile.rows > kMatrixRows;
      end_within_plane(task, extent, tile);
      if (num_vectors == 2) {
        two ? conv_matrices<2, 2>(task, region, tile, w, first_output)
            : conv_matrices<2, 1>(task, region, tile, w, first_output);
      } else {
        two ? conv_matrices<1, 2>(task, region, tile, w, first_output)
            : conv_matrices<1, 1>(task, region, tile, w, first_output);
      }
    }
  }
  release_matrices();
}

}  // namespace

#endif  // COMPRESS_KERNELS_INT8_MATRIX_H_
