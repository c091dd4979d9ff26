// Portable: the vector types of GCC and Clang, for any machine. Defines what is correct.
// isa-flags:
// isa-processor: .*
// isa-rank: 0
// isa-requires:
// isa-description: portable C++, 4 floats a vector
#ifndef COMPRESS_ISA_GENERIC_H_
#define COMPRESS_ISA_GENERIC_H_

#include <cstdint>
#include <cstring>

#include "half.h"

namespace {

inline constexpr int kLanes = 4;
inline constexpr int kMaxTile = 6;

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t Lanes __attribute__((vector_size(4 * kLanes)));

inline Vec zero() { return Vec{}; }
inline Vec broadcast(const float* p) { return *p - Vec{}; }
inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline Vec load(const compress::Half* p) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = compress::to_float(p[i]);
  return v;
}
inline Vec load(const int8_t* p) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(p[i]);
  return v;
}
// The first `count` values (all of them where there are more lanes), 0 behind them.
inline Vec load_first(const float* p, int count) {
  Vec v = zero();
  for (int i = 0; i < count && i < kLanes; ++i) v[i] = p[i];
  return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }
inline void store_first(float* p, Vec v, int count) {
  for (int i = 0; i < count && i < kLanes; ++i) p[i] = v[i];
}
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
// a * b + c; rounded once where the machine can.
inline Vec mul_add(Vec a, Vec b, Vec c) { return a * b + c; }
// Rounded once on every machine.
inline Vec mul_add_once(Vec a, Vec b, Vec c) {
  for (int i = 0; i < kLanes; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}
inline Vec absolute(Vec a) {
  Lanes bits;
  std::memcpy(&bits, &a, sizeof(bits));
  bits &= 0x7fffffff;
  std::memcpy(&a, &bits, sizeof(a));
  return a;
}
// A NaN in `a` stays.
inline Vec clamp(Vec a, Vec lower, Vec upper) {
  const Vec v = a < lower ? lower : a;
  return v > upper ? upper : v;
}
// a where a > 0, else a * slope.
inline Vec leaky(Vec a, Vec slope) { return a > zero() ? a : a * slope; }

inline Lanes load_lanes(const int32_t* p) {
  Lanes lanes;
  std::memcpy(&lanes, p, sizeof(lanes));
  return lanes;
}
inline void store_lanes(int32_t* p, Lanes lanes) { std::memcpy(p, &lanes, sizeof(lanes)); }
inline Lanes broadcast_lane(int32_t value) { return value - Lanes{}; }
// counts + 1 where value >= threshold.
inline Lanes count_at_least(Lanes counts, Lanes value, Lanes threshold) {
  return counts - (value >= threshold);
}
// Lane i becomes source[lanes[i]]; stays where lanes[i] < 0.
inline Vec take(Vec old, Vec source, Lanes lanes) {
  for (int i = 0; i < kLanes; ++i) old[i] = lanes[i] < 0 ? old[i] : source[lanes[i]];
  return old;
}

inline Vec as_vec(Lanes a) {
  Vec v;
  std::memcpy(&v, &a, sizeof(v));
  return v;
}
inline Lanes as_lanes(Vec a) {
  Lanes lanes;
  std::memcpy(&lanes, &a, sizeof(lanes));
  return lanes;
}
inline Vec to_floats(Lanes a) { return __builtin_convertvector(a, Vec); }
inline Lanes and_lanes(Lanes a, Lanes b) { return a & b; }
inline Lanes add_lanes(Lanes a, Lanes b) { return a + b; }
// |a - b|
inline Lanes distance(Lanes a, Lanes b) { return a < b ? b - a : a - b; }
// a, with b's bits moved up by kBits among them.
template <int kBits>
inline Lanes merge(Lanes a, Lanes b) {
  return a | (b << kBits);
}

// Bytes. One lane holds four weights, or four activations that every lane has.
inline constexpr int kMaxInt8Tile = 4;
struct Weights {
  Lanes bytes[4];
};
struct Activations {
  int32_t bytes[4];
};
inline Weights load_weights(const int8_t* p) {
  Lanes all;
  std::memcpy(&all, p, sizeof(all));
  return {{(all << 24) >> 24, (all << 16) >> 24, (all << 8) >> 24, all >> 24}};
}
inline Activations broadcast_four(const uint8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
inline Lanes dot(Lanes sums, Activations x, Weights w) {
  for (int i = 0; i < 4; ++i) sums += x.bytes[i] * w.bytes[i];
  return sums;
}
// One byte a lane, the bits above it 0.
inline Lanes load_bytes(const uint8_t* p) {
  Lanes lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = p[i];
  return lanes;
}
// The low byte of each of the first `count` lanes, of all of them where there are fewer.
inline void store_bytes(uint8_t* p, Lanes lanes, int count) {
  for (int i = 0; i < count && i < kLanes; ++i) p[i] = static_cast<uint8_t>(lanes[i]);
}

}  // namespace

#include "kernels/bytes.h"  // last: on top of what stands above
#include "kernels/columns.h"
#include "kernels/first_bytes.h"
#include "kernels/halves.h"
#include "kernels/listing.h"

#endif  // COMPRESS_ISA_GENERIC_H_
