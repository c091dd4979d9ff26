#include "select.h"

#include <cstring>

namespace compress {

namespace {

// Unsigned integers in the order of the floats: NaN, -inf, …, 0, …, inf.
uint32_t ordered_key(float value) {
  if (value != value) return 0;
  value += 0.0f;  // -0 becomes 0
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace

void top_k(const float* s, int32_t count, int32_t k, uint32_t* keys, int32_t* winners) {
  for (int32_t i = 0; i < count; ++i) keys[i] = ordered_key(s[i]);

  // The k-th largest key, one byte after the other from the top: of the keys that share the bytes found so
  // far, count those with each next byte, and go down until `wanted` are reached.
  uint32_t threshold = 0;
  uint32_t known = 0;  // mask of the bytes found so far
  int32_t wanted = k;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int32_t histogram[256] = {};
    for (int32_t i = 0; i < count; ++i)
      histogram[(keys[i] >> shift) & 0xff] += static_cast<int32_t>((keys[i] & known) == threshold);
    uint32_t byte = 255;
    while (histogram[byte] < wanted) wanted -= histogram[byte--];
    threshold |= byte << shift;
    known |= 0xffu << shift;
  }

  // `wanted` is now how many of the keys equal to the threshold still win: the first ones.
  int32_t found = 0;
  for (int32_t i = 0; i < count && found < k; ++i) {
    const bool ties = keys[i] == threshold && wanted > 0;
    wanted -= static_cast<int32_t>(ties);
    winners[found] = i;
    found += static_cast<int32_t>(keys[i] > threshold || ties);
  }
}

int32_t max_squeeze_steps(int32_t count, int32_t k, int32_t lanes) {
  return (count + lanes - 1) / lanes + (k + lanes - 1) / lanes;
}

void squeeze_steps(const int32_t* winners, int32_t k, int32_t lanes, SqueezeStep* steps,
                   int32_t* first_step) {
  int32_t num_steps = 0;
  for (int32_t i = 0; i < k; ++i) {
    const int32_t source = winners[i] / lanes;
    if (i % lanes == 0) *first_step++ = num_steps;
    if (i % lanes == 0 || steps[num_steps - 1].source != source) {
      steps[num_steps].source = source;
      for (int32_t& lane : steps[num_steps].lanes) lane = -1;
      ++num_steps;
    }
    steps[num_steps - 1].lanes[i % lanes] = winners[i] % lanes;
  }
  *first_step = num_steps;
}

}  // namespace compress
