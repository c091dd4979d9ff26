// Packed channels back to their places among all of them; contract at UnpackTask.
#ifndef COMPRESS_KERNELS_UNPACK_H_
#define COMPRESS_KERNELS_UNPACK_H_

#include "kernels/quarters.h"
#include "kernels/table.h"

namespace {

using compress::Places;
using compress::UnpackTask;

// Where one block of channels comes from, in every pixel.
struct BlockPlaces {
  BlockPlaces(const Places& places, int block)
      : k(places.k),
        start(places.starts[block]),
        count(places.counts[block]),
        lanes(load_lanes(places.spread + block * kLanes)) {}
  Vec unpacked(const float* pixel) const { return take(zero(), load_first(pixel + start, count), lanes); }
  int64_t k;
  int32_t start, count;
  Lanes lanes;
};

enum class Summand { kNone, kDense, kPacked };

// kPixels neighbouring pixels, a block of channels after the other; the means' sums of pixel i are at
// sums[i * channels].
template <Summand kSummand, bool kMeans, int kPixels>
inline void unpack_pixels(const UnpackTask& task, const float* x, const float* z, float* y) {
  constexpr float kHighest = __builtin_inff();
  const Vec lowest = broadcast(&task.lower);
  const Vec highest = broadcast(&kHighest);
  const int64_t channels = task.channels;
  const int last = task.last;
  float* const sums = task.sums;
  const Places x_places = task.x_places, z_places = task.z_places;
  for (int c = task.first; c < last; c += kLanes) {
    const int left = last - c;
    const BlockPlaces from(x_places, c / kLanes);
    const BlockPlaces from_z(kSummand == Summand::kPacked ? z_places : x_places, c / kLanes);
#pragma GCC unroll 4
    for (int i = 0; i < kPixels; ++i) {
      Vec value = from.unpacked(x + i * from.k);
      if constexpr (kSummand != Summand::kNone) {
        const Vec summand = kSummand == Summand::kPacked ? from_z.unpacked(z + i * from_z.k)
                                                         : load_first(z + i * channels + c, left);
        value = clamp(add(summand, value), lowest, highest);
      }
      store_first(y + i * channels + c, value, left);
      if constexpr (kMeans) {
        float* const sum = sums + i * channels + c;
        store_first(sum, add(load_first(sum, left), absolute(value)), left);
      }
    }
  }
}

template <Summand kSummand, bool kMeans>
inline void unpack_plane(const UnpackTask& task) {
  if constexpr (kMeans) clear_quarters(task.sums, task.channels, task.first, task.last);
  const float *x = task.x, *z = task.z;
  float* y = task.y;
  const int64_t z_step = kSummand == Summand::kPacked ? task.z_places.k : task.channels;
  const auto run = [&]<int kPixels>() {
    unpack_pixels<kSummand, kMeans, kPixels>(task, x, z, y);
    x += kPixels * static_cast<int64_t>(task.x_places.k);
    y += kPixels * static_cast<int64_t>(task.channels);
    if constexpr (kSummand != Summand::kNone) z += kPixels * z_step;
  };
  int64_t left = task.pixels;
  for (; left >= 4; left -= 4) run.template operator()<4>();
  if (left == 3) run.template operator()<3>();
  if (left == 2) run.template operator()<2>();
  if (left == 1) run.template operator()<1>();
  if constexpr (kMeans) add_quarters(task.sums, task.channels, task.first, task.last);
}

template <Summand kSummand>
void add_unpacked(const UnpackTask& task) {
  if (task.sums == nullptr) return unpack_plane<kSummand, false>(task);
  unpack_plane<kSummand, true>(task);
}

void unpack(const UnpackTask& task) {
  if (task.z_places.starts != nullptr) return add_unpacked<Summand::kPacked>(task);
  if (task.z != nullptr) return add_unpacked<Summand::kDense>(task);
  unpack_plane<Summand::kNone, false>(task);
}

}  // namespace

#endif  // COMPRESS_KERNELS_UNPACK_H_
