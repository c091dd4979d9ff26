// 3x3 convolutions by Winograd's minimal filtering F(2x2, 3x3); contracts at WinogradTask.
//   Y = A^T [(G g G^T) . (B^T d B)] A  (Lavin and Gray 2015, equation 8), with
//   B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1], G = [1 0 0; 1/2 1/2 1/2; 1/2 -1/2 1/2; 0 0 1] and
//   A^T = [1 1 1 0; 0 1 -1 -1].
#ifndef COMPRESS_KERNELS_WINOGRAD_H_
#define COMPRESS_KERNELS_WINOGRAD_H_

#include "kernels/conv.h"
#include "kernels/table.h"

namespace {

using compress::kWinogradPatch;
using compress::kWinogradProducts;
using compress::WinogradTask;

// B^T d of a column.
COMPRESS_INLINE void transform_inputs(const Vec (&d)[4], Vec (&to)[4]) {
  to[0] = sub(d[0], d[2]);
  to[1] = add(d[1], d[2]);
  to[2] = sub(d[2], d[1]);
  to[3] = sub(d[1], d[3]);
}

void winograd_inputs(const WinogradTask& task, int first, int last, float* patches) {
  alignas(64) static const float zeros[kLanes] = {};
  const int tiles = last - first;
  const int64_t product_stride = compress::patches_stride(tiles, task.patch_pitch);
  for (int t = first, end; t < last; t = end) {
    const int row = t / task.row_tiles, column = t % task.row_tiles;
    end = t - column + task.row_tiles < last ? t - column + task.row_tiles : last;
    const float* lines[kWinogradPatch];  // null: outside
    for (int i = 0; i < kWinogradPatch; ++i) {
      const int64_t y = 2 * static_cast<int64_t>(row) - task.pad_top + i;
      lines[i] = y < 0 || y >= task.input_height
                     ? nullptr
                     : task.x + y * static_cast<int64_t>(task.input_width) * task.pitch;
    }
    for (int c = 0; c < task.channels; c += kLanes) {
      const int left = task.channels - c;
      Vec columns[4][4];  // B^T d, column by column
      const auto add_column = [&](int x, int j) __attribute__((always_inline)) {
        const bool inside = x >= 0 && x < task.input_width;
        const int64_t offset = static_cast<int64_t>(x) * task.pitch + c;
        Vec d[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const float* const from = inside && lines[i] != nullptr ? lines[i] + offset : zeros;
          d[i] = left >= kLanes ? load(from) : load_first(from, left);
        }
        transform_inputs(d, columns[j]);
      };
      int x = 2 * column - task.pad_left;
      add_column(x, 0);
      add_column(x + 1, 1);
      float* to = patches + static_cast<int64_t>(t - first) * task.patch_pitch + c;
      for (int tile = t; tile < end; ++tile, x += 2, to += task.patch_pitch) {
        add_column(x + 2, 2);
        add_column(x + 3, 3);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const Vec d[4] = {columns[0][i], columns[1][i], columns[2][i], columns[3][i]};
          Vec transformed[4];
          transform_inputs(d, transformed);
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) store(to + (4 * i + j) * product_stride, transformed[j]);
          columns[0][i] = columns[2][i];
          columns[1][i] = columns[3][i];
        }
      }
    }
  }
}

// G g of a column.
COMPRESS_INLINE void transform_taps(const Vec (&g)[3], Vec (&to)[4]) {
  static const float kHalf = 0.5f;
  const Vec half = broadcast(&kHalf);
  const Vec outer = add(g[0], g[2]);
  to[0] = g[0];
  to[1] = mul(half, add(outer, g[1]));
  to[2] = mul(half, sub(outer, g[1]));
  to[3] = g[2];
}

void winograd_weights(const float* taps, int64_t tap_stride, int rows, float* out, int64_t product_stride) {
  for (int r = 0; r < rows; ++r, taps += kLanes, out += kLanes) {
    Vec columns[3][4];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const Vec g[3] = {load(taps + j * tap_stride), load(taps + (3 + j) * tap_stride),
                        load(taps + (6 + j) * tap_stride)};
      transform_taps(g, columns[j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vec g[3] = {columns[0][i], columns[1][i], columns[2][i]};
      Vec transformed[4];
      transform_taps(g, transformed);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) store(out + (4 * i + j) * product_stride, transformed[j]);
    }
  }
}

// A^T m of a column.
COMPRESS_INLINE void transform_products(const Vec (&m)[4], Vec (&to)[2]) {
  const Vec sum = add(m[1], m[2]);
  const Vec difference = sub(m[1], m[2]);
  to[0] = add(m[0], sum);
  to[1] = sub(difference, m[3]);
}

// The product that is added to every output of its tile: its sums begin with the bias.
inline constexpr int kEverywhere = 5;

// The sums of products of kTiles patches with the weights of kVectors vectors: [product][tile][vector].
template <int kVectors, int kTiles>
COMPRESS_INLINE void multiply_patches(const WinogradTask& task, const float* patches, const float* w,
                                      int first_output, float* products) {
  constexpr int kPartial = num_partial_sums(kTiles);
  for (int i = 0; i < kWinogradProducts; ++i) {
    Vec sums[kPartial][kTiles][kVectors];
#pragma GCC unroll 4
    for (int s = 0; s < kPartial; ++s)
#pragma GCC unroll 16
      for (int p = 0; p < kTiles; ++p)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[s][p][v] = zero();
    if (i == kEverywhere) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const Vec bias = load(task.epilogue.bias + first_output + v * kLanes);
#pragma GCC unroll 16
        for (int p = 0; p < kTiles; ++p) sums[0][p][v] = bias;
      }
    }
    EvenPixels<const float, kTiles> x(&patches, task.patch_pitch);
    const float* source = nullptr;
    int64_t found;
    const int32_t* lines = next_lines(task.prefetch, task.channels, &source, &found);
    const float* row = w;
    int64_t c = 0;
    for (; c + kPartial <= found; c += kPartial, x.move(kPartial), row += kPartial * kLanes) {
#pragma GCC unroll 4
      for (int s = 0; s < kPartial; ++s) {
        __builtin_prefetch(source + *lines++, 0, 2);
        add_row<kVectors, kTiles>(x, s, row + s * kLanes, task.vector_stride, sums[s]);
      }
    }
    for (; c + kPartial <= task.channels; c += kPartial, x.move(kPartial), row += kPartial * kLanes) {
#pragma GCC unroll 4
      for (int s = 0; s < kPartial; ++s)
        add_row<kVectors, kTiles>(x, s, row + s * kLanes, task.vector_stride, sums[s]);
    }
    for (; c < task.channels; ++c, x.move(1), row += kLanes)
      add_row<kVectors, kTiles>(x, 0, row, task.vector_stride, sums[0]);
    fold_partial_sums(sums);
#pragma GCC unroll 16
    for (int p = 0; p < kTiles; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) store(products + (p * kVectors + v) * kLanes, sums[0][p][v]);
    patches += compress::patches_stride(kTiles, task.patch_pitch);
    products += kTiles * kVectors * kLanes;
    w += task.product_stride;
  }
}

template <int kVectors, int kTiles>
void winograd_tiles(const WinogradTask& task, const float* patches, const float* w, int first_output,
                    int first_tile, int number) {
  constexpr int kStride = kTiles * kVectors * kLanes;
  alignas(64) float products[kWinogradProducts * kStride];
  multiply_patches<kVectors, kTiles>(task, patches, w, first_output, products);

  Vec totals[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) totals[v] = zero();
  const int outputs_left = task.k - first_output;
  int row = first_tile / task.row_tiles, column = first_tile % task.row_tiles;
  for (int p = 0; p < kTiles; ++p) {
    Vec sums[4][kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const float* const from = products + (p * kVectors + v) * kLanes;
      Vec columns[4][2];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const Vec m[4] = {load(from + j * kStride), load(from + (4 + j) * kStride),
                          load(from + (8 + j) * kStride), load(from + (12 + j) * kStride)};
        transform_products(m, columns[j]);
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Vec m[4] = {columns[0][i], columns[1][i], columns[2][i], columns[3][i]};
        Vec out[2];
        transform_products(m, out);
        sums[2 * i][v] = out[0];
        sums[2 * i + 1][v] = out[1];
      }
    }
    apply_epilogue<kVectors, 4>(task.epilogue, first_output, sums);
    const int y = 2 * row, x = 2 * column;
    float* const to = task.y + (static_cast<int64_t>(y) * task.output_width + x) * task.k + first_output;
    const int64_t next_row = static_cast<int64_t>(task.output_width) * task.k;
    if (y + 1 < task.output_height && x + 1 < task.output_width && outputs_left >= kVectors * kLanes) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          totals[v] = add(totals[v], absolute(sums[q][v]));
          store(to + q / 2 * next_row + q % 2 * task.k + v * kLanes, sums[q][v]);
        }
      }
    } else {
      for (int q = 0; q < 4; ++q) {
        if (y + q / 2 >= task.output_height || x + q % 2 >= task.output_width) continue;
        for (int v = 0; v < kVectors; ++v) {
          totals[v] = add(totals[v], absolute(sums[q][v]));
          store_first(to + q / 2 * next_row + q % 2 * task.k + v * kLanes, sums[q][v],
                      outputs_left - v * kLanes);
        }
      }
    }
    if (++column == task.row_tiles) {
      column = 0;
      ++row;
    }
  }
  if (task.tile_sums == nullptr) return;
  float* const to = task.tile_sums + static_cast<int64_t>(number) * task.tile_sums_pitch + first_output;
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) store(to + v * kLanes, totals[v]);
}

template <int kVectors, int kTiles = kMaxTile>
void winograd_tiles(const WinogradTask& task, const float* patches, const float* w, int first_output,
                    int first_tile, int tiles, int number) {
  if (tiles == kTiles) {
    winograd_tiles<kVectors, kTiles>(task, patches, w, first_output, first_tile, number);
  } else if constexpr (kTiles > 1) {
    winograd_tiles<kVectors, kTiles - 1>(task, patches, w, first_output, first_tile, tiles, number);
  }
}

void winograd(const WinogradTask& task, const float* patches, const float* w, int first_vector,
              int num_vectors, int first_tile, int last_tile, int number) {
  const int first_output = first_vector * kLanes, tiles = last_tile - first_tile;
  if (num_vectors == 2) {
    winograd_tiles<2>(task, patches, w, first_output, first_tile, tiles, number);
  } else {
    winograd_tiles<1>(task, patches, w, first_output, first_tile, tiles, number);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_WINOGRAD_H_
