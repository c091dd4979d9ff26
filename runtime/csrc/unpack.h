// Packed channels back among all of them, floats or bytes. Independent of ONNX Runtime.
#ifndef COMPRESS_UNPACK_H_
#define COMPRESS_UNPACK_H_

#include <cstdint>

#include "int8_layer.h"
#include "kernels/table.h"
#include "layer.h"
#include "parallel.h"

namespace compress {

// What unpacked planes are added to, the lower bound of the sum, and where the means of its planes' absolute
// values go, the same to the bit as FbsConv takes them.
struct Sum {
  const float* z;  // [N, H, W, channels]; null: nothing is added, nothing bounded
  float lower;
  float* means = nullptr;  // [N, channels]; null: nobody asks
  // The places of Z's channels [N or 1, kz], where it is packed: [N, H, W, kz]; null: it is dense.
  const Tensor<int64_t>* z_index = nullptr;
};

// y [N, H, W, channels] from inputs that have passed check_unpack. Throws std::bad_alloc.
void unpack(const KernelTable& kernels, int64_t channels, const Tensor<float>& x,
            const Tensor<int64_t>& index, const Sum& sum, float* y, const Parallel& parallel);

// What unpacked bytes are added to; what bytes stand for is in three scales.
struct ByteSum {
  const uint8_t* z;  // [N, H, W, channels]; null: nothing is added
  Int8Scale x_scale, z_scale, y_scale;
  float lower;  // of what y stands for
};

// y [N, H, W, channels] from inputs that have passed check_unpack. Throws std::bad_alloc.
void unpack_bytes(const KernelTable& kernels, int64_t channels, const Tensor<uint8_t>& x,
                  const Tensor<int64_t>& index, const ByteSum& sum, uint8_t* y, const Parallel& parallel);

}  // namespace compress

#endif  // COMPRESS_UNPACK_H_
