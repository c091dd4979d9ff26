// Convolution of floats by products of matrices of bfloat16; contracts at MatrixTask. A matrix of x has a
// place a row and kMatrixValues inputs in it, one of w a pair of inputs a row. Of the eight registers four
// hold sums: of four vectors of outputs, or of fewer on more tiles.
#ifndef COMPRESS_KERNELS_MATRIX_H_
#define COMPRESS_KERNELS_MATRIX_H_

#include "kernels/conv.h"
#include "kernels/int8_matrix.h"
#include "kernels/squeeze.h"
#include "kernels/table.h"

namespace {

using compress::BFloat16;
using compress::kFloatParts;
using compress::kMatrixPlaces;
using compress::kMatrixValues;
using compress::kMatrixVectors;
using compress::MatrixPackTask;
using compress::MatrixTask;
using compress::SplitTask;

static_assert(kLanes == kMatrixPlaces && kFloatParts == 3 && kMatrixVectors == 4);

// Values of a matrix of weights.
constexpr int kMatrixWeights = kMatrixValues * kLanes;

// Lines that are asked for while a matrix of each part is multiplied.
constexpr int kLinesAtATime = 4;

// Pairs packed before one whose weights were asked for is read.
constexpr int kPairsAhead = 4;

inline void split_vector(Vec values, Vec (&parts)[kFloatParts]) {
  parts[0] = upper_half(values);
  const Vec rest = sub(values, parts[0]);
  parts[1] = upper_half(rest);
  parts[2] = sub(rest, parts[1]);
}

// The first `count` of at most kMatrixValues, from the parts of two vectors.
inline void store_parts(const Vec (&first)[kFloatParts], const Vec (&second)[kFloatParts], int64_t count,
                        BFloat16* to, int64_t part_stride) {
#pragma GCC unroll 3
  for (int i = 0; i < kFloatParts; ++i, to += part_stride) store_upper_halves(to, first[i], second[i], count);
}

// `values` floats, and zeros up to `size`.
inline void split_values(const float* from, int64_t values, int64_t size, BFloat16* to, int64_t part_stride) {
  int64_t i = 0;
  Vec first[kFloatParts], second[kFloatParts];
  for (; i + kMatrixValues <= values; i += kMatrixValues) {
    split_vector(load(from + i), first);
    split_vector(load(from + i + kLanes), second);
    store_parts(first, second, kMatrixValues, to + i, part_stride);
  }
  for (; i < size; i += kMatrixValues) {
    const auto left = static_cast<int>(values - i);
    split_vector(left >= kLanes ? load(from + i) : left > 0 ? load_first(from + i, left) : zero(), first);
    split_vector(left > kLanes ? load_first(from + i + kLanes, left - kLanes) : zero(), second);
    store_parts(first, second, size - i, to + i, part_stride);
  }
}

// Pixels of up to four channels, four a vector.
inline int split_few_channels(const SplitTask& task) {
  constexpr int kAtOnce = kLanes / 4;
  alignas(64) int32_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i % 4 < task.channels ? i / 4 * task.channels + i % 4 : -1;
  const Lanes places = load_lanes(lanes);
  const int values = kAtOnce * task.channels;
  int p = 0;
  for (; p + 2 * kAtOnce <= task.pixels; p += 2 * kAtOnce) {
    const float* const from = task.from + p * task.from_step;
    Vec parts[2][kFloatParts];
    split_vector(take(zero(), load_first(from, values), places), parts[0]);
    split_vector(take(zero(), load_first(from + values, values), places), parts[1]);
    store_parts(parts[0], parts[1], kMatrixValues, task.to + p * 4, task.part_stride);
  }
  return p;
}

// Pixels of one channel, a vector of them.
inline int split_one_channel(const SplitTask& task) {
  int p = 0;
  for (; p + kLanes <= task.pixels; p += kLanes) {
    Vec parts[kFloatParts];
    split_vector(load(task.from + p), parts);
    for (int i = 0; i < kFloatParts; ++i)
      store_pairs(task.to + i * task.part_stride + 2 * p, parts[i], zero());
  }
  return p;
}

void split_floats(const SplitTask& task) {
  if (task.from_step == task.channels && task.channels == task.pitch) {
    const int64_t values = static_cast<int64_t>(task.pixels) * task.channels;
    return split_values(task.from, values, values, task.to, task.part_stride);
  }
  int p = 0;
  if (task.from_step == task.channels && task.pitch == 4) p = split_few_channels(task);
  if (task.from_step == task.channels && task.pitch == 2) p = split_one_channel(task);
  for (; p < task.pixels; ++p) {
    split_values(task.from + p * task.from_step, task.channels, task.pitch,
                 task.to + static_cast<int64_t>(p) * task.pitch, task.part_stride);
  }
}

// Of weights as they are stored.
template <typename Weight>
constexpr int kWeightParts = sizeof(Weight) == 1 ? 1 : compress::kHalfParts;

// As pack_weights, two channels at a time.
template <typename Weight>
void pack_pairs(const MatrixPackTask& task, const Weight* w, int first, int last) {
  const compress::PackTask& from = task.from;
  with_steps(from, w, [&]<int kSteps>(const Squeezed<kSteps, Weight>& squeezed) {
    const auto ask_for = [&](int32_t channel) __attribute__((always_inline)) {
      int64_t row = static_cast<int64_t>(channel) * from.channel_stride;
      for (int t = 0; t < from.taps; ++t, row += from.tap_stride) {
        for (int s = 0; s < kSteps; ++s) __builtin_prefetch(squeezed.source[s] + row, 0, 2);
      }
    };
    for (int p = first; p < last; ++p) {
      const int ahead = 2 * (p + kPairsAhead);
      if (task.far && ahead + 1 < from.channels) {
        ask_for(from.live[ahead]);
        ask_for(from.live[ahead + 1]);
      }
      const bool two = 2 * p + 1 < from.channels;
      int64_t row = static_cast<int64_t>(from.live[2 * p]) * from.channel_stride;
      int64_t next = two ? static_cast<int64_t>(from.live[2 * p + 1]) * from.channel_stride : row;
      for (int t = 0; t < from.taps; ++t, row += from.tap_stride, next += from.tap_stride) {
        Vec even = squeezed.at(row), odd = two ? squeezed.at(next) : zero();
        BFloat16* out = task.out + static_cast<int64_t>(task.first_rows[t] + p) * 2 * kLanes;
#pragma GCC unroll 2
        for (int i = 0; i < kWeightParts<Weight>; ++i, out += task.part_stride) {
          store_pairs(out, even, odd);
          even = sub(even, upper_half(even));
          odd = sub(odd, upper_half(odd));
        }
      }
    }
  });
}

void pack_matrices(const MatrixPackTask& task, int first, int last) {
  task.from.bytes != nullptr ? pack_pairs(task, task.from.bytes, first, last)
                             : pack_pairs(task, task.from.halves, first, last);
}

// Where a matrix is found, and the next ones.
struct Matrices {
  const BFloat16* x;
  int64_t x_part, x_tile, x_step;
  const BFloat16* w;
  int64_t w_part, w_vector;
};
constexpr int64_t kWeightRow = 2 * kLanes * sizeof(BFloat16);

// Adds part `part` of a matrix of weights, by the parts of x in registers 4 to 6 that it is multiplied with.
template <int kSums, int kPart>
inline void add_weight_part(const BFloat16* w) {
  load_matrix<7>(w, kWeightRow);
  add_float_products<kSums, 4, 7>();
  add_float_products<kSums, 5, 7>();
  if constexpr (kPart == 0) add_float_products<kSums, 6, 7>();
}

template <int kSums, int kParts>
inline void add_vector(const BFloat16* w, int64_t part) {
  add_weight_part<kSums, 0>(w);
  if constexpr (kParts >= 2) add_weight_part<kSums, 1>(w + part);
}

// The products of one matrix of x and one of w, of each part, tile and vector: the sums of tile t and vector
// v are in register t * kVectors + v. Every output's are added in the same order, whatever the shape of the
// call: those of the weights' highest part, by the highest, the middle and the lowest of x; then of the next.
template <int kVectors, int kTiles, int kParts>
inline void multiply_parts(const Matrices& at) {
  if constexpr (kTiles == 1) {
    load_matrix<4>(at.x, at.x_step);
    load_matrix<5>(at.x + at.x_part, at.x_step);
    load_matrix<6>(at.x + 2 * at.x_part, at.x_step);
    add_vector<0, kParts>(at.w, at.w_part);
    if constexpr (kVectors >= 2) add_vector<1, kParts>(at.w + at.w_vector, at.w_part);
    if constexpr (kVectors >= 3) add_vector<2, kParts>(at.w + 2 * at.w_vector, at.w_part);
    if constexpr (kVectors >= 4) add_vector<3, kParts>(at.w + 3 * at.w_vector, at.w_part);
  } else {
    const BFloat16* w = at.w;
    for (int j = 0; j < kParts; ++j, w += at.w_part) {
      load_matrix<4>(w, kWeightRow);
      if constexpr (kVectors == 2) load_matrix<5>(w + at.w_vector, kWeightRow);
      const BFloat16* x = at.x;
      for (int i = 0; i < kFloatParts - j; ++i, x += at.x_part) {
        load_matrix<6>(x, at.x_step);
        add_float_products<0, 6, 4>();
        if constexpr (kVectors == 2) add_float_products<1, 6, 5>();
        load_matrix<7>(x + at.x_tile, at.x_step);
        add_float_products<kVectors, 7, 4>();
        if constexpr (kVectors == 2) add_float_products<kVectors + 1, 7, 5>();
        if constexpr (kTiles == 4) {
          load_matrix<6>(x + 2 * at.x_tile, at.x_step);
          add_float_products<2, 6, 4>();
          load_matrix<7>(x + 3 * at.x_tile, at.x_step);
          add_float_products<3, 7, 4>();
        }
      }
    }
  }
}

// Sums of a tile, [vector][place][lane], to their outputs.
template <int kVectors>
inline void store_places(const MatrixTask& task, const float (*sums)[kMatrixPlaces][kLanes], int tile,
                         int first_output) {
  const compress::Epilogue& epilogue = task.epilogue;
  const bool has_post = epilogue.post != nullptr;
  const int left = task.k - first_output - (kVectors - 1) * kLanes;  // in the last vector
  const Vec lower = broadcast(&epilogue.lower), upper = broadcast(&epilogue.upper);
  Vec bias[kVectors], scale[kVectors], post[kVectors], abs_sums[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int o = first_output + v * kLanes;
    bias[v] = load(epilogue.bias + o);
    scale[v] = load(epilogue.scale + o);
    post[v] = has_post ? load(epilogue.post + o) : zero();
    abs_sums[v] = zero();
  }
  const int first = tile * kMatrixPlaces;
  int row = first / task.row_places, column = first % task.row_places;
  const int end = task.places - first < kMatrixPlaces ? task.places - first : kMatrixPlaces;
  for (int r = 0; r < end; ++row) {
    const int pixels = task.row_pixels - column < end - r ? task.row_pixels - column : end - r;
    float* y = task.y + (static_cast<int64_t>(row) * task.row_pixels + column) * task.k + first_output;
    for (int i = 0; i < pixels; ++i, y += task.k) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Vec scaled = mul(scale[v], add(load(sums[v][r + i]), bias[v]));
        const Vec value = clamp(has_post ? add(scaled, post[v]) : scaled, lower, upper);
        abs_sums[v] = add(abs_sums[v], absolute(value));
        if (v + 1 < kVectors || left >= kLanes) {
          store(y + v * kLanes, value);
        } else {
          store_first(y + v * kLanes, value, left);
        }
      }
    }
    r += task.row_places - column;
    column = 0;
  }
  if (task.unit_sums == nullptr) return;
  float* const to =
      task.unit_sums + static_cast<int64_t>(tile / task.unit) * task.unit_sums_pitch + first_output;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v)
    store(to + v * kLanes, tile % task.unit == 0 ? abs_sums[v] : add(load(to + v * kLanes), abs_sums[v]));
}

template <int kVectors, int kTiles, int kParts>
void multiply_tiles(const MatrixTask& task, const BFloat16* w, int first_output, int tile) {
  zero_matrix<0>();
  zero_matrix<1>();
  zero_matrix<2>();
  zero_matrix<3>();
  Matrices at;
  at.x_part = task.part_stride;
  at.x_tile = static_cast<int64_t>(kMatrixPlaces) * task.place_stride;
  at.x_step = task.place_stride * static_cast<int64_t>(sizeof(BFloat16));
  at.w = w;
  at.w_part = task.weight_part_stride;
  at.w_vector = task.vector_stride;
  const BFloat16* const x =
      task.x + (static_cast<int64_t>(tile) * kMatrixPlaces - task.first_place) * task.place_stride;
  for (int r = 0; r < task.num_runs; ++r) {
    const compress::MatrixRun run = task.runs[r];
    const float* source = nullptr;
    int64_t found;
    const int32_t* lines = next_lines(task.prefetch, run.matrices * kLinesAtATime, &source, &found);
    at.x = x + run.offset;
    for (int m = 0; m < run.matrices; ++m, at.x += kMatrixValues, at.w += kMatrixWeights) {
      for (int i = 0; i < kLinesAtATime && found > 0; ++i, --found)
        __builtin_prefetch(source + *lines++, 0, 2);
      multiply_parts<kVectors, kTiles, kParts>(at);
    }
  }
  alignas(64) float sums[4][kMatrixPlaces][kLanes];
  constexpr int64_t kRow = sizeof(sums[0][0]);
  store_matrix<0>(sums[0], kRow);
  if constexpr (kVectors * kTiles >= 2) store_matrix<1>(sums[1], kRow);
  if constexpr (kVectors * kTiles >= 3) store_matrix<2>(sums[2], kRow);
  if constexpr (kVectors * kTiles >= 4) store_matrix<3>(sums[3], kRow);
  for (int t = 0; t < kTiles; ++t) store_places<kVectors>(task, sums + t * kVectors, tile + t, first_output);
}

// Tiles [first, last), as many at a time as there are registers for their sums.
template <int kVectors, int kParts>
void multiply_vectors(const MatrixTask& task, const BFloat16* w, int first_output, int first, int last) {
  constexpr int kTiles = kMatrixVectors / kVectors;
  int t = first;
  for (; t + kTiles <= last; t += kTiles) multiply_tiles<kVectors, kTiles, kParts>(task, w, first_output, t);
  if constexpr (kTiles > 1) {
    for (; t < last; ++t) multiply_tiles<kVectors, 1, kParts>(task, w, first_output, t);
  }
}

// All vectors of a few tiles, whose parts stay near, then of the next.
template <int kParts>
void multiply_all(const MatrixTask& task, const BFloat16* w, int first_vector, int num_vectors,
                  int first_tile, int last_tile) {
  constexpr int kTiles = 4;
  for (int t = first_tile, end; t < last_tile; t = end) {
    end = t + kTiles < last_tile ? t + kTiles : last_tile;
    for (int v = 0; v < num_vectors; v += kMatrixVectors) {
      const BFloat16* const of_vector = w + v * task.vector_stride;
      const int output = (first_vector + v) * kLanes, left = num_vectors - v;
      if (left >= 4) {
        multiply_vectors<4, kParts>(task, of_vector, output, t, end);
      } else if (left == 3) {
        multiply_vectors<3, kParts>(task, of_vector, output, t, end);
      } else if (left == 2) {
        multiply_vectors<2, kParts>(task, of_vector, output, t, end);
      } else {
        multiply_vectors<1, kParts>(task, of_vector, output, t, end);
      }
    }
  }
}

void multiply_matrices(const MatrixTask& task, const BFloat16* w, int first_vector, int num_vectors,
                       int first_tile, int last_tile) {
  size_registers(kMatrixRows);
  task.weight_parts == 1
      ? multiply_all<1>(task, w, first_vector, num_vectors, first_tile, last_tile)
      : multiply_all<compress::kHalfParts>(task, w, first_vector, num_vectors, first_tile, last_tile);
  release_matrices();
}

}  // namespace

#endif  // COMPRESS_KERNELS_MATRIX_H_
