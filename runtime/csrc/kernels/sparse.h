// Product of a list of lowered rows with weights; contracts at CopyTask, GatherTask and MultiplyTask. Pixels
// lie in the lanes, the weights of up to kMaxTile outputs are broadcast against two vectors of them, sums
// stay in registers over the whole reduction.
#ifndef COMPRESS_KERNELS_SPARSE_H_
#define COMPRESS_KERNELS_SPARSE_H_

#include "kernels/conv.h"
#include "kernels/table.h"

namespace {

using compress::CopyTask;
using compress::GatherTask;
using compress::MultiplyTask;
using compress::Piece;

// Zeros from `first` to `last`, rounded up to whole vectors.
inline void clear(float* to, int first, int last) {
  for (int j = first; j < last; j += kLanes) store(to + j, zero());
}

void copy_plane(const CopyTask& task) {
  const float* from = task.from;
  float* to = task.to;
  // What is written behind an end is written again: by what follows in the row, or by the next row.
  for (int i = 0; i < task.rows; ++i, from += task.from_step, to += task.width) {
    clear(to, 0, task.begin);
    if (task.stride == 1) {
      for (int j = task.begin; j < task.end; j += kLanes) store(to + j, load_first(from + j, task.end - j));
    } else {
      for (int j = task.begin; j < task.end; ++j) to[j] = from[j * task.stride];
    }
    clear(to, task.end, task.width);
  }
}

// kPieces of a tile, or any number where it is 0. What a piece writes behind its end, the next one or the
// next row writes again.
template <int kPieces>
void gather_rows(const GatherTask& task) {
  const int count = kPieces == 0 ? task.num_pieces : kPieces;
  Piece pieces[kPieces == 0 ? 1 : kPieces];
  for (int i = 0; i < kPieces; ++i) pieces[i] = task.pieces[i];
  const Piece* const list = kPieces == 0 ? task.pieces : pieces;
  float* out = task.out;
  for (int r = 0; r < task.num_rows; ++r, out += task.width) {
    const float* row = task.planes + task.rows[r];
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) store(out + list[i].target, load(row + list[i].source));
  }
}

template <int kPieces = 8>
void gather(const GatherTask& task) {
  if constexpr (kPieces == 0) {
    gather_rows<0>(task);
  } else {
    task.num_pieces == kPieces ? gather_rows<kPieces>(task) : gather<kPieces - 1>(task);
  }
}

template <int kVectors, int kOutputs>
void multiply_tile(const MultiplyTask& task) {
  // The same for one vector as for two: a pixel's sum must not depend on the tile it falls into.
  constexpr int kPartial = num_partial_sums(2 * kOutputs);
  Vec sums[kPartial][kOutputs][kVectors];
#pragma GCC unroll 4
  for (int s = 0; s < kPartial; ++s)
#pragma GCC unroll 16
    for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[s][o][v] = zero();

  const float* x = task.x;
  const float* w = task.w;
  const auto add_sums = [&](Vec(&to)[kOutputs][kVectors]) __attribute__((always_inline)) {
    Vec values[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) values[v] = load(x + v * kLanes);
#pragma GCC unroll 16
    for (int o = 0; o < kOutputs; ++o) {
      const Vec weight = broadcast(w + o);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) to[o][v] = mul_add(weight, values[v], to[o][v]);
    }
    x += kVectors * kLanes;
    w += kOutputs;
  };
  int r = 0;
  for (; r + kPartial <= task.num_rows; r += kPartial)
#pragma GCC unroll 4
    for (int s = 0; s < kPartial; ++s) add_sums(sums[s]);
  for (; r < task.num_rows; ++r) add_sums(sums[0]);
#pragma GCC unroll 4
  for (int s = 1; s < kPartial; ++s)
#pragma GCC unroll 16
    for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[0][o][v] = add(sums[0][o][v], sums[s][o][v]);

  const Vec lower = broadcast(&task.lower);
  const Vec upper = broadcast(&task.upper);
#pragma GCC unroll 16
  for (int o = 0; o < kOutputs; ++o) {
    const Vec bias = broadcast(task.bias + o);
    float* y = task.y + o * task.y_stride;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const int pixels = task.pixels - v * kLanes;
      const bool whole = pixels >= kLanes;
      Vec start = bias;
      if (task.adds) start = whole ? load(y + v * kLanes) : load_first(y + v * kLanes, pixels);
      const Vec sum = clamp(add(sums[0][o][v], start), lower, upper);
      if (whole) {
        store(y + v * kLanes, sum);
      } else {
        store_first(y + v * kLanes, sum, pixels);
      }
    }
  }
}

using MultiplyFunction = void (*)(const MultiplyTask&);

// The kernel for a tile of `outputs`, found by counting down so that the list follows kMaxTile.
template <int kVectors, int kOutputs = kMaxTile>
MultiplyFunction multiply_function(int outputs) {
  if (outputs == kOutputs) return multiply_tile<kVectors, kOutputs>;
  if constexpr (kOutputs > 1) {
    return multiply_function<kVectors, kOutputs - 1>(outputs);
  } else {
    return nullptr;
  }
}

void multiply(const MultiplyTask& task) {
  (task.num_vectors == 2 ? multiply_function<2>(task.num_outputs)
                         : multiply_function<1>(task.num_outputs))(task);
}

}  // namespace

#endif  // COMPRESS_KERNELS_SPARSE_H_
