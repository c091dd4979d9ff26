// Convolution of floats by products of matrices of bfloat16; contracts at MatrixTask. A matrix of x has a
// place a row and kMatrixValues inputs in it, one of w a pair of inputs a row. Of the eight registers four
// hold sums: of four vectors of outputs, or of fewer on more tiles.
#ifndef COMPRESS_KERNELS_MATRIX_H_
#define COMPRESS_KERNELS_MATRIX_H_

#include "kernels/conv.h"
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
  for (int i = 0; i < kFloatParts; ++i) {
    const __m512i both = upper_halves(first[i], second[i]);
    if (count >= kMatrixValues) {
      _mm512_storeu_si512(to + i * part_stride, both);
    } else {
      _mm512_mask_storeu_epi16(to + i * part_stride, (__mmask32{1} << count) - 1, both);
    }
  }
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

void split_floats(const SplitTask& task) {
  if (task.from_step == task.channels && task.channels == task.pitch) {
    const int64_t values = static_cast<int64_t>(task.pixels) * task.channels;
    return split_values(task.from, values, values, task.to, task.part_stride);
  }
  int p = task.pitch == 4 && task.from_step == task.channels ? split_few_channels(task) : 0;
  for (; p < task.pixels; ++p) {
    split_values(task.from + p * task.from_step, task.channels, task.pitch,
                 task.to + static_cast<int64_t>(p) * task.pitch, task.part_stride);
  }
}

// As pack_rows, two channels at a time.
template <int kSteps>
void pack_pairs(const MatrixPackTask& task, int first, int last) {
  constexpr int kKnown = kSteps > 0 ? kSteps : 1;
  const compress::PackTask& from = task.from;
  const int8_t* const w = from.bytes;
  ByteLanes lanes[kKnown];
  const int8_t* source[kKnown];
  if constexpr (kSteps > 0) {
#pragma GCC unroll 8
    for (int s = 0; s < kSteps; ++s) {
      lanes[s] = lanes_of(from.steps[s], w);
      source[s] = source_of(from, from.steps[s], w);
    }
  }
  const auto packed = [&](int64_t row) __attribute__((always_inline)) {
    ByteVec found = no_bytes();
    if constexpr (kSteps > 0) {
#pragma GCC unroll 8
      for (int s = 0; s < kSteps; ++s) found = take_bytes(found, source[s] + row, lanes[s]);
    } else {
      for (int s = 0; s < from.num_steps; ++s) {
        const SqueezeStep& step = from.steps[s];
        found = take_bytes(found, source_of(from, step, w) + row, lanes_of(step, w));
      }
    }
    return finished(found);
  };
  for (int p = first; p < last; ++p) {
    const bool two = 2 * p + 1 < from.channels;
    int64_t row = static_cast<int64_t>(from.live[2 * p]) * from.channel_stride;
    int64_t next = two ? static_cast<int64_t>(from.live[2 * p + 1]) * from.channel_stride : row;
    for (int t = 0; t < from.taps; ++t, row += from.tap_stride, next += from.tap_stride) {
      const Lanes pair = upper_pairs(packed(row), two ? packed(next) : zero());
      BFloat16* const out = task.out + static_cast<int64_t>(task.first_rows[t] + p) * 2 * kLanes;
      _mm512_store_si512(out, pair);
    }
  }
}

void pack_matrices(const MatrixPackTask& task, int first, int last) {
  switch (task.from.num_steps) {
    case 1:
      return pack_pairs<1>(task, first, last);
    case 2:
      return pack_pairs<2>(task, first, last);
    case 3:
      return pack_pairs<3>(task, first, last);
    case 4:
      return pack_pairs<4>(task, first, last);
    default:
      return pack_pairs<0>(task, first, last);
  }
}

// The sums of one vector of outputs, by the three parts of x in registers 4 to 6.
template <int kSums>
inline void add_all_parts(const BFloat16* w, int64_t row) {
  load_matrix<7>(w, row);
  add_float_products<kSums, 4, 7>();
  add_float_products<kSums, 5, 7>();
  add_float_products<kSums, 6, 7>();
}

// The sums of tile `tile` and vector `vector` of a call: in register tile * kVectors + vector.
// One matrix of each part of x, by one of each vector of w. Every output's products are added in the same
// order, whatever the call's shape: the highest parts', the middle ones', the lowest ones'.
template <int kVectors, int kTiles>
inline void multiply_parts(const BFloat16* x, int64_t part, int64_t tile, int64_t step, const BFloat16* w,
                           int64_t vector_stride) {
  constexpr int64_t kRow = 2 * kLanes * sizeof(BFloat16);
  if constexpr (kTiles == 1) {
    load_matrix<4>(x, step);
    load_matrix<7>(w, kRow);
    add_float_products<0, 4, 7>();
    load_matrix<5>(x + part, step);
    add_float_products<0, 5, 7>();
    load_matrix<6>(x + 2 * part, step);
    add_float_products<0, 6, 7>();
    if constexpr (kVectors >= 2) add_all_parts<1>(w + vector_stride, kRow);
    if constexpr (kVectors >= 3) add_all_parts<2>(w + 2 * vector_stride, kRow);
    if constexpr (kVectors >= 4) add_all_parts<3>(w + 3 * vector_stride, kRow);
  } else {
    load_matrix<4>(w, kRow);
    if constexpr (kVectors == 2) load_matrix<5>(w + vector_stride, kRow);
    for (int i = 0; i < kFloatParts; ++i, x += part) {
      load_matrix<6>(x, step);
      add_float_products<0, 6, 4>();
      if constexpr (kVectors == 2) add_float_products<1, 6, 5>();
      load_matrix<7>(x + tile, step);
      add_float_products<kVectors, 7, 4>();
      if constexpr (kVectors == 2) add_float_products<kVectors + 1, 7, 5>();
      if constexpr (kTiles == 4) {
        load_matrix<6>(x + 2 * tile, step);
        add_float_products<2, 6, 4>();
        load_matrix<7>(x + 3 * tile, step);
        add_float_products<3, 7, 4>();
      }
    }
  }
}

// Sums of a tile and a vector, [place][lane], to their outputs.
inline void store_places(const MatrixTask& task, const float (*sums)[kLanes], int tile, int first_output) {
  const compress::Epilogue& epilogue = task.epilogue;
  const int left = task.k - first_output;
  const Vec bias = load(epilogue.bias + first_output), scale = load(epilogue.scale + first_output);
  const Vec post = epilogue.post == nullptr ? zero() : load(epilogue.post + first_output);
  const Vec lower = broadcast(&epilogue.lower), upper = broadcast(&epilogue.upper);
  Vec abs_sum = zero();
  const int first = tile * kMatrixPlaces;
  int row = first / task.row_places, column = first % task.row_places;
  const int end = task.places - first < kMatrixPlaces ? task.places - first : kMatrixPlaces;
  for (int r = 0; r < end; ++row) {
    const int pixels = task.row_pixels - column < end - r ? task.row_pixels - column : end - r;
    float* y = task.y + (static_cast<int64_t>(row) * task.row_pixels + column) * task.k + first_output;
    for (int i = 0; i < pixels; ++i, y += task.k) {
      const Vec scaled = mul(scale, add(load(sums[r + i]), bias));
      const Vec value = clamp(epilogue.post == nullptr ? scaled : add(scaled, post), lower, upper);
      abs_sum = add(abs_sum, absolute(value));
      left >= kLanes ? store(y, value) : store_first(y, value, left);
    }
    r += task.row_places - column;
    column = 0;
  }
  if (task.unit_sums != nullptr) {
    float* const to =
        task.unit_sums + static_cast<int64_t>(tile / task.unit) * task.unit_sums_pitch + first_output;
    store(to, tile % task.unit == 0 ? abs_sum : add(load(to), abs_sum));
  }
}

template <int kVectors, int kTiles>
void multiply_tiles(const MatrixTask& task, const BFloat16* w, int first_output, int tile) {
  zero_matrix<0>();
  zero_matrix<1>();
  zero_matrix<2>();
  zero_matrix<3>();
  const int64_t step = task.place_stride * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t tile_stride = static_cast<int64_t>(kMatrixPlaces) * task.place_stride;
  const BFloat16* const x =
      task.x + tile * tile_stride - static_cast<int64_t>(task.first_place) * task.place_stride;
  for (int r = 0; r < task.num_runs; ++r) {
    const compress::MatrixRun run = task.runs[r];
    const float* source = nullptr;
    int64_t found;
    const int32_t* lines = next_lines(task.prefetch, run.matrices * kLinesAtATime, &source, &found);
    const BFloat16* from = x + run.offset;
    for (int m = 0; m < run.matrices; ++m, from += kMatrixValues, w += kMatrixWeights) {
      for (int i = 0; i < kLinesAtATime && found > 0; ++i, --found)
        __builtin_prefetch(source + *lines++, 0, 2);
      multiply_parts<kVectors, kTiles>(from, task.part_stride, tile_stride, step, w, task.vector_stride);
    }
  }
  alignas(64) float sums[4][kMatrixPlaces][kLanes];
  constexpr int64_t kRow = sizeof(sums[0][0]);
  store_matrix<0>(sums[0], kRow);
  if constexpr (kVectors * kTiles >= 2) store_matrix<1>(sums[1], kRow);
  if constexpr (kVectors * kTiles >= 3) store_matrix<2>(sums[2], kRow);
  if constexpr (kVectors * kTiles >= 4) store_matrix<3>(sums[3], kRow);
  for (int t = 0; t < kTiles; ++t) {
    for (int v = 0; v < kVectors; ++v)
      store_places(task, sums[t * kVectors + v], tile + t, first_output + v * kLanes);
  }
}

void multiply_matrices(const MatrixTask& task, const BFloat16* w, int first_vector, int num_vectors,
                       int first_tile, int last_tile) {
  MatrixSizes sizes;
  for (int m = 0; m < 8; ++m) {
    sizes.row_bytes[m] = kMatrixBytes;
    sizes.rows[m] = kMatrixRows;
  }
  size_matrices(sizes);
  // As many tiles as one call takes with the vectors that four do not take; those behind a call's last tile
  // are left out.
  const int whole = num_vectors / kMatrixVectors * kMatrixVectors, rest = num_vectors - whole;
  for (int t = first_tile; t < last_tile; ++t) {
    for (int v = 0; v < whole; v += kMatrixVectors)
      multiply_tiles<4, 1>(task, w + v * task.vector_stride, (first_vector + v) * kLanes, t);
    const BFloat16* const others = w + whole * task.vector_stride;
    const int output = (first_vector + whole) * kLanes;
    if (rest == 3) multiply_tiles<3, 1>(task, others, output, t);
    const int done = t - first_tile + 1;
    const bool last = t + 1 == last_tile;
    if (rest == 2 && done % 2 == 0) multiply_tiles<2, 2>(task, others, output, t - 1);
    if (rest == 2 && done % 2 == 1 && last) multiply_tiles<2, 1>(task, others, output, t);
    if (rest == 1 && done % 4 == 0) multiply_tiles<1, 4>(task, others, output, t - 3);
    if (rest == 1 && done % 4 != 0 && last) {
      for (int i = done % 4; i > 0; --i) multiply_tiles<1, 1>(task, others, output, t - i + 1);
    }
  }
  release_matrices();
}

}  // namespace

#endif  // COMPRESS_KERNELS_MATRIX_H_
