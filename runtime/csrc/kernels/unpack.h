// Packed channels back to their places among all of them; contract at UnpackTask.
#ifndef COMPRESS_KERNELS_UNPACK_H_
#define COMPRESS_KERNELS_UNPACK_H_

#include "kernels/quarters.h"
#include "kernels/table.h"

namespace {

using compress::UnpackTask;

template <bool kSum, bool kMeans>
inline void unpack_pixels(const UnpackTask& task) {
  constexpr float kHighest = __builtin_inff();
  const Vec lowest = broadcast(&task.lower);
  const Vec highest = broadcast(&kHighest);
  const float *x = task.x, *z = task.z;
  float* y = task.y;
  const int channels = task.channels;
  if constexpr (kMeans) clear_quarters(task.sums, channels);
  for (int64_t p = 0; p < task.pixels; ++p, x += task.k, y += channels) {
    float* const sums = kMeans ? task.sums + p % 4 * channels : nullptr;
    for (int b = 0, c = 0; c < channels; ++b, c += kLanes) {
      const int left = channels - c;
      Vec value =
          take(zero(), load_first(x + task.starts[b], task.counts[b]), load_lanes(task.spread + b * kLanes));
      if constexpr (kSum) value = clamp(add(load_first(z + c, left), value), lowest, highest);
      store_first(y + c, value, left);
      if constexpr (kMeans) {
        store_first(sums + c, add(load_first(sums + c, left), absolute(value)), left);
      }
    }
    if constexpr (kSum) z += channels;
  }
  if constexpr (kMeans) add_quarters(task.sums, channels);
}

void unpack(const UnpackTask& task) {
  if (task.z == nullptr) return unpack_pixels<false, false>(task);
  if (task.sums == nullptr) return unpack_pixels<true, false>(task);
  unpack_pixels<true, true>(task);
}

}  // namespace

#endif  // COMPRESS_KERNELS_UNPACK_H_
