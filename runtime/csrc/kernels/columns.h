// Columns of bytes picked out of weights, for instruction sets that do it one row at a time. An instruction
// set that takes four rows together has its own in its header.
#ifndef COMPRESS_KERNELS_COLUMNS_H_
#define COMPRESS_KERNELS_COLUMNS_H_

#include <cstdint>

namespace {

// What one vector of a row hands on: lane i takes byte lanes[i], none where that is -1.
using Columns = Lanes;
inline Columns columns_of(const int32_t* lanes) { return load_lanes(lanes); }

// `found` and what `columns` picks of the four rows behind rows[i] + offset.
inline Lanes add_columns(Lanes found, const uint8_t* const* rows, int64_t offset, Columns columns) {
  const auto picked = [&](int i) {
    return as_lanes(take(zero(), as_vec(load_bytes(rows[i] + offset)), columns));
  };
  return merge<24>(merge<16>(merge<8>(merge<0>(found, picked(0)), picked(1)), picked(2)), picked(3));
}

// What was found, the four rows' bytes of each lane together.
inline Lanes interleave(Lanes found) { return found; }

}  // namespace

#endif  // COMPRESS_KERNELS_COLUMNS_H_
