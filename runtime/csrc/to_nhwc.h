// Planes laid out channels last. Independent of ONNX Runtime.
#ifndef COMPRESS_TO_NHWC_H_
#define COMPRESS_TO_NHWC_H_

#include <string>

#include "kernels/table.h"
#include "layer.h"
#include "parallel.h"

namespace compress {

// Empty, or what came and what is allowed: X is [N, C, H, W].
std::string check_to_nhwc(const Dims& x);

// y [N, H, W, C] from x of a shape that has passed check_to_nhwc. Threads divide the pixels, so that none
// writes where another does: ONNX Runtime's own transpose divides the channels, and four threads take up to
// nine times as long as one with an image of three.
void to_nhwc(const KernelTable& kernels, const Tensor<float>& x, float* y, const Parallel& parallel);

}  // namespace compress

#endif  // COMPRESS_TO_NHWC_H_
