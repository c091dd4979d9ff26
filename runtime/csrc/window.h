// Reading the attributes and inferring the sizes that all our convolutions have alike.
#ifndef COMPRESS_WINDOW_H_
#define COMPRESS_WINDOW_H_

#include <limits>
#include <string>

#include "ort_access.h"
#include "shape_inference.h"

namespace compress {

// Strides, pads, dilations and clamp into a spec's fields of these names, which the attributes have behind
// `prefix`; absent ones mean none.
template <typename Spec>
void read_window(const Api& api, const OrtKernelInfo* info, Spec* spec, const std::string& prefix = "") {
  attribute(api, info, (prefix + "strides").c_str(), &spec->strides);
  attribute(api, info, (prefix + "pads").c_str(), &spec->pads);
  attribute(api, info, (prefix + "dilations").c_str(), &spec->dilations);
  spec->lower = -std::numeric_limits<float>::max();
  spec->upper = std::numeric_limits<float>::max();
  attribute(api, info, (prefix + "lower").c_str(), &spec->lower);
  attribute(api, info, (prefix + "upper").c_str(), &spec->upper);
}

// Height and width of a convolution's output, to sizes[0] and sizes[1], as far as they can be told; `kernel`
// has two sizes, -1 where one is not known.
inline void inferred_window(const Api& api, const OrtShapeInferContext* context, const int64_t* kernel,
                            const InferredSize* input, InferredSize* sizes, const std::string& prefix = "") {
  int64_t strides[2] = {1, 1};
  int64_t pads[4] = {};
  int64_t dilations[2] = {1, 1};
  inferred_attribute(api, context, (prefix + "strides").c_str(), ort::kAttributeInts, strides, 2);
  inferred_attribute(api, context, (prefix + "pads").c_str(), ort::kAttributeInts, pads, 4);
  inferred_attribute(api, context, (prefix + "dilations").c_str(), ort::kAttributeInts, dilations, 2);
  for (size_t i = 0; i < 2; ++i) {
    const Axis axis = {kernel[i], strides[i], dilations[i], pads[i], pads[2 + i]};
    if (axis.kernel > 0 && axis.stride > 0 && axis.dilation > 0) sizes[i] = inferred_outputs(axis, input[i]);
  }
}

}  // namespace compress

#endif  // COMPRESS_WINDOW_H_
