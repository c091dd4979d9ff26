// A linear layer that reads packed planes. Independent of ONNX Runtime.
#ifndef COMPRESS_LINEAR_H_
#define COMPRESS_LINEAR_H_

#include <cstdint>
#include <string>

#include "kernels/table.h"
#include "layer.h"
#include "parallel.h"
#include "scratch.h"

namespace compress {

// What a Linear node says about itself.
struct LinearSpec {
  int64_t channels = 0;  // C
  float lower = 0.0f;
  bool average = false;  // of a plane its mean counts, and W has one row for it
  Dims weight;           // W [C * H * W, K]: the rows of one channel follow each other
  Dims shift;            // B [K]

  int64_t outputs() const { return weight[1]; }
};

// Each returns an empty string, or what came and what is allowed.
std::string check_linear(const LinearSpec& spec);
// X and I of one call, against a layer that passed check_linear.
std::string check_linear_input(const LinearSpec& spec, const Tensor<float>& x, const Tensor<int64_t>& index);

class Linear {
 public:
  // Copies what it needs: the weights only where their rows are no whole vectors.
  // `steps` [K], of W where it holds bytes; else null.
  Linear(const LinearSpec& spec, const Weights& weight, const float* shift, const float* steps,
         const KernelTable* kernels);

  const LinearSpec& spec() const { return spec_; }

  // Whether the weights are copied, so that run() does not read those of the caller.
  bool has_copy() const { return weight_.bytes() > 0; }

  // y [N, K] from inputs that have passed check_linear_input; `weight` is W as it lies in the caller's
  // memory, as the constructor had it. Safe to call from several threads at a time. Throws std::bad_alloc.
  void run(const Tensor<float>& x, const Tensor<int64_t>& index, const Weights& weight, float* y,
           const Parallel& parallel) const;

 private:
  LinearSpec spec_;
  const KernelTable* kernels_;
  int32_t pitch_;  // outputs, padded to whole vectors
  Buffer weight_;  // empty: as it lies
  Buffer shift_;
  Buffer steps_;  // of bytes, or empty
};

}  // namespace compress

#endif  // COMPRESS_LINEAR_H_
