// Portable: plain C++ that any compiler turns into what the machine has. Defines what is correct.
// isa-flags:
// isa-processor: .*
// isa-rank: 0
// isa-requires:
// isa-description: portable C++
#ifndef COMPRESS_ISA_GENERIC_H_
#define COMPRESS_ISA_GENERIC_H_

#include <cstdint>

namespace {

inline constexpr int kLanes = 4;
inline constexpr int kMaxTile = 6;

struct Vec {
  float lane[kLanes];
};
struct Lanes {
  int32_t lane[kLanes];
};

template <typename Function>
inline Vec map(Function function) {
  Vec v;
  for (int i = 0; i < kLanes; ++i) v.lane[i] = function(i);
  return v;
}

inline Vec zero() {
  return map([](int) { return 0.0f; });
}
inline Vec broadcast(const float* p) {
  return map([=](int) { return *p; });
}
inline Vec load(const float* p) {
  return map([=](int i) { return p[i]; });
}
inline Vec load_first(const float* p, int count) {
  return map([=](int i) { return i < count ? p[i] : 0.0f; });
}
inline void store(float* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) p[i] = v.lane[i];
}
inline void store_first(float* p, Vec v, int count) {
  for (int i = 0; i < count && i < kLanes; ++i) p[i] = v.lane[i];
}
inline Vec add(Vec a, Vec b) {
  return map([&](int i) { return a.lane[i] + b.lane[i]; });
}
inline Vec mul(Vec a, Vec b) {
  return map([&](int i) { return a.lane[i] * b.lane[i]; });
}
// a * b + c; rounded once where the machine can.
inline Vec mul_add(Vec a, Vec b, Vec c) {
  return map([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
inline Vec absolute(Vec a) {
  return map([&](int i) { return __builtin_fabsf(a.lane[i]); });
}
// A NaN in `a` stays.
inline Vec clamp(Vec a, Vec lower, Vec upper) {
  return map([&](int i) {
    float v = a.lane[i] < lower.lane[i] ? lower.lane[i] : a.lane[i];
    return v > upper.lane[i] ? upper.lane[i] : v;
  });
}
// a where a > 0, else a * slope.
inline Vec leaky(Vec a, Vec slope) {
  return map([&](int i) { return a.lane[i] > 0.0f ? a.lane[i] : a.lane[i] * slope.lane[i]; });
}

inline Lanes load_lanes(const int32_t* p) {
  Lanes lanes;
  for (int i = 0; i < kLanes; ++i) lanes.lane[i] = p[i];
  return lanes;
}
// Lane i becomes source[lanes[i]]; stays where lanes[i] < 0.
inline Vec take(Vec old, Vec source, Lanes lanes) {
  return map([&](int i) { return lanes.lane[i] < 0 ? old.lane[i] : source.lane[lanes.lane[i]]; });
}

}  // namespace

#endif  // COMPRESS_ISA_GENERIC_H_
