// Packed channels back to their places among all of them; contract at UnpackTask.
#ifndef COMPRESS_KERNELS_UNPACK_H_
#define COMPRESS_KERNELS_UNPACK_H_

#include "kernels/quarters.h"
#include "kernels/table.h"

namespace {

using compress::Places;
using compress::UnpackTask;

// Block b of one pixel's channels.
inline Vec unpack_block(const float* pixel, const Places& places, int b) {
  const Vec packed = load_first(pixel + places.starts[b], places.counts[b]);
  return take(zero(), packed, load_lanes(places.spread + b * kLanes));
}

enum class Summand { kNone, kDense, kPacked };

template <Summand kSummand, bool kMeans>
inline void unpack_pixels(const UnpackTask& task) {
  constexpr float kHighest = __builtin_inff();
  const Vec lowest = broadcast(&task.lower);
  const Vec highest = broadcast(&kHighest);
  const float *x = task.x, *z = task.z;
  float* y = task.y;
  const int channels = task.channels;
  if constexpr (kMeans) clear_quarters(task.sums, channels);
  const int z_step = kSummand == Summand::kPacked ? task.z_places.k : channels;
  for (int64_t p = 0; p < task.pixels; ++p, x += task.x_places.k, y += channels) {
    float* const sums = kMeans ? task.sums + p % 4 * channels : nullptr;
    for (int b = 0, c = 0; c < channels; ++b, c += kLanes) {
      const int left = channels - c;
      Vec value = unpack_block(x, task.x_places, b);
      if constexpr (kSummand != Summand::kNone) {
        const bool packed = kSummand == Summand::kPacked;
        const Vec summand = packed ? unpack_block(z, task.z_places, b) : load_first(z + c, left);
        value = clamp(add(summand, value), lowest, highest);
      }
      store_first(y + c, value, left);
      if constexpr (kMeans) {
        store_first(sums + c, add(load_first(sums + c, left), absolute(value)), left);
      }
    }
    if constexpr (kSummand != Summand::kNone) z += z_step;
  }
  if constexpr (kMeans) add_quarters(task.sums, channels);
}

template <Summand kSummand>
void add_unpacked(const UnpackTask& task) {
  if (task.sums == nullptr) return unpack_pixels<kSummand, false>(task);
  unpack_pixels<kSummand, true>(task);
}

void unpack(const UnpackTask& task) {
  if (task.z_places.starts != nullptr) return add_unpacked<Summand::kPacked>(task);
  if (task.z != nullptr) return add_unpacked<Summand::kDense>(task);
  unpack_pixels<Summand::kNone, false>(task);
}

}  // namespace

#endif  // COMPRESS_KERNELS_UNPACK_H_
