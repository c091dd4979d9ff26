// Convolution of packed activations by a list of live (tap, channel) rows; contract at ConvTask. Vectors of
// outputs lie in the lanes, up to kMaxTile pixels are broadcast against them, sums stay in registers over the
// whole reduction.
#ifndef COMPRESS_KERNELS_CONV_H_
#define COMPRESS_KERNELS_CONV_H_

#include "kernels/table.h"
#include "kernels/tiles.h"

namespace {

using compress::ConvTask;
using compress::kLineFloats;
using compress::Region;
using compress::Run;

// Where one tile reads and writes; its y are first lanes of the first vector.
struct Tile : PixelTile {
  const float* w;  // first vector's weights
  float* sums;     // of ConvTask's sums this tile's
  int number;
};

// Few sums in flight cannot hide the latency of a fused multiply-add, so a small tile spreads its rows over
// as many as registers hold. The same for one vector and for two: an output's bits do not depend on which
// others are computed with it.
constexpr int num_partial_sums(int pixels) {
  return 4 * pixels <= kMaxTile ? 4 : 2 * pixels <= kMaxTile ? 2 : 1;
}

// Adds them up, in sums[0].
template <int kPartial, int kPixels, int kVectors>
COMPRESS_INLINE void fold_partial_sums(Vec (&sums)[kPartial][kPixels][kVectors]) {
#pragma GCC unroll 4
  for (int s = 1; s < kPartial; ++s)
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[0][p][v] = add(sums[0][p][v], sums[s][p][v]);
}

// What becomes of sums that the bias has been added to.
template <int kVectors, int kPixels>
COMPRESS_INLINE void apply_epilogue(const compress::Epilogue& epilogue, int first_output,
                                    Vec (&sums)[kPixels][kVectors]) {
  const Vec lower = broadcast(&epilogue.lower);
  const Vec upper = broadcast(&epilogue.upper);
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const int o = first_output + v * kLanes;
    const Vec scale = load(epilogue.scale + o);
    const Vec post = epilogue.post == nullptr ? zero() : load(epilogue.post + o);
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      const Vec scaled = mul(scale, sums[p][v]);
      sums[p][v] = clamp(epilogue.post == nullptr ? scaled : add(scaled, post), lower, upper);
    }
  }
}

// to[v] = sum over the pixels of |values[p][v]|, in two chains. (Shared with kernels/depthwise.h, through a
// lambda or an array of its form, it cost either kernel 3 %: the compiler then keeps the sums in memory.)
template <int kVectors, int kPixels>
COMPRESS_INLINE void store_abs_sums(const Vec (&values)[kPixels][kVectors], float* to) {
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    Vec even = zero(), odd = zero();
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      Vec& sum = p % 2 == 0 ? even : odd;
      sum = add(sum, absolute(values[p][v]));
    }
    store(to + v * kLanes, add(even, odd));
  }
}

template <int kVectors, int kPixels, typename Pixels>
COMPRESS_INLINE void store_tile(const ConvTask& task, const Pixels& y, int number, int first_output,
                                Vec (&sums)[kPixels][kVectors]) {
  const int left = task.k - first_output;
  if (!task.raw) apply_epilogue<kVectors, kPixels>(task.epilogue, first_output, sums);
  if (task.tile_sums != nullptr) {
    const int64_t row = static_cast<int64_t>(number) * task.tile_sums_pitch;
    store_abs_sums<kVectors, kPixels>(sums, task.tile_sums + row + first_output);
  }
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      if (left >= (v + 1) * kLanes) {
        store(y.at(p) + v * kLanes, sums[p][v]);
      } else {
        store_first(y.at(p) + v * kLanes, sums[p][v], left - v * kLanes);
      }
    }
  }
}

// sums[p][v] += x[p][offset] * row, for one row of weights.
template <int kVectors, int kPixels, typename Pixels>
COMPRESS_INLINE void add_row(const Pixels& x, int64_t offset, const float* row, int64_t vector_stride,
                             Vec (&sums)[kPixels][kVectors]) {
  Vec w[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) w[v] = load(row + v * vector_stride);
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    const Vec value = broadcast(x.at(p) + offset);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[p][v] = mul_add(value, w[v], sums[p][v]);
  }
}

// The next lines to ask for, at most `count`, as offsets from *source; *found says how many, 0 for none.
inline const int32_t* next_lines(compress::Prefetch* prefetch, int64_t count, const float** source,
                                 int64_t* found) {
  *found = 0;
  for (; prefetch != nullptr; prefetch = prefetch->then) {
    if (prefetch->row == prefetch->num_rows) {
      prefetch->row = 0;
      ++prefetch->source;
    }
    if (prefetch->source >= prefetch->num_sources) continue;
    const int64_t left = prefetch->num_rows - prefetch->row;
    *found = count < left ? count : left;
    *source = prefetch->sources[prefetch->source];
    const int32_t* lines = prefetch->rows + prefetch->row;
    prefetch->row += static_cast<int32_t>(*found);
    return lines;
  }
  return nullptr;
}

// How conv_tile finds a row's weights and inputs.
enum class Rows {
  kInOrder,  // weights one after the other
  kNear,     // likewise; inputs from a copy, a line of each pixel at a time
  kListed,   // weights where channel_offsets says
};

// A line of one pixel's inputs, of which `left` are there.
inline void copy_line(float* to, const float* from, int64_t left) {
#pragma GCC unroll 4
  for (int c = 0; c < kLineFloats; c += kLanes) {
    if (left <= c) return;
    store(to + c, left - c >= kLanes ? load(from + c) : load_first(from + c, static_cast<int>(left - c)));
  }
}

// sums[p][v] += the products of `count` channels of each pixel, weights in order from `row`. While a line of
// each pixel is worked on, the next one is copied, one pixel a channel: it comes from far away. `lines`,
// `found` of them, are asked for meanwhile.
template <int kVectors, int kPixels, int kPartial, typename Pixels>
COMPRESS_INLINE void add_near_rows(Pixels x, int64_t count, const float* row, int64_t vector_stride,
                                   const float* source, const int32_t* lines, int64_t found,
                                   Vec (&sums)[kPartial][kPixels][kVectors]) {
  static_assert(kMaxTile <= kLineFloats, "a channel copies one pixel");
  alignas(64) float copies[2][kPixels][kLineFloats];
  for (int p = 0; p < kPixels; ++p) copy_line(copies[0][p], x.at(p), count);
  for (int turn = 0; count > 0; turn ^= 1, count -= kLineFloats, row += kLineFloats * kLanes) {
    const float* const copied = copies[turn][0];
    const EvenPixels<const float, kPixels> near(&copied, kLineFloats);
    x.move(kLineFloats);
    const auto add = [&](int c, int s) __attribute__((always_inline)) {
      if (found > 0) __builtin_prefetch(source + *lines++, 0, 2);
      --found;
      add_row<kVectors, kPixels>(near, c, row + c * kLanes, vector_stride, sums[s]);
      if (c < kPixels && count > kLineFloats) copy_line(copies[turn ^ 1][c], x.at(c), count - kLineFloats);
    };
    const int here = count >= kLineFloats ? kLineFloats : static_cast<int>(count);
    int c = 0;
    for (; c + kPartial <= here; c += kPartial) {
#pragma GCC unroll 4
      for (int s = 0; s < kPartial; ++s) add(c + s, s);
    }
    for (; c < here; ++c) add(c, 0);
  }
}

template <int kVectors, int kPixels, Rows kRows, template <typename, int> class Pixels>
void conv_tile(const ConvTask& task, const Region& region, const Tile& tile, int first_output) {
  constexpr int kPartial = num_partial_sums(kPixels);
  Vec sums[kPartial][kPixels][kVectors];
  // Sums begin with the bias.
#pragma GCC unroll 4
  for (int s = 0; s < kPartial; ++s) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const bool bias = s == 0 && !task.raw;
      const Vec start = bias ? load(task.epilogue.bias + first_output + v * kLanes) : zero();
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) sums[s][p][v] = start;
    }
  }
  if (tile.sums != nullptr && !task.begins) {
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[0][p][v] = load(tile.sums + (p * kVectors + v) * kLanes);
  }

  const Pixels<const float, kPixels> first(tile.x,
                                           static_cast<int64_t>(task.tiling.input_step_x) * task.pitch);
  const int64_t vector_stride = task.vector_stride;

  for (int r = 0; r < region.num_runs; ++r) {
    const Run run = region.runs[r];
    auto x = moved(first, static_cast<int64_t>(run.pixel) * task.pitch);
    // Taps lie side by side where pixels do.
    const bool whole = kRows != Rows::kListed && task.channels == task.pitch;
    const int64_t length = static_cast<int64_t>(whole ? run.taps : 1) * task.channels;
    const float* row = tile.w + static_cast<int64_t>(run.tap) * task.channels * kLanes;
    for (int t = whole ? run.taps - 1 : 0; t < run.taps; ++t, x.move(task.pitch - length)) {
      const float* source = nullptr;
      int64_t found;
      const int32_t* lines = next_lines(task.prefetch, length, &source, &found);
      if constexpr (kRows == Rows::kNear) {
        add_near_rows<kVectors, kPixels, kPartial>(x, length, row, vector_stride, source, lines, found, sums);
        row += length * kLanes;
        x.move(length);
        continue;
      }
      if constexpr (kRows == Rows::kListed)
        row = tile.w + static_cast<int64_t>(run.tap + t) * task.tap_stride;
      const auto at = [&](int64_t c) {
        return kRows == Rows::kListed ? row + task.channel_offsets[c] : row + c * kLanes;
      };
      int64_t c = 0;
      for (; c + kPartial <= found; c += kPartial, x.move(kPartial)) {
#pragma GCC unroll 4
        for (int s = 0; s < kPartial; ++s) {
          __builtin_prefetch(source + *lines++, 0, 2);
          add_row<kVectors, kPixels>(x, s, at(c + s), vector_stride, sums[s]);
        }
      }
      if constexpr (kRows == Rows::kInOrder && kPartial == 1 && Pixels<const float, kPixels>::kEven) {
        // kPixels floats a row: after the last row, all of the next tile.
        if (task.far_inputs) {
          const float* next = x.at(0) + kPixels * (x.step + c) - c;
          for (; c < length; ++c, x.move(1), next += kPixels) {
            __builtin_prefetch(next);
            add_row<kVectors, kPixels>(x, 0, at(c), vector_stride, sums[0]);
          }
        }
      }
      for (; c + kPartial <= length; c += kPartial, x.move(kPartial)) {
#pragma GCC unroll 4
        for (int s = 0; s < kPartial; ++s)
          add_row<kVectors, kPixels>(x, s, at(c + s), vector_stride, sums[s]);
      }
      for (; c < length; ++c, x.move(1)) add_row<kVectors, kPixels>(x, 0, at(c), vector_stride, sums[0]);
      if constexpr (kRows == Rows::kInOrder) row += length * kLanes;
    }
  }
  fold_partial_sums(sums);
  if (tile.sums == nullptr || task.ends) {
    store_tile<kVectors, kPixels>(task, Pixels<float, kPixels>(tile.y, task.k), tile.number, first_output,
                                  sums[0]);
    return;
  }
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(tile.sums + (p * kVectors + v) * kLanes, sums[0][p][v]);
}

using TileFunction = void (*)(const ConvTask&, const Region&, const Tile&, int);

// The kernel for a tile of `pixels`, found by counting down so that the list follows kMaxTile.
template <int kVectors, Rows kRows, template <typename, int> class Pixels, int kPixels = kMaxTile>
TileFunction tile_function(int pixels) {
  if (pixels == kPixels) return conv_tile<kVectors, kPixels, kRows, Pixels>;
  if constexpr (kPixels > 1) {
    return tile_function<kVectors, kRows, Pixels, kPixels - 1>(pixels);
  } else {
    return nullptr;
  }
}

template <int kVectors>
TileFunction tile_function(Rows rows, int pixels, bool even) {
  switch (rows) {
    case Rows::kInOrder:
      return even ? tile_function<kVectors, Rows::kInOrder, EvenPixels>(pixels)
                  : tile_function<kVectors, Rows::kInOrder, ListedPixels>(pixels);
    case Rows::kNear:
      return tile_function<kVectors, Rows::kNear, ListedPixels>(pixels);
    case Rows::kListed:
      return tile_function<kVectors, Rows::kListed, ListedPixels>(pixels);
  }
  return nullptr;
}

void conv(const ConvTask& task, const float* w, int first_vector, int num_vectors, int first_tile,
          int last_tile) {
  const int first_output = first_vector * kLanes;
  const Rows rows = task.channel_offsets != nullptr ? Rows::kListed
                    : task.copies_lines             ? Rows::kNear
                                                    : Rows::kInOrder;
  Tile tile;
  tile.w = w;
  int known_pixels = 0;
  bool known_even = false;
  TileFunction function = nullptr;
  const auto run = [&](const Region& region, int number, int pixels, bool even) {
    tile.number = number;
    tile.sums =
        task.sums == nullptr ? nullptr : task.sums + static_cast<int64_t>(number) * 2 * kLanes * kMaxTile;
    if (pixels != known_pixels || even != known_even) {
      known_pixels = pixels;
      known_even = even;
      function =
          num_vectors == 2 ? tile_function<2>(rows, pixels, even) : tile_function<1>(rows, pixels, even);
    }
    function(task, region, tile, first_output);
  };
  if (rows == Rows::kInOrder) {
    for_each_tile<true>(task, first_output, first_tile, last_tile, tile, run);
  } else {
    for_each_tile<false>(task, first_output, first_tile, last_tile, tile, run);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_CONV_H_
