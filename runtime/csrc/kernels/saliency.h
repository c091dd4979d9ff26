// The saliency predictor: channel means of the input, a vector-matrix product, and the counting that finds
// its largest values. Contracts at KernelTable.
#ifndef COMPRESS_KERNELS_SALIENCY_H_
#define COMPRESS_KERNELS_SALIENCY_H_

#include "kernels/table.h"

namespace {

// One vector of channels over all pixels. `kPart`: fewer than kLanes channels are left.
template <bool kPart>
inline Vec abs_sum(const float* x, int64_t pixels, int64_t stride, int left) {
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  const auto next = [&](const float* p) { return absolute(kPart ? load_first(p, left) : load(p)); };
  int64_t p = 0;
  for (; p + 4 <= pixels; p += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] = add(sums[i], next(x + (p + i) * stride));
  }
  for (int i = 0; p < pixels; ++p, ++i) sums[i] = add(sums[i], next(x + p * stride));
  return add(add(sums[0], sums[1]), add(sums[2], sums[3]));
}

void abs_sums(const float* x, int64_t pixels, int32_t channels, float* sums) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes)
    store(sums + c, abs_sum<false>(x + c, pixels, channels, kLanes));
  if (c < channels) store_first(sums + c, abs_sum<true>(x + c, pixels, channels, channels - c), channels - c);
}

// Outputs [o, o + kVectors * kLanes) of the predictor.
template <int kVectors>
inline void saliency_block(const float* u, const int32_t* live, int32_t channels, const float* a,
                           int64_t pitch, const float* r, float slope, int32_t o, float* s) {
  Vec sums[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sums[v] = zero();
  for (int c = 0; c < channels; ++c) {
    const Vec value = broadcast(u + c);
    const float* row = a + live[c] * pitch + o;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[v] = add(sums[v], mul(value, load(row + v * kLanes)));
  }
  const Vec slopes = broadcast(&slope);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v)
    store(s + o + v * kLanes, leaky(add(sums[v], load(r + o + v * kLanes)), slopes));
}

// Blocks of eight vectors hide the latency of an addition and still fit the registers of every instruction
// set.
void saliency(const float* u, const int32_t* live, int32_t channels, const float* a, int64_t pitch,
              const float* r, float slope, int32_t first, int32_t last, float* s) {
  int o = first;
  for (; o + 8 * kLanes <= last; o += 8 * kLanes)
    saliency_block<8>(u, live, channels, a, pitch, r, slope, o, s);
  for (; o + 4 * kLanes <= last; o += 4 * kLanes)
    saliency_block<4>(u, live, channels, a, pitch, r, slope, o, s);
  for (; o < last; o += kLanes) saliency_block<1>(u, live, channels, a, pitch, r, slope, o, s);
}

int32_t count_reaching(const int32_t* keys, int32_t count, int32_t least) {
  const Lanes threshold = broadcast_lane(least);
  Lanes counts = broadcast_lane(0);
  for (int i = 0; i < count; i += kLanes) counts = count_at_least(counts, load_lanes(keys + i), threshold);
  int32_t lanes[kLanes];
  store_lanes(lanes, counts);
  int32_t sum = 0;
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}

}  // namespace

#endif  // COMPRESS_KERNELS_SALIENCY_H_
