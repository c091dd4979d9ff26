// Shapes before the first run: ONNX Runtime asks each op what its outputs look like while it loads a model.
#ifndef COMPRESS_SHAPE_INFERENCE_H_
#define COMPRESS_SHAPE_INFERENCE_H_

#include <optional>
#include <string>
#include <vector>

#include "geometry.h"
#include "ort_access.h"

namespace compress {

// One size on its way through shape inference: a number, or else a name, or else nothing is known.
struct InferredSize {
  int64_t value = -1;
  std::string name;

  bool known() const { return value >= 0 || !name.empty(); }
};
using InferredShape = std::vector<InferredSize>;

// Nothing where the input's shape is unknown.
inline std::optional<InferredShape> inferred_input(const Api& api, const OrtShapeInferContext* context,
                                                   size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // stays ONNX Runtime's
  OrtStatus* status = api.inferred_input(context, index, &info);
  if (status != nullptr || info == nullptr) {
    if (status != nullptr) api.release_status(status);
    return std::nullopt;
  }
  const Dims dims = dims_of(api, info);
  std::vector<const char*> names(dims.size(), "");
  if (!names.empty()) check(api.symbolic_dims(info, names.data(), names.size()));
  InferredShape shape;
  for (size_t i = 0; i < dims.size(); ++i) shape.push_back({dims[i], names[i] == nullptr ? "" : names[i]});
  return shape;
}

// Does nothing unless every size is known: ONNX Runtime would take a nameless unknown one for the number -1.
inline void set_inferred_output(const Api& api, OrtShapeInferContext* context, size_t index,
                                ort::ElementType type, const InferredShape& shape) {
  std::vector<int64_t> dims;
  std::vector<const char*> names;
  for (const InferredSize& size : shape) {
    if (!size.known()) return;
    dims.push_back(size.value);
    names.push_back(size.value >= 0 ? "" : size.name.c_str());
  }
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api.create_tensor_info(&raw));
  const TensorInfo info(raw, {api});
  check(api.set_element_type(info.get(), type));
  check(api.set_dims(info.get(), dims.data(), dims.size()));
  check(api.set_symbolic_dims(info.get(), names.data(), names.size()));
  check(api.inferred_output(context, index, info.get()));
}

// False when the node lacks the attribute, or has it with another type or length.
template <typename T>
bool inferred_attribute(const Api& api, const OrtShapeInferContext* context, const char* name,
                        ort::AttributeType type, T* values, size_t count) {
  const OrtOpAttr* found = nullptr;
  OrtStatus* status = api.inferred_attribute(context, name, &found);
  size_t bytes = 0;
  if (status == nullptr && found != nullptr) {
    status = api.read_attribute(found, type, values, count * sizeof(T), &bytes);
    if (status == nullptr && bytes == count * sizeof(T)) return true;
  }
  if (status != nullptr) api.release_status(status);
  return false;
}

// What a convolution makes of one size. A named size gets a name that says how it came about: equal names
// mean equal sizes to ONNX Runtime.
inline InferredSize inferred_outputs(const Axis& axis, const InferredSize& size) {
  if (size.value > 0) return {axis.outputs(size.value), ""};
  if (size.name.empty()) return {};
  return {-1, "conv(" + size.name + "," + std::to_string(axis.kernel) + "," + std::to_string(axis.stride) +
                  "," + std::to_string(axis.dilation) + "," + std::to_string(axis.pad_begin + axis.pad_end) +
                  ")"};
}

}  // namespace compress

#endif  // COMPRESS_SHAPE_INFERENCE_H_
