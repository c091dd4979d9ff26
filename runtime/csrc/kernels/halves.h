// Halves picked out of rows of weights, for instruction sets that make floats of them first. One that moves
// numbers of 16 bits has its own in its header.
#ifndef COMPRESS_KERNELS_HALVES_H_
#define COMPRESS_KERNELS_HALVES_H_

#include <cstdint>

#include "half.h"

namespace {

// What one step takes from.
inline constexpr int kHalfSource = kLanes;

// What is picked, step by step: lane i takes half lanes[i] of the source, or keeps what it has where that is
// negative.
using HalfVec = Vec;
using HalfLanes = Lanes;
inline HalfVec no_halves() { return zero(); }
inline HalfLanes half_lanes_of(const int32_t* lanes) { return load_lanes(lanes); }
inline HalfVec take_halves(HalfVec old, const compress::Half* source, HalfLanes lanes) {
  return take(old, load(source), lanes);
}

}  // namespace

#endif  // COMPRESS_KERNELS_HALVES_H_
