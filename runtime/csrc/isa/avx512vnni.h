// AVX-512 with VNNI: floats as in avx512.h; four products of bytes a lane are one instruction.
// isa-flags: -mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx512vnni -mavx2 -mfma
// isa-processor: x86_64|AMD64|amd64
// isa-rank: 40
// isa-requires: avx512f avx512dq avx512vl avx512bw avx512vnni
// isa-description: AVX-512 (F, DQ, VL, BW, VNNI), 16 floats or 64 bytes a vector
#ifndef COMPRESS_ISA_AVX512VNNI_H_
#define COMPRESS_ISA_AVX512VNNI_H_

#include "isa/avx512.h"

#endif  // COMPRESS_ISA_AVX512VNNI_H_
