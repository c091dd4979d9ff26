// Compiled only where ONNX Runtime's own header is found: our slot numbers against it.
#include <onnxruntime_c_api.h>

#include <cstddef>

namespace {

template <size_t kOffset>
constexpr int slot() {
  return static_cast<int>(kOffset / sizeof(void*));
}

}  // namespace

#define COMPRESS_CHECK_SLOT(number, name) static_assert(slot<offsetof(OrtApi, name)>() == number, #name)

COMPRESS_CHECK_SLOT(0, CreateStatus);
COMPRESS_CHECK_SLOT(2, GetErrorMessage);
COMPRESS_CHECK_SLOT(26, CreateCustomOpDomain);
COMPRESS_CHECK_SLOT(27, CustomOpDomain_Add);
COMPRESS_CHECK_SLOT(28, AddCustomOpDomain);
COMPRESS_CHECK_SLOT(51, GetTensorMutableData);
COMPRESS_CHECK_SLOT(57, CreateTensorTypeAndShapeInfo);
COMPRESS_CHECK_SLOT(58, SetTensorElementType);
COMPRESS_CHECK_SLOT(59, SetDimensions);
COMPRESS_CHECK_SLOT(60, GetTensorElementType);
COMPRESS_CHECK_SLOT(61, GetDimensionsCount);
COMPRESS_CHECK_SLOT(62, GetDimensions);
COMPRESS_CHECK_SLOT(63, GetSymbolicDimensions);
COMPRESS_CHECK_SLOT(65, GetTensorTypeAndShape);
COMPRESS_CHECK_SLOT(85, KernelInfoGetAttribute_float);
COMPRESS_CHECK_SLOT(86, KernelInfoGetAttribute_int64);
COMPRESS_CHECK_SLOT(88, KernelContext_GetInputCount);
COMPRESS_CHECK_SLOT(89, KernelContext_GetOutputCount);
COMPRESS_CHECK_SLOT(90, KernelContext_GetInput);
COMPRESS_CHECK_SLOT(91, KernelContext_GetOutput);
COMPRESS_CHECK_SLOT(93, ReleaseStatus);
COMPRESS_CHECK_SLOT(99, ReleaseTensorTypeAndShapeInfo);
COMPRESS_CHECK_SLOT(163, KernelInfoGetAttributeArray_int64);
COMPRESS_CHECK_SLOT(237, HasSessionConfigEntry);
COMPRESS_CHECK_SLOT(238, GetSessionConfigEntry);
COMPRESS_CHECK_SLOT(244, KernelInfo_GetNodeName);
COMPRESS_CHECK_SLOT(249, KernelInfoGetConstantInput_tensor);
COMPRESS_CHECK_SLOT(268, ShapeInferContext_GetInputTypeShape);
COMPRESS_CHECK_SLOT(269, ShapeInferContext_GetAttribute);
COMPRESS_CHECK_SLOT(270, ShapeInferContext_SetOutputTypeShape);
COMPRESS_CHECK_SLOT(271, SetSymbolicDimensions);
COMPRESS_CHECK_SLOT(272, ReadOpAttr);
COMPRESS_CHECK_SLOT(274, KernelContext_ParallelFor);

static_assert(sizeof(OrtCustomOp) >= 26 * sizeof(void*), "OrtCustomOp only grows");
