// Reading and writing through ONNX Runtime's interface in C++'s way: values instead of out parameters,
// exceptions instead of statuses. guarded() is the one way out: no exception may cross into ONNX Runtime.
#ifndef COMPRESS_ORT_ACCESS_H_
#define COMPRESS_ORT_ACCESS_H_

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "layer.h"
#include "ort_abi.h"

namespace compress {

using ort::Api;

// A status of ONNX Runtime's own on its way out.
struct StatusError {
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status != nullptr) throw StatusError{status};
}

inline void require(const std::string& error) {
  if (!error.empty()) throw std::invalid_argument(error);
}

// Runs `body`, and turns whatever it throws into a status that starts with the op's name.
template <typename Body>
OrtStatus* guarded(const Api& api, const char* op, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const std::invalid_argument& error) {
    return api.create_status(ort::kInvalidArgument, (std::string(op) + ": " + error.what()).c_str());
  } catch (const std::exception& error) {
    return api.create_status(ort::kFail, (std::string(op) + ": " + error.what()).c_str());
  }
}

inline Dims dims_of(const Api& api, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  check(api.rank(info, &rank));
  int64_t sizes[Dims::kMost];
  if (rank > Dims::kMost) {
    require("a tensor has " + std::to_string(rank) + " dimensions; at most " + std::to_string(Dims::kMost) +
            " are read");
  }
  if (rank > 0) check(api.dims(info, sizes, rank));
  return Dims(std::span<const int64_t>(sizes, rank));
}

struct ReleaseInfo {
  Api api;
  void operator()(OrtTensorTypeAndShapeInfo* info) const { api.release_tensor_info(info); }
};
using TensorInfo = std::unique_ptr<OrtTensorTypeAndShapeInfo, ReleaseInfo>;

template <typename T>
inline constexpr ort::ElementType kElementType = ort::kFloat;
template <>
inline constexpr ort::ElementType kElementType<Half> = ort::kFloat16;
template <>
inline constexpr ort::ElementType kElementType<uint8_t> = ort::kUint8;
template <>
inline constexpr ort::ElementType kElementType<int8_t> = ort::kInt8;
template <>
inline constexpr ort::ElementType kElementType<int32_t> = ort::kInt32;
template <>
inline constexpr ort::ElementType kElementType<int64_t> = ort::kInt64;

inline const char* text(ort::ElementType type) {
  switch (type) {
    case ort::kAny:
      return "any";
    case ort::kFloat16:
      return "float16";
    case ort::kFloat:
      return "float";
    case ort::kUint8:
      return "uint8";
    case ort::kInt8:
      return "int8";
    case ort::kInt32:
      return "int32";
    case ort::kInt64:
      return "int64";
  }
  return "";
}

inline TensorInfo tensor_info(const Api& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api.tensor_info(value, &raw));
  return TensorInfo(raw, {api});
}

inline int element_type(const Api& api, const OrtTensorTypeAndShapeInfo* info) {
  int type = 0;
  check(api.element_type(info, &type));
  return type;
}

template <typename T>
Tensor<T> read_tensor(const Api& api, const char* name, const OrtValue* value) {
  const TensorInfo info = tensor_info(api, value);
  const int type = element_type(api, info.get());
  if (type != kElementType<T>) {
    require(std::string(name) + " has element type " + std::to_string(type) + "; it must be " +
            text(kElementType<T>));
  }
  void* data = nullptr;
  check(api.tensor_data(const_cast<OrtValue*>(value), &data));
  return {static_cast<const T*>(data), dims_of(api, info.get())};
}

// Of float or float16, or `may_be_bytes` of int8.
inline Weights read_weights(const Api& api, const char* name, const OrtValue* value, bool may_be_bytes) {
  const int type = element_type(api, tensor_info(api, value).get());
  if (type == ort::kFloat16) {
    const Tensor<Half> halves = read_tensor<Half>(api, name, value);
    return {nullptr, halves.data, halves.dims};
  }
  if (may_be_bytes && type == ort::kInt8) {
    const Tensor<int8_t> bytes = read_tensor<int8_t>(api, name, value);
    return {nullptr, nullptr, bytes.dims, bytes.data};
  }
  const Tensor<float> floats = read_tensor<float>(api, name, value);
  return {floats.data, nullptr, floats.dims};
}

inline const OrtValue* input_value(const Api& api, const OrtKernelContext* context, size_t index,
                                   const char* name) {
  const OrtValue* value = nullptr;
  check(api.input(context, index, &value));
  if (value == nullptr) require(std::string("input ") + name + " is missing");
  return value;
}

template <typename T>
Tensor<T> input(const Api& api, const OrtKernelContext* context, size_t index, const char* name) {
  return read_tensor<T>(api, name, input_value(api, context, index, name));
}

inline Weights input_weights(const Api& api, const OrtKernelContext* context, size_t index, const char* name,
                             bool may_be_bytes) {
  return read_weights(api, name, input_value(api, context, index, name), may_be_bytes);
}

inline bool has_input(const Api& api, const OrtKernelContext* context, size_t index) {
  size_t count = 0;
  check(api.input_count(context, &count));
  const OrtValue* value = nullptr;
  if (index < count) check(api.input(context, index, &value));
  return value != nullptr;
}

// Null where nobody reads the output.
template <typename T>
T* output_if_any(const Api& api, OrtKernelContext* context, size_t index, const Dims& dims) {
  size_t count = 0;
  check(api.output_count(context, &count));
  OrtValue* value = nullptr;
  if (index < count) check(api.output(context, index, dims.data(), dims.size(), &value));
  void* data = nullptr;
  if (value != nullptr) check(api.tensor_data(value, &data));
  return static_cast<T*>(data);
}

template <typename T>
T* output(const Api& api, OrtKernelContext* context, size_t index, const Dims& dims) {
  OrtValue* value = nullptr;
  check(api.output(context, index, dims.data(), dims.size(), &value));
  void* data = nullptr;
  check(api.tensor_data(value, &data));
  return static_cast<T*>(data);
}

inline constexpr char kNotConstant[] =
    " is not a constant; store it as an initializer that no graph input overrides";

// Null where the input is missing or not a constant.
inline const OrtValue* constant_value(const Api& api, const OrtKernelInfo* info, size_t index) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  OrtStatus* status = api.constant_input(info, index, &is_constant, &value);
  if (status != nullptr) api.release_status(status);
  return status != nullptr || is_constant == 0 ? nullptr : value;
}

template <typename T = float>
std::optional<Tensor<T>> constant_if_any(const Api& api, const OrtKernelInfo* info, size_t index,
                                         const char* name) {
  const OrtValue* const value = constant_value(api, info, index);
  if (value == nullptr) return std::nullopt;
  return read_tensor<T>(api, name, value);
}

inline const OrtValue* required_constant(const Api& api, const OrtKernelInfo* info, size_t index,
                                         const char* name) {
  const OrtValue* const value = constant_value(api, info, index);
  if (value == nullptr) require(std::string("input ") + name + kNotConstant);
  return value;
}

template <typename T = float>
Tensor<T> constant(const Api& api, const OrtKernelInfo* info, size_t index, const char* name) {
  return read_tensor<T>(api, name, required_constant(api, info, index, name));
}

// An optional input that was no constant when the kernel was made must not be there at all.
inline void refuse_unless(bool known, const Api& api, const OrtKernelContext* context, size_t index,
                          const char* name) {
  if (!known && has_input(api, context, index)) require(std::string("input ") + name + kNotConstant);
}

inline Weights constant_weights(const Api& api, const OrtKernelInfo* info, size_t index, const char* name,
                                bool may_be_bytes) {
  return read_weights(api, name, required_constant(api, info, index, name), may_be_bytes);
}

inline std::string node_name(const Api& api, const OrtKernelInfo* info) {
  size_t size = 0;
  check(api.node_name(info, nullptr, &size));
  std::string name(size, '\0');
  check(api.node_name(info, name.data(), &size));
  name.resize(std::char_traits<char>::length(name.c_str()));
  return name;
}

// False when the node lacks the attribute (or has it with another type, which ONNX Runtime reports alike).
template <typename T>
bool attribute(const Api& api, const OrtKernelInfo* info, const char* name, T* value) {
  OrtStatus* status = api.attribute(info, name, value);
  if (status == nullptr) return true;
  api.release_status(status);
  return false;
}

inline void attribute(const Api& api, const OrtKernelInfo* info, const char* name,
                      std::vector<int64_t>* values) {
  size_t size = 0;
  OrtStatus* status = api.attribute_array(info, name, nullptr, &size);
  if (status != nullptr) {
    api.release_status(status);
    return;
  }
  values->resize(size);
  if (size > 0) check(api.attribute_array(info, name, values->data(), &size));
}

}  // namespace compress

#endif  // COMPRESS_ORT_ACCESS_H_
