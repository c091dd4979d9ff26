// FBSConvInt8 and FBSConvDepthwiseInt8 as ONNX Runtime sees them.
#include <memory>
#include <string>
#include <utility>

#include "fbs_attributes.h"
#include "file_pages.h"
#include "int8_attributes.h"
#include "int8_conv.h"
#include "op.h"
#include "session_threads.h"
#include "ways.h"

namespace compress {

namespace {

// What tells the two ops apart, as in fbs_conv_op.cc.
struct Form {
  const char* name;
  size_t first_optional;  // D, then E and Q
  size_t filters;         // V of the depthwise convolution, then G and F; 0: none
};

constexpr Form kFbsConvInt8 = {"FBSConvInt8", 7, 0};
constexpr Form kFbsConvDepthwiseInt8 = {"FBSConvDepthwiseInt8", 10, 7};
constexpr size_t kWeight = 2, kSaliencyWeight = 5;  // W, of int8, and A, of float, float16 or int8

struct Int8Kernel {
  Api api;
  int threads;
  std::unique_ptr<const FbsConvInt8> layer;
  WayEntry way;
};

Int8Depthwise read_depthwise(const Api& api, const OrtKernelInfo* info, const Form& form,
                             const LayerSpec& layer) {
  Int8Depthwise depthwise;
  DepthwiseSpec& spec = depthwise.spec;
  spec.channels = layer.outputs();
  read_window(api, info, &spec, kDepthwisePrefix);
  depthwise.weight = constant<int8_t>(api, info, form.filters, "V");
  spec.weight.dims = depthwise.weight.dims;
  depthwise.weight_step = constant(api, info, form.filters + 1, "G");
  spec.shift = constant(api, info, form.filters + 2, "F");
  depthwise.between = read_scale(api, info, "between");
  return depthwise;
}

template <const Form& kForm>
OrtStatus* create_fbs_conv_int8(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                                void** kernel) {
  const Api api(table);
  return guarded(api, kForm.name, [&] {
    Int8Spec spec;
    constexpr bool kMayBeBytes = true;
    read_fbs_layer(api, info, 4, kMayBeBytes, &spec.layer);
    spec.weight = constant<int8_t>(api, info, kWeight, "W");
    spec.weight_step = constant(api, info, 3, "S");
    spec.layer.weight.dims = spec.weight.dims;
    spec.layer.post_shift = constant_if_any(api, info, kForm.first_optional, "D");
    spec.left_out = constant_if_any<int32_t>(api, info, kForm.first_optional + 1, "E");
    spec.layer.saliency_steps = constant_if_any(api, info, kForm.first_optional + 2, "Q");
    spec.x = read_scale(api, info, "x");
    spec.y = read_scale(api, info, "y");
    if constexpr (kForm.filters > 0) spec.depthwise = read_depthwise(api, info, kForm, spec.layer);
    require(check_int8_layer(spec));
    const Setting& setting = static_cast<const Op*>(op)->setting;
    auto layer = std::make_unique<const FbsConvInt8>(spec, setting.kernels);
    drop_file_pages(spec.weight);
    drop_file_pages(spec.layer.saliency_weight);
    const std::atomic<Way>* const way = &layer->way();
    *kernel = new Int8Kernel{api, setting.threads, std::move(layer), {node_name(api, info), way}};
  });
}

template <const Form& kForm>
OrtStatus* run_fbs_conv_int8(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const Int8Kernel*>(kernel);
  return guarded(self.api, kForm.name, [&] {
    const Tensor<uint8_t> x = input<uint8_t>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    const Int8Spec& spec = self.layer->spec();
    require(check_int8_input(spec, x, index));
    refuse_unless(spec.layer.post_shift.has_value(), self.api, context, kForm.first_optional, "D");
    refuse_unless(spec.left_out.has_value(), self.api, context, kForm.first_optional + 1, "E");
    refuse_unless(spec.layer.saliency_steps.has_value(), self.api, context, kForm.first_optional + 2, "Q");
    auto* j = output<int64_t>(self.api, context, 1, {x.dims[0], spec.layer.winners});
    auto* y = output<uint8_t>(self.api, context, 0, spec.y_dims(x.dims));
    SessionThreads threads(self.api, context, self.threads);
    self.layer->run(x, index, y, j, threads.parallel());
    threads.finish();
  });
}

template <const Form& kForm>
void describe_form(Op* op) {
  op->name = [](const ort::CustomOp*) { return kForm.name; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return kForm.first_optional + 3; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int {
    if (i == 0) return ort::kUint8;
    if (i == 1) return ort::kInt64;
    if (i == kSaliencyWeight) return ort::kAny;
    if (i == kForm.first_optional + 1) return ort::kInt32;
    return i == kWeight || (kForm.filters > 0 && i == kForm.filters) ? ort::kInt8 : ort::kFloat;
  };
  op->input_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i >= kForm.first_optional ? ort::kOptional : ort::kRequired;
  };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 2; };
  op->output_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kUint8; };
  op->create_kernel_v2 = create_fbs_conv_int8<kForm>;
  op->compute_v2 = run_fbs_conv_int8<kForm>;
  op->destroy = [](void* kernel) { delete static_cast<Int8Kernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp*, OrtShapeInferContext* context) {
    const Api api = registered_api();
    return guarded(api, kForm.name, [&] { infer_fbs_layer(api, context, ort::kUint8, kForm.filters); });
  };
}

}  // namespace

void describe_fbs_conv_int8(Op* op) { describe_form<kFbsConvInt8>(op); }
void describe_fbs_conv_depthwise_int8(Op* op) { describe_form<kFbsConvDepthwiseInt8>(op); }

}  // namespace compress
