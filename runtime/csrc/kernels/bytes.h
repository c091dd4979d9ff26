// Bytes picked out of rows of weights, for instruction sets that make floats of them first. One that moves
// bytes has its own in its header.
#ifndef COMPRESS_KERNELS_BYTES_H_
#define COMPRESS_KERNELS_BYTES_H_

#include <cstdint>

namespace {

// What one step takes from.
inline constexpr int kByteSource = kLanes;

// As in kernels/halves.h.
using ByteVec = Vec;
using ByteLanes = Lanes;
inline ByteVec no_bytes() { return zero(); }
inline ByteLanes byte_lanes_of(const int32_t* lanes) { return load_lanes(lanes); }
inline ByteVec take_bytes(ByteVec old, const int8_t* source, ByteLanes lanes) {
  return take(old, load(source), lanes);
}

}  // namespace

#endif  // COMPRESS_KERNELS_BYTES_H_
