// Depthwise convolution of packed activations; contract at DepthwiseTask. Channels lie in the lanes; the sums
// of one vector of channels stay in registers for a tile of pixels.
#ifndef COMPRESS_KERNELS_DEPTHWISE_H_
#define COMPRESS_KERNELS_DEPTHWISE_H_

#include "kernels/table.h"
#include "kernels/tiles.h"

namespace {

using compress::DepthwiseTask;

// Channels [c, c + kLanes) of one tile; `kPart`: only the first `left` of them exist.
template <template <typename, int> class Pixels, int kPixels, bool kPart>
inline void depthwise_vector(const DepthwiseTask& task, const compress::Region& region, const PixelTile& tile,
                             int c, int left) {
  const int64_t pitch = task.pitch;
  const Pixels<const float, kPixels> x(tile.x, pitch * task.tiling.input_step_x);
  Vec sums[kPixels];
  const Vec bias = load(task.bias + c);
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) sums[p] = bias;
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
  const Vec lower = broadcast(&task.lower), upper = broadcast(&task.upper), post = load(task.post + c);
  const auto y = moved(Pixels<float, kPixels>(tile.y, task.k), c);
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    const Vec value = add(clamp(sums[p], lower, upper), post);
    if constexpr (kPart) {
      store_first(y.at(p), value, left);
    } else {
      store(y.at(p), value);
    }
  }
}

template <template <typename, int> class Pixels, int kPixels>
void depthwise_tile(const DepthwiseTask& task, const compress::Region& region, const PixelTile& tile) {
  int c = 0;
  for (; c + kLanes <= task.channels; c += kLanes)
    depthwise_vector<Pixels, kPixels, false>(task, region, tile, c, kLanes);
  if (c < task.channels) depthwise_vector<Pixels, kPixels, true>(task, region, tile, c, task.channels - c);
}

using DepthwiseFunction = void (*)(const DepthwiseTask&, const compress::Region&, const PixelTile&);

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

void depthwise(const DepthwiseTask& task, int first_tile, int last_tile) {
  PixelTile tile;
  for_each_tile<true>(
      task, 0, first_tile, last_tile, tile, [&](const compress::Region& region, int, int pixels, bool even) {
        const DepthwiseFunction function =
            even ? depthwise_function<EvenPixels>(pixels) : depthwise_function<ListedPixels>(pixels);
        function(task, region, tile);
      });
}

}  // namespace

#endif  // COMPRESS_KERNELS_DEPTHWISE_H_
