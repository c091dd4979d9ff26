// The part of ONNX Runtime's C interface that a custom-op library needs, declared in this project's own
// words: the pip package carries no headers. The interface is one append-only table of function pointers, so
// a slot, once published, keeps its number for ever. ort_abi_check.cc compares the numbers with the official
// header where one is found; tests/runtime/test_native_*.py call through them in the installed runtime.
#ifndef COMPRESS_ORT_ABI_H_
#define COMPRESS_ORT_ABI_H_

#include <cstddef>
#include <cstdint>

// Opaque to this library; global names because RegisterCustomOps is a C symbol.
struct OrtStatus;
struct OrtValue;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtTensorTypeAndShapeInfo;
struct OrtShapeInferContext;
struct OrtOpAttr;

namespace compress::ort {

// Every slot used here exists since this version of the table (ONNX Runtime 1.18).
inline constexpr uint32_t kApiVersion = 18;

enum Slot : int {
  kCreateStatus = 0,
  kGetErrorMessage = 2,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kSetTensorElementType = 58,
  kSetDimensions = 59,
  kCreateTensorTypeAndShapeInfo = 57,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetSymbolicDimensions = 63,
  kGetTensorTypeAndShape = 65,
  kKernelInfoGetAttributeFloat = 85,
  kKernelInfoGetAttributeInt64 = 86,
  kKernelContextGetInputCount = 88,
  kKernelContextGetOutputCount = 89,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseStatus = 93,
  kReleaseTensorTypeAndShapeInfo = 99,
  kKernelInfoGetAttributeArrayInt64 = 163,
  kHasSessionConfigEntry = 237,
  kGetSessionConfigEntry = 238,
  kKernelInfoGetNodeName = 244,
  kKernelInfoGetConstantInputTensor = 249,
  kShapeInferContextGetInputTypeShape = 268,
  kShapeInferContextGetAttribute = 269,
  kShapeInferContextSetOutputTypeShape = 270,
  kSetSymbolicDimensions = 271,
  kReadOpAttr = 272,
  kKernelContextParallelFor = 274,
};

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kAny = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum AttributeType : int { kAttributeInt = 1, kAttributeInts = 2 };

using ParallelBody = void (*)(void* data, size_t item);

// Typed access to the table. Every function returns null on success and an OrtStatus to hand on or release
// otherwise, except create_status (the status itself) and the release functions.
class Api {
 public:
  explicit Api(const void* table) : table_(static_cast<void* const*>(table)) {}

  const void* table() const { return table_; }

  OrtStatus* create_status(ErrorCode code, const char* message) const {
    return at<OrtStatus*(int, const char*)>(kCreateStatus)(code, message);
  }
  const char* error_message(const OrtStatus* status) const {
    return at<const char*(const OrtStatus*)>(kGetErrorMessage)(status);
  }
  void release_status(OrtStatus* status) const { at<void(OrtStatus*)>(kReleaseStatus)(status); }

  OrtStatus* create_domain(const char* name, OrtCustomOpDomain** out) const {
    return at<OrtStatus*(const char*, OrtCustomOpDomain**)>(kCreateCustomOpDomain)(name, out);
  }
  OrtStatus* domain_add(OrtCustomOpDomain* domain, const struct CustomOp* op) const {
    return at<OrtStatus*(OrtCustomOpDomain*, const CustomOp*)>(kCustomOpDomainAdd)(domain, op);
  }
  OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const {
    return at<OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>(kAddCustomOpDomain)(options, domain);
  }
  OrtStatus* has_config_entry(const OrtSessionOptions* options, const char* key, int* out) const {
    return at<OrtStatus*(const OrtSessionOptions*, const char*, int*)>(kHasSessionConfigEntry)(options, key,
                                                                                               out);
  }
  // `size` counts the closing zero; called with a null `out` it only sets `size`.
  OrtStatus* get_config_entry(const OrtSessionOptions* options, const char* key, char* out,
                              size_t* size) const {
    return at<OrtStatus*(const OrtSessionOptions*, const char*, char*, size_t*)>(kGetSessionConfigEntry)(
        options, key, out, size);
  }

  OrtStatus* tensor_data(OrtValue* value, void** out) const {
    return at<OrtStatus*(OrtValue*, void**)>(kGetTensorMutableData)(value, out);
  }
  OrtStatus* tensor_info(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) const {
    return at<OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)>(kGetTensorTypeAndShape)(value, out);
  }
  OrtStatus* create_tensor_info(OrtTensorTypeAndShapeInfo** out) const {
    return at<OrtStatus*(OrtTensorTypeAndShapeInfo**)>(kCreateTensorTypeAndShapeInfo)(out);
  }
  void release_tensor_info(OrtTensorTypeAndShapeInfo* info) const {
    at<void(OrtTensorTypeAndShapeInfo*)>(kReleaseTensorTypeAndShapeInfo)(info);
  }
  OrtStatus* element_type(const OrtTensorTypeAndShapeInfo* info, int* out) const {
    return at<OrtStatus*(const OrtTensorTypeAndShapeInfo*, int*)>(kGetTensorElementType)(info, out);
  }
  OrtStatus* set_element_type(OrtTensorTypeAndShapeInfo* info, ElementType type) const {
    return at<OrtStatus*(OrtTensorTypeAndShapeInfo*, int)>(kSetTensorElementType)(info, type);
  }
  OrtStatus* rank(const OrtTensorTypeAndShapeInfo* info, size_t* out) const {
    return at<OrtStatus*(const OrtTensorTypeAndShapeInfo*, size_t*)>(kGetDimensionsCount)(info, out);
  }
  OrtStatus* dims(const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t count) const {
    return at<OrtStatus*(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>(kGetDimensions)(info, out,
                                                                                              count);
  }
  OrtStatus* set_dims(OrtTensorTypeAndShapeInfo* info, const int64_t* values, size_t count) const {
    return at<OrtStatus*(OrtTensorTypeAndShapeInfo*, const int64_t*, size_t)>(kSetDimensions)(info, values,
                                                                                              count);
  }
  OrtStatus* symbolic_dims(const OrtTensorTypeAndShapeInfo* info, const char** out, size_t count) const {
    return at<OrtStatus*(const OrtTensorTypeAndShapeInfo*, const char**, size_t)>(kGetSymbolicDimensions)(
        info, out, count);
  }
  OrtStatus* set_symbolic_dims(OrtTensorTypeAndShapeInfo* info, const char** names, size_t count) const {
    return at<OrtStatus*(OrtTensorTypeAndShapeInfo*, const char**, size_t)>(kSetSymbolicDimensions)(
        info, names, count);
  }

  OrtStatus* attribute(const OrtKernelInfo* info, const char* name, float* out) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, float*)>(kKernelInfoGetAttributeFloat)(info, name,
                                                                                                   out);
  }
  OrtStatus* attribute(const OrtKernelInfo* info, const char* name, int64_t* out) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, int64_t*)>(kKernelInfoGetAttributeInt64)(
        info, name, out);
  }
  // `size` counts the closing zero; called with a null `out` it only sets `size`.
  OrtStatus* node_name(const OrtKernelInfo* info, char* out, size_t* size) const {
    return at<OrtStatus*(const OrtKernelInfo*, char*, size_t*)>(kKernelInfoGetNodeName)(info, out, size);
  }
  // `size` is set to the array's length; called with a null `out` it only sets `size`.
  OrtStatus* attribute_array(const OrtKernelInfo* info, const char* name, int64_t* out, size_t* size) const {
    return at<OrtStatus*(const OrtKernelInfo*, const char*, int64_t*, size_t*)>(
        kKernelInfoGetAttributeArrayInt64)(info, name, out, size);
  }
  OrtStatus* constant_input(const OrtKernelInfo* info, size_t index, int* is_constant,
                            const OrtValue** out) const {
    return at<OrtStatus*(const OrtKernelInfo*, size_t, int*, const OrtValue**)>(
        kKernelInfoGetConstantInputTensor)(info, index, is_constant, out);
  }

  OrtStatus* output_count(const OrtKernelContext* context, size_t* out) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t*)>(kKernelContextGetOutputCount)(context, out);
  }
  OrtStatus* input_count(const OrtKernelContext* context, size_t* out) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t*)>(kKernelContextGetInputCount)(context, out);
  }
  OrtStatus* input(const OrtKernelContext* context, size_t index, const OrtValue** out) const {
    return at<OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)>(kKernelContextGetInput)(
        context, index, out);
  }
  OrtStatus* output(OrtKernelContext* context, size_t index, const int64_t* dims, size_t rank,
                    OrtValue** out) const {
    return at<OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>(
        kKernelContextGetOutput)(context, index, dims, rank, out);
  }
  // Runs body(data, 0 … total-1) on the session's own threads; `batches` 0 lets ONNX Runtime choose the
  // partition.
  OrtStatus* parallel_for(const OrtKernelContext* context, ParallelBody body, size_t total, size_t batches,
                          void* data) const {
    return at<OrtStatus*(const OrtKernelContext*, ParallelBody, size_t, size_t, void*)>(
        kKernelContextParallelFor)(context, body, total, batches, data);
  }

  OrtStatus* inferred_input(const OrtShapeInferContext* context, size_t index,
                            OrtTensorTypeAndShapeInfo** out) const {
    return at<OrtStatus*(const OrtShapeInferContext*, size_t, OrtTensorTypeAndShapeInfo**)>(
        kShapeInferContextGetInputTypeShape)(context, index, out);
  }
  OrtStatus* inferred_output(const OrtShapeInferContext* context, size_t index,
                             const OrtTensorTypeAndShapeInfo* info) const {
    return at<OrtStatus*(const OrtShapeInferContext*, size_t, const OrtTensorTypeAndShapeInfo*)>(
        kShapeInferContextSetOutputTypeShape)(context, index, info);
  }
  OrtStatus* inferred_attribute(const OrtShapeInferContext* context, const char* name,
                                const OrtOpAttr** out) const {
    return at<OrtStatus*(const OrtShapeInferContext*, const char*, const OrtOpAttr**)>(
        kShapeInferContextGetAttribute)(context, name, out);
  }
  // `length` and `bytes` count bytes; called with too small a length it fails and sets `bytes`.
  OrtStatus* read_attribute(const OrtOpAttr* attribute, AttributeType type, void* data, size_t length,
                            size_t* bytes) const {
    return at<OrtStatus*(const OrtOpAttr*, int, void*, size_t, size_t*)>(kReadOpAttr)(attribute, type, data,
                                                                                      length, bytes);
  }

 protected:
  template <typename Function>
  Function* at(int slot) const {
    return reinterpret_cast<Function*>(table_[slot]);
  }

 private:
  void* const* table_;
};

struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*version_string)();
};

// The struct ONNX Runtime reads a custom op from: one pointer-sized slot per field, in its order. A field
// left null takes the runtime's default where it has one.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const void* api, const OrtKernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*execution_provider)(const CustomOp*);
  int (*input_type)(const CustomOp*, size_t index);
  size_t (*input_count)(const CustomOp*);
  int (*output_type)(const CustomOp*, size_t index);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void* kernel, OrtKernelContext*);
  void (*destroy)(void* kernel);
  int (*input_characteristic)(const CustomOp*, size_t index);
  int (*output_characteristic)(const CustomOp*, size_t index);
  int (*input_memory_type)(const CustomOp*, size_t index);
  int (*variadic_input_min_arity)(const CustomOp*);
  int (*variadic_input_homogeneity)(const CustomOp*);
  int (*variadic_output_min_arity)(const CustomOp*);
  int (*variadic_output_homogeneity)(const CustomOp*);
  OrtStatus* (*create_kernel_v2)(const CustomOp*, const void* api, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*compute_v2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*infer_shapes)(const CustomOp*, OrtShapeInferContext*);
  int (*start_version)(const CustomOp*);
  int (*end_version)(const CustomOp*);
  size_t (*may_inplace)(int** inputs, int** outputs);
  void (*release_may_inplace)(int* inputs, int* outputs);
  size_t (*alias_map)(int** inputs, int** outputs);
  void (*release_alias_map)(int* inputs, int* outputs);
};
static_assert(sizeof(CustomOp) == 26 * sizeof(void*), "ONNX Runtime reads 26 pointer-sized fields");

}  // namespace compress::ort

#endif  // COMPRESS_ORT_ABI_H_
