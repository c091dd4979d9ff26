// The saliency predictor: channel means of the input, a vector-matrix product, and the counting that finds
// its largest values. Contracts at KernelTable.
#ifndef COMPRESS_KERNELS_SALIENCY_H_
#define COMPRESS_KERNELS_SALIENCY_H_

#include "kernels/quarters.h"
#include "kernels/table.h"

namespace {

// kVectors vectors of channels over all pixels, `stride` floats apart. `kPart`: of the only one, fewer than
// kLanes channels are left; `kShifted`: each is moved by its `shift` first.
template <int kVectors, bool kPart, bool kShifted>
inline void abs_sum(const float* x, int64_t pixels, int64_t stride, int left, const float* shift,
                    float* sums) {
  static_assert(!kPart || kVectors == 1);
  Vec partial[4][kVectors];
  Vec moved[kVectors];
  const auto read = [&](const float* p) { return kPart ? load_first(p, left) : load(p); };
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    moved[v] = kShifted ? read(shift + v * kLanes) : zero();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) partial[i][v] = zero();
  }
  const auto next = [&](int64_t pixel, Vec(&sum)[kVectors]) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Vec value = read(x + pixel * stride + v * kLanes);
      sum[v] = add(sum[v], absolute(kShifted ? add(value, moved[v]) : value));
    }
  };
  int64_t p = 0;
  for (; p + 4 <= pixels; p += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) next(p + i, partial[i]);
  }
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    if (p + i < pixels) next(p + i, partial[i]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const Vec sum = add(add(partial[0][v], partial[1][v]), add(partial[2][v], partial[3][v]));
    if constexpr (kPart) {
      store_first(sums, sum, left);
    } else {
      store(sums + v * kLanes, sum);
    }
  }
}

// Pixel after pixel, the four partial sums in memory, so that x is read as it lies: many channels put each
// pixel on a page of its own, and at a page's end the processor's own guesses end too, so what comes is asked
// for (eight images of ResNet-50, whose planes come from far away: 5 % of all).
template <bool kShifted>
inline void abs_sums_streamed(const float* x, int64_t pixels, int32_t channels, const float* shift,
                              float* sums) {
  constexpr int kAheadFloats = 2048;
  clear_quarters(sums, channels, 0, channels);
  for (int64_t p = 0; p < pixels; p += 4, x += 4 * static_cast<int64_t>(channels)) {
    const int rows = pixels - p < 4 ? static_cast<int>(pixels - p) : 4;
    for (int c = 0; c < channels; c += kLanes) {
      const int left = channels - c;
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        const int64_t at = i * static_cast<int64_t>(channels) + c;
        __builtin_prefetch(x + at + kAheadFloats, 0, 2);
        const Vec value = load_first(x + at, left);
        const Vec moved = kShifted ? add(value, load_first(shift + c, left)) : value;
        store_first(sums + at, add(load_first(sums + at, left), absolute(moved)), left);
      }
    }
  }
  add_quarters(sums, channels, 0, channels);
}

// A few channels: sixteen pixels are as many vectors as there are channels, or a multiple, so that sixteen
// partial sums of each channel lie in whole vectors.
template <bool kShifted, int kChannels>
inline void abs_sums_of_few(const float* x, int64_t pixels, const float* shift, float* sums) {
  constexpr int kPixels = 16, kFloats = kPixels * kChannels, kVectors = kFloats / kLanes;
  static_assert(kFloats % kLanes == 0);
  float partial[kFloats], moved[kFloats];
  for (int i = 0; i < kFloats; ++i) moved[i] = kShifted ? shift[i % kChannels] : 0.0f;
  Vec sum[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) sum[v] = zero();
  for (; pixels >= kPixels; pixels -= kPixels, x += kFloats) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Vec value = load(x + v * kLanes);
      sum[v] = add(sum[v], absolute(kShifted ? add(value, load(moved + v * kLanes)) : value));
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) store(partial + v * kLanes, sum[v]);
  for (int i = 0; i < pixels * kChannels; ++i) partial[i] += __builtin_fabsf(x[i] + moved[i]);
  for (int half = kFloats / 2; half >= kChannels; half /= 2) {
    for (int i = 0; i < half; ++i) partial[i] += partial[i + half];
  }
  for (int c = 0; c < kChannels; ++c) sums[c] = partial[c];
}

template <bool kShifted>
inline void moved_abs_sums(const float* x, int64_t pixels, int32_t channels, const float* shift,
                           float* sums) {
  switch (channels) {
    case 1:
      return abs_sums_of_few<kShifted, 1>(x, pixels, shift, sums);
    case 2:
      return abs_sums_of_few<kShifted, 2>(x, pixels, shift, sums);
    case 3:
      return abs_sums_of_few<kShifted, 3>(x, pixels, shift, sums);
    case 4:
      return abs_sums_of_few<kShifted, 4>(x, pixels, shift, sums);
  }
  constexpr int kMany = 128;
  if (channels >= kMany) return abs_sums_streamed<kShifted>(x, pixels, channels, shift, sums);
  // Several vectors at a time, as far as registers go, so that memory is read in longer stretches.
  constexpr int kVectors = kMaxTile >= 14 ? 4 : 2;
  const auto own = [&](int c) { return kShifted ? shift + c : nullptr; };
  int c = 0;
  for (; c + kVectors * kLanes <= channels; c += kVectors * kLanes)
    abs_sum<kVectors, false, kShifted>(x + c, pixels, channels, kLanes, own(c), sums + c);
  for (; c + kLanes <= channels; c += kLanes)
    abs_sum<1, false, kShifted>(x + c, pixels, channels, kLanes, own(c), sums + c);
  if (c < channels) abs_sum<1, true, kShifted>(x + c, pixels, channels, channels - c, own(c), sums + c);
}

void abs_sums(const float* x, int64_t pixels, int32_t channels, const float* shift, float* sums) {
  if (shift == nullptr) return moved_abs_sums<false>(x, pixels, channels, shift, sums);
  moved_abs_sums<true>(x, pixels, channels, shift, sums);
}

// s[first … last - 1] += the products of kRows rows, row after row. While they are added, as many later ones
// (`next`, null where there are none) are asked for: the matrix is read once per call, mostly from far away.
template <int kRows, typename Weight>
inline void add_rows(const float* u, const Weight* const* rows, const Weight* const* next, int32_t first,
                     int32_t last, float* s) {
  constexpr int kLine = compress::kLineFloats * sizeof(float) / sizeof(Weight);
  Vec values[kRows];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) values[i] = broadcast(u + i);
  for (int o = first; o < last; o += kLanes) {
    Vec sum = load(s + o);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) sum = add(sum, mul(values[i], load(rows[i] + o)));
    store(s + o, sum);
    if (next != nullptr && (kLanes >= kLine || (o - first) % kLine == 0)) {
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) __builtin_prefetch(next[i] + o, 0, 2);
    }
  }
}

template <typename Weight>
inline void predict(const float* u, const int32_t* live, int32_t channels, const Weight* a, int64_t pitch,
                    const float* steps, const float* r, float slope, int32_t first, int32_t last, float* s) {
  constexpr int kRows = 4;
  for (int o = first; o < last; o += kLanes) store(s + o, zero());
  // Threads have stretches of the rows: the shorter these are, the more of them are on their way at a time.
  constexpr int64_t kAheadBytes = 12288;
  constexpr int kMostAhead = 64;
  const int64_t stretch = (last - first) * static_cast<int64_t>(sizeof(Weight));
  int ahead = kRows;
  while (ahead < kMostAhead && ahead * stretch < kAheadBytes) ahead += kRows;
  const Weight *rows[kRows], *next[kRows];
  const auto find_rows = [&](int from, const Weight** found) {
    for (int i = 0; i < kRows; ++i) found[i] = a + live[from + i] * pitch;
  };
  int c = 0;
  for (; c + kRows <= channels; c += kRows) {
    find_rows(c, rows);
    const bool more = c + ahead + kRows <= channels;
    if (more) find_rows(c + ahead, next);
    add_rows<kRows, Weight>(u + c, rows, more ? next : nullptr, first, last, s);
  }
  for (; c < channels; ++c) {
    const Weight* row = a + live[c] * pitch;
    add_rows<1, Weight>(u + c, &row, nullptr, first, last, s);
  }
  const Vec slopes = broadcast(&slope);
  for (int o = first; o < last; o += kLanes) {
    const Vec sum = steps == nullptr ? load(s + o) : mul(load(s + o), load(steps + o));
    store(s + o, leaky(add(sum, load(r + o)), slopes));
  }
}

void saliency(const float* u, const int32_t* live, int32_t channels, const float* a, int64_t pitch,
              const float* r, float slope, int32_t first, int32_t last, float* s) {
  predict(u, live, channels, a, pitch, nullptr, r, slope, first, last, s);
}

void saliency_half(const float* u, const int32_t* live, int32_t channels, const compress::Half* a,
                   int64_t pitch, const float* r, float slope, int32_t first, int32_t last, float* s) {
  predict(u, live, channels, a, pitch, nullptr, r, slope, first, last, s);
}

void saliency_bytes(const float* u, const int32_t* live, int32_t channels, const int8_t* a, int64_t pitch,
                    const float* steps, const float* r, float slope, int32_t first, int32_t last, float* s) {
  predict(u, live, channels, a, pitch, steps, r, slope, first, last, s);
}

}  // namespace

#endif  // COMPRESS_KERNELS_SALIENCY_H_
