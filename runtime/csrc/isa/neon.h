// NEON (Advanced SIMD) of 64-bit ARM, which every such processor has: 4 floats a vector, 32 registers, so 14
// pixels x 2 vectors of sums, 2 of weights, 1 broadcast. GCC's first scheduler would load a whole row of
// broadcasts ahead and put sums on the stack for it; without it every tile stays in registers.
// isa-flags: -fno-schedule-insns -Wno-ignored-optimization-argument
// isa-processor: aarch64|arm64|ARM64
// isa-rank: 20
// isa-requires:
// isa-description: NEON, 4 floats a vector
#ifndef COMPRESS_ISA_NEON_H_
#define COMPRESS_ISA_NEON_H_

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "half.h"

namespace {

inline constexpr int kLanes = 4;
inline constexpr int kMaxTile = 14;

using Vec = float32x4_t;
using Lanes = int32x4_t;

inline Vec zero() { return vdupq_n_f32(0.0f); }
inline Vec broadcast(const float* p) { return vld1q_dup_f32(p); }
inline Vec load(const float* p) { return vld1q_f32(p); }
inline Vec load(const compress::Half* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))));
}
inline Vec load(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}
inline Vec load_first(const float* p, int count) {
  if (count >= kLanes) return load(p);
  const float32x2_t low = count >= 2 ? vld1_f32(p) : vdup_n_f32(0.0f);
  const Vec v = vcombine_f32(low, vdup_n_f32(0.0f));
  if (count == 1) return vld1q_lane_f32(p, v, 0);
  return count == 3 ? vld1q_lane_f32(p + 2, v, 2) : v;
}
inline void store(float* p, Vec v) { vst1q_f32(p, v); }
inline void store_first(float* p, Vec v, int count) {
  if (count >= kLanes) return store(p, v);
  if (count >= 2) vst1_f32(p, vget_low_f32(v));
  if (count == 1) vst1q_lane_f32(p, v, 0);
  if (count == 3) vst1q_lane_f32(p + 2, v, 2);
}
inline Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
inline Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
inline Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
inline Vec mul_add(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
inline Vec mul_add_once(Vec a, Vec b, Vec c) { return mul_add(a, b, c); }
inline Vec absolute(Vec a) { return vabsq_f32(a); }
// min and max give NaN where either operand is one; the bounds never are.
inline Vec clamp(Vec a, Vec lower, Vec upper) { return vminq_f32(upper, vmaxq_f32(lower, a)); }
inline Vec leaky(Vec a, Vec slope) { return vbslq_f32(vcgtq_f32(a, zero()), a, vmulq_f32(a, slope)); }

inline Lanes load_lanes(const int32_t* p) { return vld1q_s32(p); }
inline void store_lanes(int32_t* p, Lanes lanes) { vst1q_s32(p, lanes); }
inline Lanes broadcast_lane(int32_t value) { return vdupq_n_s32(value); }
inline Lanes count_at_least(Lanes counts, Lanes value, Lanes threshold) {
  // A true comparison is -1.
  return vsubq_s32(counts, vreinterpretq_s32_u32(vcgeq_s32(value, threshold)));
}
// Lane i as its four bytes, 4 i … 4 i + 3. The table look-up keeps the old byte where the number is beyond
// the table, as all four of lane -1 are (0xfc and up).
inline Vec take(Vec old, Vec source, Lanes lanes) {
  const int32x4_t bytes = vmlaq_s32(vdupq_n_s32(0x03020100), lanes, vdupq_n_s32(0x04040404));
  return vreinterpretq_f32_u8(
      vqtbx1q_u8(vreinterpretq_u8_f32(old), vreinterpretq_u8_f32(source), vreinterpretq_u8_s32(bytes)));
}

inline Vec as_vec(Lanes a) { return vreinterpretq_f32_s32(a); }
inline Lanes as_lanes(Vec a) { return vreinterpretq_s32_f32(a); }
inline Vec to_floats(Lanes a) { return vcvtq_f32_s32(a); }
inline Lanes and_lanes(Lanes a, Lanes b) { return vandq_s32(a, b); }
inline Lanes add_lanes(Lanes a, Lanes b) { return vaddq_s32(a, b); }
inline Lanes distance(Lanes a, Lanes b) { return vabdq_s32(a, b); }
template <int kBits>
inline Lanes merge(Lanes a, Lanes b) {
  return vorrq_s32(a, kBits == 0 ? b : vshlq_n_s32(b, kBits));
}

// Bytes widened to whole lanes, the first of every four in one vector and so on: no instruction of the base
// set multiplies unsigned with signed ones.
inline constexpr int kMaxInt8Tile = 8;
struct Weights {
  int32x4_t bytes[4];
};
using Activations = Weights;
inline Weights load_weights(const int8_t* p) {
  const int32x4_t all = vreinterpretq_s32_s8(vld1q_s8(p));
  return {{vshrq_n_s32(vshlq_n_s32(all, 24), 24), vshrq_n_s32(vshlq_n_s32(all, 16), 24),
           vshrq_n_s32(vshlq_n_s32(all, 8), 24), vshrq_n_s32(all, 24)}};
}
inline Activations broadcast_four(const uint8_t* p) {
  return {{vdupq_n_s32(p[0]), vdupq_n_s32(p[1]), vdupq_n_s32(p[2]), vdupq_n_s32(p[3])}};
}
inline Lanes dot(Lanes sums, const Activations& x, const Weights& w) {
  sums = vmlaq_s32(vmlaq_s32(sums, x.bytes[0], w.bytes[0]), x.bytes[1], w.bytes[1]);
  return vmlaq_s32(vmlaq_s32(sums, x.bytes[2], w.bytes[2]), x.bytes[3], w.bytes[3]);
}
inline Lanes load_bytes(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, sizeof(four));
  const uint16x8_t words = vmovl_u8(vcreate_u8(four));
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words)));
}
inline void store_bytes(uint8_t* p, Lanes lanes, int count) {
  const uint16x4_t words = vmovn_u32(vreinterpretq_u32_s32(lanes));
  const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
  const uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
  std::memcpy(p, &four, static_cast<size_t>(count >= kLanes ? kLanes : count));
}

}  // namespace

#include "kernels/bytes.h"  // last: on top of what stands above
#include "kernels/columns.h"
#include "kernels/first_bytes.h"
#include "kernels/halves.h"
#include "kernels/listing.h"

#endif  // COMPRESS_ISA_NEON_H_
