// Which channels win, and the steps that squeeze their columns together.
#ifndef COMPRESS_SELECT_H_
#define COMPRESS_SELECT_H_

#include <cstdint>

#include "kernels/table.h"

namespace compress {

// s = s * count / sum(s), unless the sum is 0.
void scale_to_mean_one(float* s, int32_t count);

// The mean of s over each block of neighbours, for each of its outputs: equal ones win in order, so blocks
// stay whole. The last block may be smaller.
void block_means(const float* s, int32_t count, int32_t block, float* means);

// Writes the k largest of s[0 … count-1] to `winners`, as indices, ascending. Of equal values the lower index
// wins; -0 equals 0; NaN is below everything. O(count), no branch on the data. `keys`: scratch for `count`
// values, rounded up to whole vectors, and winners for kMaxLanes more than k.
void top_k(const KernelTable& kernels, const float* s, int32_t count, int32_t k, int32_t* keys,
           int32_t* winners);

// Most steps squeeze_steps can write for k winners of `count` channels.
int32_t max_squeeze_steps(int32_t count, int32_t k, int32_t lanes);

// Writes the steps for ascending `winners`, each from one source of `source_lanes` outputs, `lanes` or more
// and a power of two; those of output vector v are steps[first_step[v]] … first_step[v + 1] - 1.
void squeeze_steps(const int32_t* winners, int32_t k, int32_t lanes, int32_t source_lanes, SqueezeStep* steps,
                   int32_t* first_step);

}  // namespace compress

#endif  // COMPRESS_SELECT_H_
