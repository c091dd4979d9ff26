// AVX2 with FMA: 8 floats a vector, 16 registers, so 6 pixels x 2 vectors of sums, 2 of weights, 1 broadcast.
// F16C is not asked for: every processor with AVX2 has it, and not every compiler knows its name.
// isa-flags: -mavx2 -mfma -mf16c
// isa-processor: x86_64|AMD64|amd64
// isa-rank: 20
// isa-requires: avx2 fma
// isa-description: AVX2 and FMA, 8 floats a vector
#ifndef COMPRESS_ISA_AVX2_H_
#define COMPRESS_ISA_AVX2_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "half.h"

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
inline Vec load(const compress::Half* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Vec load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline Vec load_first(const float* p, int count) { return _mm256_maskload_ps(p, first_lanes(count)); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline void store_first(float* p, Vec v, int count) { _mm256_maskstore_ps(p, first_lanes(count), v); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec mul_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec mul_add_once(Vec a, Vec b, Vec c) { return mul_add(a, b, c); }
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

inline Vec as_vec(Lanes a) { return _mm256_castsi256_ps(a); }
inline Lanes as_lanes(Vec a) { return _mm256_castps_si256(a); }
inline Vec to_floats(Lanes a) { return _mm256_cvtepi32_ps(a); }
inline Lanes and_lanes(Lanes a, Lanes b) { return _mm256_and_si256(a, b); }
inline Lanes add_lanes(Lanes a, Lanes b) { return _mm256_add_epi32(a, b); }
inline Lanes distance(Lanes a, Lanes b) { return _mm256_abs_epi32(_mm256_sub_epi32(a, b)); }
template <int kBits>
inline Lanes merge(Lanes a, Lanes b) {
  return _mm256_or_si256(a, _mm256_slli_epi32(b, kBits));
}

// Bytes as 16 bits each, the first and third of every lane in one vector, the others in another: the
// instruction that adds products of bytes would saturate.
inline constexpr int kMaxInt8Tile = 4;
struct Weights {
  __m256i even, odd;
};
using Activations = Weights;
inline Weights load_weights(const int8_t* p) {
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), _mm256_srai_epi16(all, 8)};
}
inline Activations broadcast_four(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  const __m256i all = _mm256_set1_epi32(four);
  return {_mm256_and_si256(all, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(all, 8)};
}
inline Lanes dot(Lanes sums, Activations x, Weights w) {
  const __m256i even = _mm256_add_epi32(sums, _mm256_madd_epi16(x.even, w.even));
  return _mm256_add_epi32(even, _mm256_madd_epi16(x.odd, w.odd));
}
inline Lanes load_bytes(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline void store_bytes(uint8_t* p, Lanes lanes, int count) {
  const __m256i low = _mm256_and_si256(lanes, _mm256_set1_epi32(0xff));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  const __m128i bytes = _mm_packus_epi16(words, words);
  if (count >= kLanes) return _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
  uint8_t all[sizeof(bytes)];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(all), bytes);
  for (int i = 0; i < count; ++i) p[i] = all[i];
}

}  // namespace

#include "kernels/bytes.h"  // last: on top of what stands above
#include "kernels/columns.h"
#include "kernels/first_bytes.h"
#include "kernels/halves.h"
#include "kernels/listing.h"

#endif  // COMPRESS_ISA_AVX2_H_
