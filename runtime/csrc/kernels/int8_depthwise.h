// Depthwise convolution of whole numbers to bytes; contract at Int8DepthwiseTask.
#ifndef COMPRESS_KERNELS_INT8_DEPTHWISE_H_
#define COMPRESS_KERNELS_INT8_DEPTHWISE_H_

#include "kernels/depthwise.h"
#include "kernels/int8.h"
#include "kernels/int8_tasks.h"

namespace {

using compress::Int8DepthwiseTask;

struct Int8DepthwiseTile {
  const float* x[kMaxTile];
  uint8_t* y[kMaxTile];
};

// Of channels [c, c + kLanes), as depthwise_vector.
template <template <typename, int> class Pixels, int kPixels, bool kPart>
inline void int8_depthwise_vector(const Int8DepthwiseTask& task, const compress::Region& region,
                                  const Int8DepthwiseTile& tile, int c, int left) {
  Vec sums[kPixels];
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) sums[p] = zero();
  add_taps<Pixels, kPixels, kPart>(task, region, tile.x, c, left, sums);
  constexpr float kLowest = 0.0f, kHighest = 255.0f;
  const Vec scale = load(task.scale + c), shift = load(task.shift + c), post = load(task.post + c);
  const Vec lower = broadcast(&task.lower), upper = broadcast(&task.upper);
  const Vec lowest = broadcast(&kLowest), highest = broadcast(&kHighest);
  const auto y = moved(Pixels<uint8_t, kPixels>(tile.y, task.k), c);
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    const Vec value = clamp(mul_add_once(sums[p], scale, shift), lower, upper);
    store_bytes(y.at(p), round_to_bytes(clamp(add(value, post), lowest, highest)), left);
  }
}

template <template <typename, int> class Pixels, int kPixels>
void int8_depthwise_tile(const Int8DepthwiseTask& task, const compress::Region& region,
                         const Int8DepthwiseTile& tile) {
  int c = 0;
  for (; c + kLanes <= task.channels; c += kLanes)
    int8_depthwise_vector<Pixels, kPixels, false>(task, region, tile, c, kLanes);
  if (c < task.channels)
    int8_depthwise_vector<Pixels, kPixels, true>(task, region, tile, c, task.channels - c);
}

using Int8DepthwiseFunction = void (*)(const Int8DepthwiseTask&, const compress::Region&,
                                       const Int8DepthwiseTile&);

template <template <typename, int> class Pixels, int kPixels = kMaxTile>
Int8DepthwiseFunction int8_depthwise_function(int pixels) {
  if (pixels == kPixels) return int8_depthwise_tile<Pixels, kPixels>;
  if constexpr (kPixels > 1) {
    return int8_depthwise_function<Pixels, kPixels - 1>(pixels);
  } else {
    return nullptr;
  }
}

void int8_depthwise(const Int8DepthwiseTask& task, int first_tile, int last_tile) {
  Int8DepthwiseTile tile;
  for_each_tile<true>(
      task, 0, first_tile, last_tile, tile, [&](const compress::Region& region, int, int pixels, bool even) {
        const Int8DepthwiseFunction function = even ? int8_depthwise_function<EvenPixels>(pixels)
                                                    : int8_depthwise_function<ListedPixels>(pixels);
        function(task, region, tile);
      });
}

}  // namespace

#endif  // COMPRESS_KERNELS_INT8_DEPTHWISE_H_
