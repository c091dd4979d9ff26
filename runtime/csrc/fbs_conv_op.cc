// FBSConv and FBSConvDepthwise as ONNX Runtime sees them.
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "depthwise.h"
#include "fbs_attributes.h"
#include "fbs_conv.h"
#include "file_pages.h"
#include "op.h"
#include "session_threads.h"
#include "ways.h"

namespace compress {

namespace {

// What tells the two ops apart.
struct Form {
  const char* name;
  size_t first_optional;  // D, then E, U, P and Q
  size_t filters;         // V of the depthwise convolution, then S; 0: none
};

constexpr Form kFbsConv = {"FBSConv", 6, 0};
constexpr Form kFbsConvDepthwise = {"FBSConvDepthwise", 8, 6};
constexpr size_t kWeight = 2, kSaliencyWeight = 4;  // W and A, of float, float16 or int8

struct FbsConvKernel {
  Api api;
  int threads;
  std::unique_ptr<const FbsConv> layer;
  WayEntry way;
};

DepthwiseSpec read_depthwise(const Api& api, const OrtKernelInfo* info, const Form& form,
                             const LayerSpec& layer) {
  DepthwiseSpec spec;
  spec.channels = layer.outputs();
  read_window(api, info, &spec, kDepthwisePrefix);
  spec.weight = constant(api, info, form.filters, "V");
  spec.shift = constant(api, info, form.filters + 1, "S");
  const std::string error = check_depthwise(spec);
  require(error.empty() ? "" : "the depthwise convolution, its W being V and its B being S: " + error);
  return spec;
}

template <const Form& kForm>
OrtStatus* create_fbs_conv(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                           void** kernel) {
  const Api api(table);
  return guarded(api, kForm.name, [&] {
    LayerSpec spec;
    constexpr bool kMayBeBytes = true;
    read_fbs_layer(api, info, 3, kMayBeBytes, &spec);
    spec.weight = constant_weights(api, info, kWeight, "W", kMayBeBytes);
    spec.post_shift = constant_if_any(api, info, kForm.first_optional, "D");
    spec.left_out = constant_if_any(api, info, kForm.first_optional + 1, "E");
    spec.weight_steps = constant_if_any(api, info, kForm.first_optional + 3, "P");
    spec.saliency_steps = constant_if_any(api, info, kForm.first_optional + 4, "Q");
    require(check_layer(spec));
    std::optional<DepthwiseSpec> depthwise;
    if constexpr (kForm.filters > 0) depthwise = read_depthwise(api, info, kForm, spec);
    const Setting& setting = static_cast<const Op*>(op)->setting;
    auto layer = std::make_unique<const FbsConv>(spec, setting.kernels, setting.way,
                                                 depthwise ? &*depthwise : nullptr);
    drop_file_pages(spec.weight);
    drop_file_pages(spec.saliency_weight);
    const std::atomic<Way>* const way = &layer->way();
    *kernel = new FbsConvKernel{api, setting.threads, std::move(layer), {node_name(api, info), way}};
  });
}

template <const Form& kForm>
OrtStatus* run_fbs_conv(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const FbsConvKernel*>(kernel);
  return guarded(self.api, kForm.name, [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    require(self.layer->check(x, index));
    const LayerSpec& spec = self.layer->spec();
    refuse_unless(spec.post_shift.has_value(), self.api, context, kForm.first_optional, "D");
    refuse_unless(spec.left_out.has_value(), self.api, context, kForm.first_optional + 1, "E");
    refuse_unless(spec.weight_steps.has_value(), self.api, context, kForm.first_optional + 3, "P");
    refuse_unless(spec.saliency_steps.has_value(), self.api, context, kForm.first_optional + 4, "Q");
    PlaneMeans means = {};
    if (has_input(self.api, context, kForm.first_optional + 2)) {
      const Tensor<float> given = input<float>(self.api, context, kForm.first_optional + 2, "U");
      require(check_means(x.dims, given.dims));
      means.of_x = given.data;
    }
    // Small ones first: they would take their memory out of what the next planes fit in.
    auto* j = output<int64_t>(self.api, context, 1, {x.dims[0], spec.winners});
    means.of_y = output_if_any<float>(self.api, context, 2, {x.dims[0], spec.winners});
    float* y = output<float>(self.api, context, 0, self.layer->y_dims(x.dims));
    SessionThreads threads(self.api, context, self.threads);
    self.layer->run(x, index, y, j, threads.parallel(), means);
    threads.finish();
  });
}

template <const Form& kForm>
void describe_form(Op* op) {
  op->name = [](const ort::CustomOp*) { return kForm.name; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return kForm.first_optional + 5; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int {
    return i == 1 ? ort::kInt64 : i == kWeight || i == kSaliencyWeight ? ort::kAny : ort::kFloat;
  };
  op->input_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i >= kForm.first_optional ? ort::kOptional : ort::kRequired;
  };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 3; };
  op->output_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i == 2 ? ort::kOptional : ort::kRequired;
  };
  op->output_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kFloat; };
  op->create_kernel_v2 = create_fbs_conv<kForm>;
  op->compute_v2 = run_fbs_conv<kForm>;
  op->destroy = [](void* kernel) { delete static_cast<FbsConvKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp*, OrtShapeInferContext* context) {
    const Api api = registered_api();
    return guarded(api, kForm.name, [&] { infer_fbs_layer(api, context, ort::kFloat, kForm.filters); });
  };
}

}  // namespace

void describe_fbs_conv(Op* op) { describe_form<kFbsConv>(op); }
void describe_fbs_conv_depthwise(Op* op) { describe_form<kFbsConvDepthwise>(op); }

}  // namespace compress
