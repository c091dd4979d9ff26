// AVX-512 with VNNI and VBMI: as in avx512vnni.h; bytes move within a vector, and together, in one
// instruction.
// isa-flags: -mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx512vnni -mavx512vbmi -mavx512vbmi2 -mavx2 -mfma
// isa-processor: x86_64|AMD64|amd64
// isa-rank: 50
// isa-requires: avx512f avx512dq avx512vl avx512bw avx512vnni avx512vbmi avx512vbmi2
// isa-description: AVX-512 (F, DQ, VL, BW, VNNI, VBMI, VBMI2), 16 floats or 64 bytes a vector
#ifndef COMPRESS_ISA_AVX512VBMI_H_
#define COMPRESS_ISA_AVX512VBMI_H_

#include "isa/avx512.h"

#endif  // COMPRESS_ISA_AVX512VBMI_H_
