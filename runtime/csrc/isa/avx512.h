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
#include <cstring>

#include "half.h"

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
inline Vec load(const compress::Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Vec load_first(const float* p, int count) { return _mm512_maskz_loadu_ps(first_lanes(count), p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void store_first(float* p, Vec v, int count) { _mm512_mask_storeu_ps(p, first_lanes(count), v); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec mul_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec mul_add_once(Vec a, Vec b, Vec c) { return mul_add(a, b, c); }
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
// As in kernels/listing.h.
inline int32_t append_reaching(int32_t* to, const int32_t* keys, int32_t least, int32_t first) {
  const __mmask16 reaching = _mm512_cmpge_epi32_mask(load_lanes(keys), broadcast_lane(least));
  const Lanes count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const Lanes indices = _mm512_add_epi32(count, broadcast_lane(first));
  store_lanes(to, _mm512_maskz_compress_epi32(reaching, indices));
  return __builtin_popcount(reaching);
}
inline Vec take(Vec old, Vec source, Lanes lanes) {
  return _mm512_mask_permutexvar_ps(old, _mm512_knot(_mm512_movepi32_mask(lanes)), lanes, source);
}

inline Vec as_vec(Lanes a) { return _mm512_castsi512_ps(a); }
inline Lanes as_lanes(Vec a) { return _mm512_castps_si512(a); }
inline Vec to_floats(Lanes a) { return _mm512_cvtepi32_ps(a); }
inline Lanes and_lanes(Lanes a, Lanes b) { return _mm512_and_si512(a, b); }
inline Lanes add_lanes(Lanes a, Lanes b) { return _mm512_add_epi32(a, b); }
inline Lanes distance(Lanes a, Lanes b) { return _mm512_abs_epi32(_mm512_sub_epi32(a, b)); }
#ifdef __AVX512VNNI__
#ifndef COMPRESS_MATRICES
inline constexpr int kMaxInt8Tile = 14;
#endif
using Weights = __m512i;
using Activations = __m512i;
inline Weights load_weights(const int8_t* p) { return _mm512_loadu_si512(p); }
inline Activations broadcast_four(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  return _mm512_set1_epi32(four);
}
// Not the intrinsic: around it GCC 12 copies every sum to another register and to memory.
inline Lanes dot(Lanes sums, Activations x, Weights w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(x), "v"(w));
  return sums;
}
#else
// As 16 bits each, the first and third byte of every lane in one vector, the others in another: the
// instruction that adds products of bytes would saturate.
inline constexpr int kMaxInt8Tile = 12;
struct Weights {
  __m512i even, odd;
};
using Activations = Weights;
inline Weights load_weights(const int8_t* p) {
  const __m512i all = _mm512_loadu_si512(p);
  return {_mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8), _mm512_srai_epi16(all, 8)};
}
inline Activations broadcast_four(const uint8_t* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof(four));
  const __m512i all = _mm512_set1_epi32(four);
  return {_mm512_and_si512(all, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(all, 8)};
}
inline Lanes dot(Lanes sums, Activations x, Weights w) {
  const __m512i even = _mm512_add_epi32(sums, _mm512_madd_epi16(x.even, w.even));
  return _mm512_add_epi32(even, _mm512_madd_epi16(x.odd, w.odd));
}
#endif
inline Lanes load_bytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// As in kernels/first_bytes.h.
inline Lanes load_first_bytes(const uint8_t* p, int64_t count) {
  const int lanes = count < kLanes ? static_cast<int>(count) : kLanes;
  return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_lanes(lanes), p));
}
inline void store_bytes(uint8_t* p, Lanes lanes, int count) {
  _mm512_mask_cvtepi32_storeu_epi8(p, first_lanes(count), lanes);
}

// As in kernels/halves.h, out of a line at a time.
inline constexpr int kHalfSource = 32;
struct HalfVec {
  __m512i halves;  // in the lower half
};
struct HalfLanes {
  __m512i places;
  __mmask32 taken;
};
inline HalfVec no_halves() { return {_mm512_setzero_si512()}; }
inline HalfLanes half_lanes_of(const int32_t* lanes) {
  const __m512i all = load_lanes(lanes);
  const auto taken = static_cast<__mmask16>(~_mm512_movepi32_mask(all));
  return {_mm512_castsi256_si512(_mm512_cvtepi32_epi16(all)), taken};
}
inline HalfVec take_halves(HalfVec old, const compress::Half* source, HalfLanes lanes) {
  return {_mm512_mask_permutexvar_epi16(old.halves, lanes.taken, lanes.places, _mm512_loadu_si512(source))};
}
inline Vec finished(HalfVec packed) { return _mm512_cvtph_ps(_mm512_castsi512_si256(packed.halves)); }

#ifdef __AVX512VBMI__
// As in kernels/bytes.h, likewise.
inline constexpr int kByteSource = 64;
struct ByteVec {
  __m512i bytes;  // in the lowest quarter
};
struct ByteLanes {
  __m512i places;
  __mmask64 taken;
};
inline ByteVec no_bytes() { return {_mm512_setzero_si512()}; }
inline ByteLanes byte_lanes_of(const int32_t* lanes) {
  const __m512i all = load_lanes(lanes);
  const auto taken = static_cast<__mmask16>(~_mm512_movepi32_mask(all));
  return {_mm512_castsi128_si512(_mm512_cvtepi32_epi8(all)), taken};
}
inline ByteVec take_bytes(ByteVec old, const int8_t* source, ByteLanes lanes) {
  return {_mm512_mask_permutexvar_epi8(old.bytes, lanes.taken, lanes.places, _mm512_loadu_si512(source))};
}
inline Vec finished(ByteVec packed) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm512_castsi512_si128(packed.bytes)));
}
#endif

// Values from 0 to 255, rounded to the nearest, ties to even, as bytes: a's first, d's last.
#define COMPRESS_PACKS_BYTES
inline __m512i pack_bytes(Vec a, Vec b, Vec c, Vec d) {
  const auto pairs = [](Vec low, Vec high) {
    return _mm512_packs_epi32(_mm512_cvtps_epi32(low), _mm512_cvtps_epi32(high));
  };
  const __m512i quarters = _mm512_packus_epi16(pairs(a, b), pairs(c, d));  // of four values of each
  const Lanes order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, quarters);
}
inline void store_blocks(uint8_t* p, const Vec (&values)[4]) {
  _mm512_storeu_si512(p, pack_bytes(values[0], values[1], values[2], values[3]));
}

// As sum_lanes in kernels/int8.h, of kWideLanes channels: in 16 bits, as long as these hold the sums.
#define COMPRESS_WIDE_SUMS
inline constexpr int kWideLanes = 64;
inline void sum_wide_lanes(const uint8_t* x, int64_t pixels, int32_t channels, const uint8_t* zeros,
                           int32_t* sums) {
  constexpr int64_t kHeld = 257;  // of 255 each
  const __m512i none = _mm512_setzero_si512(), zero = zeros == nullptr ? none : _mm512_loadu_si512(zeros);
  Lanes all[4] = {none, none, none, none};
  for (int64_t left = pixels; left > 0; left -= kHeld) {
    __m512i low = none, high = none;  // of each quarter the first and the last eight
    for (int64_t p = left < kHeld ? left : kHeld; p > 0; --p, x += channels) {
      const __m512i bytes = _mm512_loadu_si512(x);
      const __m512i size = _mm512_or_si512(_mm512_subs_epu8(bytes, zero), _mm512_subs_epu8(zero, bytes));
      low = _mm512_add_epi16(low, _mm512_unpacklo_epi8(size, none));
      high = _mm512_add_epi16(high, _mm512_unpackhi_epi8(size, none));
    }
    alignas(64) uint16_t halves[2][32];
    _mm512_store_si512(halves[0], low);
    _mm512_store_si512(halves[1], high);
    for (int q = 0; q < 4; ++q) {
      const __m128i first = _mm_load_si128(reinterpret_cast<const __m128i*>(halves[0] + 8 * q));
      const __m128i last = _mm_load_si128(reinterpret_cast<const __m128i*>(halves[1] + 8 * q));
      all[q] = _mm512_add_epi32(all[q], _mm512_cvtepu16_epi32(_mm256_set_m128i(last, first)));
    }
  }
  for (int q = 0; q < 4; ++q) store_lanes(sums + 16 * q, all[q]);
}

#ifdef __AVX512VBMI2__
#define COMPRESS_ROW_PACK
// The bytes that `mask` names, one after the other, then zeros: kLanes lanes are written.
inline void compress_bytes(int8_t* to, const int8_t* from, uint64_t mask) {
  _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(mask, _mm512_loadu_si512(from)));
}

// Four bytes of each of kLanes rows after the other, `groups` times. Of each row whole quarters of a vector
// are read.
inline void store_groups(const int8_t* const* rows, int groups, int8_t* out) {
  const auto quarter = [&](int row, int64_t at) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[row] + at));
  };
  for (int g = 0; g < groups; g += 4, out += 4 * sizeof(__m512i)) {
    __m512i four[4];  // rows i, i + 4, i + 8 and i + 12
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      four[i] = _mm512_castsi128_si512(quarter(i, 4 * g));
      four[i] = _mm512_inserti32x4(four[i], quarter(i + 4, 4 * g), 1);
      four[i] = _mm512_inserti32x4(four[i], quarter(i + 8, 4 * g), 2);
      four[i] = _mm512_inserti32x4(four[i], quarter(i + 12, 4 * g), 3);
    }
    const __m512i low = _mm512_unpacklo_epi32(four[0], four[1]),
                  more = _mm512_unpacklo_epi32(four[2], four[3]);
    const __m512i high = _mm512_unpackhi_epi32(four[0], four[1]),
                  most = _mm512_unpackhi_epi32(four[2], four[3]);
    _mm512_storeu_si512(out, _mm512_unpacklo_epi64(low, more));
    if (g + 1 < groups) _mm512_storeu_si512(out + 64, _mm512_unpackhi_epi64(low, more));
    if (g + 2 < groups) _mm512_storeu_si512(out + 128, _mm512_unpacklo_epi64(high, most));
    if (g + 3 < groups) _mm512_storeu_si512(out + 192, _mm512_unpackhi_epi64(high, most));
  }
}
#else
// As in kernels/columns.h, a row in each quarter until all is found: a byte of -1 picks a 0.
using Columns = __m512i;
inline Columns columns_of(const int32_t* lanes) {
  return _mm512_broadcast_i32x4(_mm512_cvtepi32_epi8(load_lanes(lanes)));
}
inline Lanes add_columns(Lanes found, const uint8_t* const* rows, int64_t offset, Columns columns) {
  const auto row = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + offset)); };
  __m512i four = _mm512_castsi128_si512(row(0));
  four = _mm512_inserti32x4(four, row(1), 1);
  four = _mm512_inserti32x4(four, row(2), 2);
  four = _mm512_inserti32x4(four, row(3), 3);
  return _mm512_or_si512(found, _mm512_shuffle_epi8(four, columns));
}
inline Lanes interleave(Lanes found) {
  const __m512i quarters = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i bytes = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quarters, found), _mm512_broadcast_i32x4(bytes));
}
#endif

}  // namespace

#ifndef __AVX512VBMI__
#include "kernels/bytes.h"  // last: on top of what stands above
#endif

#endif  // COMPRESS_ISA_AVX512_H_
