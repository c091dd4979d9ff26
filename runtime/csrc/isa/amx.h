// AMX: floats and vectors as in avx512vbmi.h; a matrix of 16 pixels by 64 bytes times one of 64 by 16 outputs
// is one instruction.
// isa-flags: -mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx512vnni -mavx512vbmi -mavx512vbmi2 -mamx-tile -mamx-int8 -mamx-bf16 -mavx2 -mfma
// isa-processor: x86_64|AMD64|amd64
// isa-rank: 60
// isa-requires: avx512f avx512dq avx512vl avx512bw avx512vnni avx512vbmi avx512vbmi2
// isa-also: amx_permitted()
// isa-description: AMX (int8, bfloat16), AVX-512 (F, DQ, VL, BW, VNNI, VBMI, VBMI2), 16 floats a vector, 16 times 64 bytes a matrix
#ifndef COMPRESS_ISA_AMX_H_
#define COMPRESS_ISA_AMX_H_

#define COMPRESS_MATRICES  // before what depends on it

#include "isa/avx512.h"

namespace {

// Pixels, or groups of weights: of these a matrix has a row each.
inline constexpr int kMatrixRows = 16;
inline constexpr int kMatrixBytes = 64;  // of a row
inline constexpr int kMaxInt8Tile = 2 * kMatrixRows;

// What the eight matrix registers hold, as the processor reads it.
struct alignas(64) MatrixSizes {
  uint8_t palette = 1;
  uint8_t first_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// The registers are named in the instructions, so they are arguments of the templates. Not the intrinsics:
// GCC 12's do not tell the compiler that they read memory.
inline void size_matrices(const MatrixSizes& sizes) { asm volatile("ldtilecfg %0" ::"m"(sizes)); }
inline void release_matrices() { asm volatile("tilerelease"); }
template <int kMatrix>
inline void zero_matrix() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kMatrix));
}
// Rows `step` bytes apart.
template <int kMatrix>
inline void load_matrix(const void* from, int64_t step) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kMatrix), "r"(from), "r"(step) : "memory");
}
template <int kMatrix>
inline void store_matrix(void* to, int64_t step) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kMatrix), "r"(to), "r"(step) : "memory");
}
// sums += x * w, of bytes without and with a sign, in int32.
template <int kSums, int kX, int kW>
inline void add_products() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kX), "i"(kW));
}

// sums += x * w, of pairs of bfloat16, in floats.
template <int kSums, int kX, int kW>
inline void add_float_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kX), "i"(kW));
}

// The first `count`, of 32 at most, of the upper halves of a's lanes, then of b's.
inline void store_upper_halves(uint16_t* to, Vec a, Vec b, int64_t count) {
  alignas(64) static const uint16_t kUpper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                  23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                  45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const __m512i both = _mm512_permutex2var_epi16(as_lanes(a), _mm512_load_si512(kUpper), as_lanes(b));
  _mm512_mask_storeu_epi16(to, count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1, both);
}

// The upper half of each lane of a, and behind it that of b.
inline void store_pairs(uint16_t* to, Vec a, Vec b) {
  const Lanes pairs = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(as_lanes(a), 16), as_lanes(b));
  _mm512_storeu_si512(to, pairs);
}

// The upper halves of the lanes, as floats.
inline Vec upper_half(Vec a) { return as_vec(_mm512_and_si512(as_lanes(a), _mm512_set1_epi32(-65536))); }

// As pack_bytes: 32 of a row, 32 of another.
inline void store_two_rows(uint8_t* a, uint8_t* b, Vec a0, Vec a1, Vec b0, Vec b1) {
  const __m512i rows = pack_bytes(a0, a1, b0, b1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(a), _mm512_castsi512_si256(rows));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(b), _mm512_extracti64x4_epi64(rows, 1));
}

// The first `count` of at most kMatrixBytes; the bytes behind them are 0.
inline void copy_first_bytes(uint8_t* to, const uint8_t* from, int64_t count) {
  const __mmask64 mask = count >= kMatrixBytes ? ~__mmask64{0} : (__mmask64{1} << count) - 1;
  _mm512_storeu_si512(to, _mm512_maskz_loadu_epi8(mask, from));
}

}  // namespace

#endif  // COMPRESS_ISA_AMX_H_
