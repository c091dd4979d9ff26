// Which outputs are the largest: keys in the order of the floats, how many reach a value, and which.
#ifndef COMPRESS_KERNELS_RANKING_H_
#define COMPRESS_KERNELS_RANKING_H_

#include <cstdint>
#include <cstring>

#include "kernels/table.h"

namespace {

void order_keys(const float* values, int32_t count, int32_t* keys) {
  for (int32_t i = 0; i < count; ++i) {
    const float value = values[i] + 0.0f;  // -0 becomes 0
    int32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const int32_t key = bits ^ ((bits >> 31) & INT32_MAX);
    keys[i] = value == value ? key : INT32_MIN;
  }
}

int32_t count_reaching(const int32_t* keys, int32_t count, int32_t least) {
  const Lanes threshold = broadcast_lane(least);
  Lanes counts = broadcast_lane(0);
  for (int i = 0; i < count; i += kLanes) counts = count_at_least(counts, load_lanes(keys + i), threshold);
  int32_t lanes[kLanes];
  store_lanes(lanes, counts);
  int32_t sum = 0;
  for (const int32_t lane : lanes) sum += lane;
  return sum;
}

int32_t list_reaching(const int32_t* keys, int32_t count, int32_t least, int32_t* indices) {
  int32_t found = 0;
  for (int32_t i = 0; i < count; i += kLanes) found += append_reaching(indices + found, keys + i, least, i);
  return found;
}

}  // namespace

#endif  // COMPRESS_KERNELS_RANKING_H_
