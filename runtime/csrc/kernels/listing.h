// Listing lanes one by one, for instruction sets that cannot squeeze out those of a mask.
#ifndef COMPRESS_KERNELS_LISTING_H_
#define COMPRESS_KERNELS_LISTING_H_

#include <cstdint>

namespace {

// to[0], to[1], … = first + i for each of kLanes keys[i] that is `least` or more; returns how many. Up to
// kLanes values are written.
inline int32_t append_reaching(int32_t* to, const int32_t* keys, int32_t least, int32_t first) {
  int32_t found = 0;
  for (int32_t i = 0; i < kLanes; ++i) {
    to[found] = first + i;
    found += static_cast<int32_t>(keys[i] >= least);
  }
  return found;
}

}  // namespace

#endif  // COMPRESS_KERNELS_LISTING_H_
