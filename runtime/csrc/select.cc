#include "select.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>

namespace compress {

void scale_to_mean_one(float* s, int32_t count) {
  double sum = 0.0;
  for (int32_t i = 0; i < count; ++i) sum += static_cast<double>(s[i]);
  const double factor = sum == 0.0 ? 1.0 : static_cast<double>(count) / sum;
  for (int32_t i = 0; i < count; ++i) s[i] = static_cast<float>(static_cast<double>(s[i]) * factor);
}

void block_means(const float* s, int32_t count, int32_t block, float* means) {
  for (int32_t first = 0; first < count; first += block) {
    const int32_t last = std::min(first + block, count);
    float sum = 0.0f;
    for (int32_t i = first; i < last; ++i) sum += s[i];
    std::fill(means + first, means + last, sum / static_cast<float>(last - first));
  }
}

void top_k(const KernelTable& kernels, const float* s, int32_t count, int32_t k, int32_t* keys,
           int32_t* winners) {
  const int32_t padded = (count + kernels.lanes - 1) / kernels.lanes * kernels.lanes;
  kernels.order_keys(s, count, keys);
  for (int32_t i = count; i < padded; ++i) keys[i] = std::numeric_limits<int32_t>::min();

  // The k-th largest key, bit by bit from the top: the largest number that at least k keys reach; or, found
  // earlier, any number that just k keys reach. The lowest number of all, which the padding has, is never
  // asked for.
  auto threshold = std::numeric_limits<int32_t>::min();
  for (int bit = 31; bit >= 0; --bit) {
    const auto higher = static_cast<int32_t>(static_cast<uint32_t>(threshold) ^ (uint32_t{1} << bit));
    const int32_t reaching = kernels.count_reaching(keys, padded, higher);
    if (reaching < k) continue;
    threshold = higher;
    if (reaching > k) continue;
    kernels.list_reaching(keys, padded, threshold, winners);
    return;
  }
  // So many of the keys equal to it still win: the first ones.
  constexpr int32_t kHighest = std::numeric_limits<int32_t>::max();
  int32_t ties = k - (threshold == kHighest ? 0 : kernels.count_reaching(keys, padded, threshold + 1));

  int32_t found = 0;
  for (int32_t i = 0; i < count && found < k; ++i) {
    const bool wins_tie = keys[i] == threshold && ties > 0;
    ties -= static_cast<int32_t>(wins_tie);
    winners[found] = i;
    found += static_cast<int32_t>(keys[i] > threshold || wins_tie);
  }
}

int32_t max_squeeze_steps(int32_t count, int32_t k, int32_t lanes) {
  return (count + lanes - 1) / lanes + (k + lanes - 1) / lanes;
}

void squeeze_steps(const int32_t* winners, int32_t k, int32_t lanes, int32_t source_lanes, SqueezeStep* steps,
                   int32_t* first_step) {
  int32_t num_steps = 0;
  const int shift = std::countr_zero(static_cast<uint32_t>(source_lanes));
  for (int32_t first = 0; first < k; first += lanes) {
    *first_step++ = num_steps;
    const int32_t last = std::min(first + lanes, k);
    for (int32_t i = first; i < last; ++i) {
      const int32_t source = winners[i] >> shift;
      if (i == first || steps[num_steps - 1].source != source) {
        steps[num_steps].source = source;
        std::fill(std::begin(steps[num_steps].lanes), std::end(steps[num_steps].lanes), -1);
        ++num_steps;
      }
      steps[num_steps - 1].lanes[i - first] = winners[i] - (source << shift);
    }
  }
  *first_step = num_steps;
}

}  // namespace compress
