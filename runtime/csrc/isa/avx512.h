// AVX-512: 16 floats a vector, 32 registers, so 14 pixels x 2 vectors of sums, 2 of weights, 1 broadcast.
// isa-flags: -mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx2 -mfma
// isa-processor: x86_64|AMD64|amd64
// isa-rank: 30
// isa-requires: avx512f avx512dq avx512vl avx512bw
// isa-description: AVX-512 (F, DQ, VL, BW), 16 floats a vector
#ifndef COMPRESS_ISA_AVX512_H_
#define COMPRESS_ISA_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace {

inline constexpr int kLanes = 16;
inline constexpr int kMaxTile = 14;

using Vec = __m512;
using Lanes = __m512i;

inline __mmask16 first_lanes(int count) {
  return count >= kLanes ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1);
}

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec broadcast(const float* p) { return _mm512_set1_ps(*p); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load_first(const float* p, int count) { return _mm512_maskz_loadu_ps(first_lanes(count), p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void store_first(float* p, Vec v, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), v); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec mul_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec absolute(Vec a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
// min and max hand on their second operand where one is NaN.
inline Vec clamp(Vec a, Vec lower, Vec upper) { return _mm512_min_ps(upper, _mm512_max_ps(lower, a)); }
inline Vec leaky(Vec a, Vec slope) {
  return _mm512_mask_mul_ps(a, _mm512_cmp_ps_mask(a, zero(), _CMP_NGT_UQ), a, slope);
}

inline Lanes load_lanes(const int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_lanes(int32_t* p, Lanes lanes) { _mm512_storeu_si512(p, lanes); }
inline Lanes broadcast_lane(int32_t value) { return _mm512_set1_epi32(value); }
inline Lanes count_at_least(Lanes counts, Lanes value, Lanes threshold) {
  return _mm512_mask_add_epi32(counts, _mm512_cmpge_epi32_mask(value, threshold), counts,
                               _mm512_set1_epi32(1));
}
inline Vec take(Vec old, Vec source, Lanes lanes) {
  return _mm512_mask_permutexvar_ps(old, _mm512_knot(_mm512_movepi32_mask(lanes)), lanes, source);
}

}  // namespace

#endif  // COMPRESS_ISA_AVX512_H_
