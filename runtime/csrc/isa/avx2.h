// AVX2 with FMA: 8 floats a vector, 16 registers, so 6 pixels x 2 vectors of sums, 2 of weights, 1 broadcast.
// isa-flags: -mavx2 -mfma
// isa-processor: x86_64|AMD64|amd64
// isa-rank: 20
// isa-requires: avx2 fma
// isa-description: AVX2 and FMA, 8 floats a vector
#ifndef COMPRESS_ISA_AVX2_H_
#define COMPRESS_ISA_AVX2_H_

#include <immintrin.h>

#include <cstdint>

namespace {

inline constexpr int kLanes = 8;
inline constexpr int kMaxTile = 6;

using Vec = __m256;
using Lanes = __m256i;

inline Lanes first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec broadcast(const float* p) { return _mm256_broadcast_ss(p); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load_first(const float* p, int count) { return _mm256_maskload_ps(p, first_lanes(count)); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline void store_first(float* p, Vec v, int count) { _mm256_maskstore_ps(p, first_lanes(count), v); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec mul_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec absolute(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
// min and max hand on their second operand where one is NaN.
inline Vec clamp(Vec a, Vec lower, Vec upper) { return _mm256_min_ps(upper, _mm256_max_ps(lower, a)); }
inline Vec leaky(Vec a, Vec slope) {
  return _mm256_blendv_ps(_mm256_mul_ps(a, slope), a, _mm256_cmp_ps(a, zero(), _CMP_GT_OQ));
}

inline Lanes load_lanes(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_lanes(int32_t* p, Lanes lanes) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), lanes);
}
inline Lanes broadcast_lane(int32_t value) { return _mm256_set1_epi32(value); }
inline Lanes count_at_least(Lanes counts, Lanes value, Lanes threshold) {
  // Only "greater" exists; a true comparison is -1.
  return _mm256_add_epi32(_mm256_add_epi32(counts, _mm256_set1_epi32(1)),
                          _mm256_cmpgt_epi32(threshold, value));
}
// The permutation ignores a negative lane's upper bits; its sign then picks the old value.
inline Vec take(Vec old, Vec source, Lanes lanes) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(source, lanes), old, _mm256_castsi256_ps(lanes));
}

}  // namespace

#endif  // COMPRESS_ISA_AVX2_H_
