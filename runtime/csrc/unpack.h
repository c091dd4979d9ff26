// Packed channels back among all of them. Independent of ONNX Runtime.
#ifndef COMPRESS_UNPACK_H_
#define COMPRESS_UNPACK_H_

#include <cstdint>

#include "kernels/table.h"
#include "layer.h"
#include "parallel.h"

namespace compress {

// y [N, H, W, channels] from inputs that have passed check_unpack. Throws std::bad_alloc.
void unpack(const KernelTable& kernels, int64_t channels, const Tensor<float>& x,
            const Tensor<int64_t>& index, float* y, const Parallel& parallel);

}  // namespace compress

#endif  // COMPRESS_UNPACK_H_
