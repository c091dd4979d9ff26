// A max pool of packed planes, channels last. Independent of ONNX Runtime.
#ifndef COMPRESS_MAX_POOL_H_
#define COMPRESS_MAX_POOL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "geometry.h"
#include "kernels/table.h"
#include "layer.h"
#include "parallel.h"

namespace compress {

// What a MaxPoolNHWC node says about itself.
struct MaxPoolSpec {
  std::vector<int64_t> kernel;  // kh, kw
  std::vector<int64_t> strides = {1, 1};
  std::vector<int64_t> pads = {0, 0, 0, 0};  // top, left, bottom, right
  std::vector<int64_t> dilations = {1, 1};

  Axis y() const { return {kernel[0], strides[0], dilations[0], pads[0], pads[2]}; }
  Axis x() const { return {kernel[1], strides[1], dilations[1], pads[1], pads[3]}; }
};

// Each returns an empty string, or what came and what is allowed.
std::string check_max_pool(const MaxPoolSpec& spec);
// X of one call, against a pool that passed check_max_pool.
std::string check_max_pool_input(const MaxPoolSpec& spec, const Dims& x);

class MaxPool {
 public:
  // `spec` must have passed check_max_pool.
  MaxPool(const MaxPoolSpec& spec, const KernelTable* kernels) : spec_(spec), kernels_(kernels) {}

  const MaxPoolSpec& spec() const { return spec_; }

  // y [N, H', W', C] from x [N, H, W, C] that has passed check_max_pool_input. Safe to call from several
  // threads at a time. Throws std::bad_alloc.
  void run(const Tensor<float>& x, float* y, const Parallel& parallel) const;

 private:
  MaxPoolSpec spec_;
  const KernelTable* kernels_;
  mutable LastGeometry geometry_;
};

}  // namespace compress

#endif  // COMPRESS_MAX_POOL_H_
