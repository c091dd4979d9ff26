// Max pool of packed activations; contract at PoolTask. Channels lie in the lanes.
#ifndef COMPRESS_KERNELS_MAX_POOL_H_
#define COMPRESS_KERNELS_MAX_POOL_H_

#include "kernels/table.h"
#include "kernels/tiles.h"

namespace {

using compress::PoolTask;

// Channels [c, c + kLanes) of one pixel, of which `left` exist.
inline Vec largest(const PoolTask& task, const compress::Region& region, const float* x, int left) {
  constexpr float kHighest = __builtin_inff();
  const Vec highest = broadcast(&kHighest);
  const auto value = [&](int64_t offset) {
    return left >= kLanes ? load(x + offset) : load_first(x + offset, left);
  };
  Vec found = value(0);  // the first valid tap is the first run's
  for (int r = 0; r < region.num_runs; ++r) {
    const compress::Run run = region.runs[r];
    int64_t offset = static_cast<int64_t>(run.pixel) * task.pitch;
    for (int t = 0; t < run.taps; ++t, offset += task.pitch) found = clamp(value(offset), found, highest);
  }
  return found;
}

void max_pool(const PoolTask& task, int first_tile, int last_tile) {
  PixelTile tile;
  for_each_tile(task, 0, first_tile, last_tile, tile,
                [&](const compress::Region& region, int, int pixels, bool) {
                  for (int p = 0; p < pixels; ++p) {
                    for (int c = 0; c < task.k; c += kLanes) {
                      const int left = task.k - c;
                      const Vec found = largest(task, region, tile.x[p] + c, left);
                      if (left >= kLanes) {
                        store(tile.y[p] + c, found);
                      } else {
                        store_first(tile.y[p] + c, found, left);
                      }
                    }
                  }
                });
}

}  // namespace

#endif  // COMPRESS_KERNELS_MAX_POOL_H_
