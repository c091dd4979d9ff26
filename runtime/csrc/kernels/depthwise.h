// Depthwise convolution of packed activations; contract at DepthwiseTask. Channels lie in the lanes; the sums
// of one vector of channels stay in registers for a tile of pixels.
#ifndef COMPRESS_KERNELS_DEPTHWISE_H_
#define COMPRESS_KERNELS_DEPTHWISE_H_

#include "kernels/table.h"
#include "kernels/tiles.h"

namespace {

using compress::DepthwiseTask;

// Adds the products of channels [c, c + kLanes) to a tile's sums; `kPart`: only the first `left` of them
// exist. `pixels`: of the input, as for_each_tile sets them.
template <template <typename, int> class Pixels, int kPixels, bool kPart, typename Task>
COMPRESS_INLINE void add_taps(const Task& task, const compress::Region& region, const float* const* pixels,
                              int c, int left, Vec (&sums)[kPixels]) {
  const int64_t pitch = task.pitch;
  const Pixels<const float, kPixels> x(pixels, pitch * task.tiling.input_step_x);
  for (int r = 0; r < region.num_runs; ++r) {
    const compress::Run run = region.runs[r];
    int64_t offset = static_cast<int64_t>(run.pixel) * pitch + c;
    const float* row = task.w + static_cast<int64_t>(run.tap) * task.w_pitch + c;
    for (int t = 0; t < run.taps; ++t, offset += pitch, row += task.w_pitch) {
      const Vec w = load(row);
      const auto from = moved(x, offset);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        const float* const pixel = from.at(p);
        sums[p] = mul_add(kPart ? load_first(pixel, left) : load(pixel), w, sums[p]);
      }
    }
  }
}

// All that becomes of these channels.
// `row_sums`: DepthwiseTask's, of these channels in this row, or null.
template <template <typename, int> class Pixels, int kPixels, bool kPart>
inline void depthwise_vector(const DepthwiseTask& task, const compress::Region& region, const PixelTile& tile,
                             int c, int left, float* row_sums) {
  Vec sums[kPixels];
  const Vec bias = load(task.bias + c);
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) sums[p] = bias;
  add_taps<Pixels, kPixels, kPart>(task, region, tile.x, c, left, sums);
  const Vec lower = broadcast(&task.lower), upper = broadcast(&task.upper), post = load(task.post + c);
  const auto y = moved(Pixels<float, kPixels>(tile.y, task.k), c);
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) sums[p] = clamp(sums[p], lower, upper);
  if (row_sums != nullptr) {
    Vec even = zero(), odd = zero();
#pragma GCC unroll 16
    for (int p = 0; p < kPixels; ++p) {
      Vec& sum = p % 2 == 0 ? even : odd;
      sum = add(sum, absolute(sums[p]));
    }
    store(row_sums, add(load(row_sums), add(even, odd)));
  }
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    const Vec value = add(sums[p], post);
    if constexpr (kPart) {
      store_first(y.at(p), value, left);
    } else {
      store(y.at(p), value);
    }
  }
}

template <template <typename, int> class Pixels, int kPixels>
void depthwise_tile(const DepthwiseTask& task, const compress::Region& region, const PixelTile& tile,
                    float* row_sums) {
  const auto sums = [&](int c) { return row_sums == nullptr ? nullptr : row_sums + c; };
  int c = 0;
  for (; c + kLanes <= task.channels; c += kLanes)
    depthwise_vector<Pixels, kPixels, false>(task, region, tile, c, kLanes, sums(c));
  if (c < task.channels)
    depthwise_vector<Pixels, kPixels, true>(task, region, tile, c, task.channels - c, sums(c));
}

using DepthwiseFunction = void (*)(const DepthwiseTask&, const compress::Region&, const PixelTile&, float*);

// The kernel for a tile of `pixels`, found as in kernels/conv.h.
template <template <typename, int> class Pixels, int kPixels = kMaxTile>
DepthwiseFunction depthwise_function(int pixels) {
  if (pixels == kPixels) return depthwise_tile<Pixels, kPixels>;
  if constexpr (kPixels > 1) {
    return depthwise_function<Pixels, kPixels - 1>(pixels);
  } else {
    return nullptr;
  }
}

// Where a tile's row adds up; the row's first tile begins with zeros.
inline float* sums_of_row(const DepthwiseTask& task, const compress::Region& region, int number) {
  if (task.row_sums == nullptr) return nullptr;
  float* const sums = task.row_sums + static_cast<int64_t>(region.y) * task.row_sums_pitch;
  const bool begins =
      region.x == 0 && number == region.first_tile && (task.row_sums_pitch != 0 || region.y == 0);
  for (int c = 0; begins && c < task.channels; c += kLanes) store(sums + c, zero());
  return sums;
}

void depthwise(const DepthwiseTask& task, int first_tile, int last_tile) {
  PixelTile tile;
  for_each_tile<true>(task, 0, first_tile, last_tile, tile,
                      [&](const compress::Region& region, int number, int pixels, bool even) {
                        const DepthwiseFunction function = even ? depthwise_function<EvenPixels>(pixels)
                                                                : depthwise_function<ListedPixels>(pixels);
                        function(task, region, tile, sums_of_row(task, region, number));
                      });
}

}  // namespace

#endif  // COMPRESS_KERNELS_DEPTHWISE_H_
