// The matrix of an FBS layer's saliency predictor, kept as the kernels read it. Independent of ONNX Runtime.
#ifndef COMPRESS_PREDICTOR_H_
#define COMPRESS_PREDICTOR_H_

#include <cstddef>
#include <cstdint>

#include "kernels/table.h"
#include "layer.h"
#include "parallel.h"
#include "scratch.h"

namespace compress {

class Predictor {
 public:
  // Copies A out of `spec`, which must have passed check_layer, in the precision that it has there.
  Predictor(const LayerSpec& spec, const KernelTable* kernels);

  // KernelTable::saliency of all outputs, from the means of the inputs `live` and a bias padded to whole
  // vectors; in `parts` parts.
  void run(const float* means, const int32_t* live, int32_t channels, const float* bias, float slope,
           int32_t parts, const Parallel& parallel, float* s) const;

  // That so many threads divide it in, if it is large enough.
  int32_t parts(int32_t channels, int threads) const;

  // One row for each input, row_floats() floats of memory apart, whatever lies in them.
  const float* rows() const { return weight_.floats(); }
  int32_t row_floats() const;
  size_t bytes() const { return weight_.bytes(); }

 private:
  const KernelTable* kernels_;
  int32_t padded_;  // outputs, to whole vectors
  Precision precision_;
  Buffer weight_;  // [C][padded_]
  Buffer steps_;   // [padded_] of bytes, or empty
};

// Adds to a bias what every channel counts with, whether it exists or not: size(c) times its row of A.
template <typename Size>
void add_left_out(const LayerSpec& spec, const Size& size, float* bias) {
  const int64_t inputs = spec.inputs(), outputs = spec.outputs();
  for (int64_t o = 0; o < outputs; ++o) {
    const double step = spec.saliency_steps ? static_cast<double>(spec.saliency_steps->data[o]) : 1.0;
    double sum = static_cast<double>(bias[o]);
    for (int64_t c = 0; c < inputs; ++c)
      sum += size(c) * step * static_cast<double>(spec.saliency_weight.at(c * outputs + o));
    bias[o] = static_cast<float>(sum);
  }
}

}  // namespace compress

#endif  // COMPRESS_PREDICTOR_H_
