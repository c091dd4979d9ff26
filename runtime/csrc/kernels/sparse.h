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

struct Window {
  int32_t lanes[2 * kLanes];

  constexpr Window() : lanes() {
    for (int i = 0; i < kLanes; ++i) {
      lanes[i] = -1;
      lanes[kLanes + i] = i;
    }
  }
};
constexpr Window kWindow;

// Lane i becomes source[i - first], for lanes from `first` on; the others stay.
inline Lanes lanes_from(int first) { return load_lanes(kWindow.lanes + kLanes - first); }

// Columns [j, j + kLanes) of every row, of which [begin, end) come from the input.
inline void copy_columns(const CopyTask& task, int j, int begin, int end) {
  const int count = task.width - j;
  float* to = task.to + j;
  if (begin >= end) {
    for (int i = 0; i < task.rows; ++i, to += task.width) store_first(to, zero(), count);
    return;
  }
  const float* from = task.from + begin;
  if (begin == j) {
    for (int i = 0; i < task.rows; ++i, from += task.from_step, to += task.width)
      store_first(to, load_first(from, end - begin), count);
    return;
  }
  const Lanes lanes = lanes_from(begin - j);
  for (int i = 0; i < task.rows; ++i, from += task.from_step, to += task.width)
    store_first(to, take(zero(), load_first(from, end - begin), lanes), count);
}

void copy_plane(const CopyTask& task) {
  if (task.stride == 1) {
    for (int j = 0; j < task.width; j += kLanes) {
      const int begin = task.begin > j ? task.begin : j;
      const int end = task.end < j + kLanes ? task.end : j + kLanes;
      copy_columns(task, j, begin, end);
    }
    return;
  }
  const float* from = task.from;
  float* to = task.to;
  for (int i = 0; i < task.rows; ++i, from += task.from_step, to += task.width) {
    for (int j = 0; j < task.begin; ++j) to[j] = 0.0f;
    for (int j = task.begin; j < task.end; ++j) to[j] = from[j * task.stride];
    for (int j = task.end; j < task.width; ++j) to[j] = 0.0f;
  }
}

// The pieces that one vector of every row is put together from.
template <int kPieces>
struct VectorPieces {
  Lanes lanes[kPieces];
  int64_t sources[kPieces];

  explicit VectorPieces(const Piece* pieces) {
    for (int i = 0; i < kPieces; ++i) {
      lanes[i] = lanes_from(pieces[i].target % kLanes);
      sources[i] = pieces[i].source;
    }
  }
  COMPRESS_INLINE Vec read(const float* row) const {
    Vec value = load(row + sources[0]);
#pragma GCC unroll 4
    for (int i = 1; i < kPieces; ++i) value = take(value, load(row + sources[i]), lanes[i]);
    return value;
  }
};

constexpr int kFewPieces = 4;

// Both vectors of every row, from kFirst and kSecond pieces.
template <int kFirst, int kSecond>
void gather_pair(const GatherTask& task) {
  const VectorPieces<kFirst> first(task.pieces);
  const VectorPieces<kSecond> second(task.pieces + kFirst);
  float* out = task.out;
  for (int r = 0; r < task.num_rows; ++r, out += 2 * kLanes) {
    const float* row = task.planes + task.rows[r];
    const Vec low = first.read(row);
    const Vec high = second.read(row);
    store(out, low);
    store(out + kLanes, high);
  }
}

// Any number of vectors and pieces.
void gather_any(const GatherTask& task) {
  float* out = task.out;
  for (int r = 0; r < task.num_rows; ++r, out += task.width) {
    const float* row = task.planes + task.rows[r];
    for (int i = 0; i < task.num_pieces;) {
      float* const target = out + task.pieces[i].target;
      Vec value = load(row + task.pieces[i++].source);
      for (; i < task.num_pieces && task.pieces[i].target % kLanes != 0; ++i)
        value = take(value, load(row + task.pieces[i].source), lanes_from(task.pieces[i].target % kLanes));
      store(target, value);
    }
  }
}

using GatherFunction = void (*)(const GatherTask&);

template <int kFirst, int kSecond = kFewPieces>
GatherFunction gather_function(int first, int second) {
  if constexpr (kFirst == 0 || kSecond == 0) {
    return gather_any;
  } else {
    if (first != kFirst) return gather_function<kFirst - 1>(first, second);
    return second == kSecond ? gather_pair<kFirst, kSecond>
                             : gather_function<kFirst, kSecond - 1>(first, second);
  }
}

void gather(const GatherTask& task) {
  int first = 0;
  while (first < task.num_pieces && task.pieces[first].target < kLanes) ++first;
  gather_function<kFewPieces>(first, task.num_pieces - first)(task);
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

// Where an output's weights of one row fit into a vector, a handful of pixels can be broadcast against them
// instead.
constexpr int kFewPixels = kMaxTile <= kLanes ? kMaxTile / 2 : 0;

template <int kPixels>
void multiply_few(const MultiplyTask& task) {
  Vec sums[kPixels];
#pragma GCC unroll 8
  for (int p = 0; p < kPixels; ++p) sums[p] = zero();
  const float* x = task.x;
  const float* w = task.w;
  for (int r = 0; r < task.num_rows; ++r, x += kLanes, w += task.num_outputs) {
    const Vec weights = load(w);  // those behind the panel's outputs are computed with and thrown away
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) sums[p] = mul_add(weights, broadcast(x + p), sums[p]);
  }
  const Vec lower = broadcast(&task.lower);
  const Vec upper = broadcast(&task.upper);
  float lanes[kLanes];
  for (int p = 0; p < kPixels; ++p) {
    float* y = task.y + p;
    if (task.adds) {
      for (int o = 0; o < task.num_outputs; ++o) lanes[o] = y[o * task.y_stride];
    }
    const Vec start = load_first(task.adds ? lanes : task.bias, task.num_outputs);
    store(lanes, clamp(add(sums[p], start), lower, upper));
    for (int o = 0; o < task.num_outputs; ++o) y[o * task.y_stride] = lanes[o];
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

template <int kPixels = kFewPixels>
MultiplyFunction few_function(int pixels) {
  if constexpr (kPixels == 0) {
    return nullptr;
  } else {
    return pixels == kPixels ? multiply_few<kPixels> : few_function<kPixels - 1>(pixels);
  }
}

void multiply(const MultiplyTask& task) {
  // From four outputs on, both ways add a pixel's products up in the same order.
  if (task.num_vectors == 1 && task.num_outputs >= 4 && task.pixels < task.num_outputs &&
      task.pixels <= kFewPixels) {
    return few_function(task.pixels)(task);
  }
  (task.num_vectors == 2 ? multiply_function<2>(task.num_outputs)
                         : multiply_function<1>(task.num_outputs))(task);
}

}  // namespace

#endif  // COMPRESS_KERNELS_SPARSE_H_
