// FBSConv as ONNX Runtime sees it.
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "fbs_conv.h"
#include "op.h"
#include "session_threads.h"
#include "shape_inference.h"
#include "ways.h"

namespace compress {

namespace {

struct FbsConvKernel {
  Api api;
  int threads;
  bool has_post_shift;
  std::unique_ptr<const FbsConv> layer;
  WayEntry way;
};

constexpr char kFbsConv[] = "FBSConv";

LayerSpec read_layer(const Api& api, const OrtKernelInfo* info) {
  LayerSpec spec;
  if (!attribute(api, info, "winners", &spec.winners))
    require("attribute winners is missing; it must be an int");
  attribute(api, info, "strides", &spec.strides);
  attribute(api, info, "pads", &spec.pads);
  attribute(api, info, "dilations", &spec.dilations);
  attribute(api, info, "group", &spec.group);
  spec.lower = -std::numeric_limits<float>::max();
  spec.upper = std::numeric_limits<float>::max();
  attribute(api, info, "lower", &spec.lower);
  attribute(api, info, "upper", &spec.upper);
  attribute(api, info, "saliency_slope", &spec.saliency_slope);
  attribute(api, info, "normalize", &spec.normalize);
  attribute(api, info, "winner_block", &spec.winner_block);  // absent in older files: 1
  spec.weight = constant(api, info, 2, "W");
  spec.shift = constant(api, info, 3, "B");
  spec.saliency_weight = constant(api, info, 4, "A");
  spec.saliency_bias = constant(api, info, 5, "R");
  return spec;
}

OrtStatus* create_fbs_conv(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                           void** kernel) {
  const Api api(table);
  return guarded(api, kFbsConv, [&] {
    LayerSpec spec = read_layer(api, info);
    spec.post_shift = constant_if_any(api, info, 6, "D");
    require(check_layer(spec));
    const Setting& setting = static_cast<const Op*>(op)->setting;
    auto layer = std::make_unique<const FbsConv>(spec, setting.kernels, setting.way);
    const std::atomic<Way>* const way = &layer->way();
    *kernel = new FbsConvKernel{
        api, setting.threads, spec.post_shift.has_value(), std::move(layer), {node_name(api, info), way}};
  });
}

OrtStatus* run_fbs_conv(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const FbsConvKernel*>(kernel);
  return guarded(self.api, kFbsConv, [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    const LayerSpec& spec = self.layer->spec();
    require(check_input(spec, x, index));
    if (!self.has_post_shift && has_input(self.api, context, 6))
      require(std::string("input D") + kNotConstant);
    const int64_t samples = x.dims[0];
    float* y =
        output<float>(self.api, context, 0,
                      {samples, spec.y().outputs(x.dims[1]), spec.x().outputs(x.dims[2]), spec.winners});
    auto* j = output<int64_t>(self.api, context, 1, {samples, spec.winners});
    SessionThreads threads(self.api, context, self.threads);
    self.layer->run(x, index, y, j, threads.parallel());
    threads.finish();
  });
}

// Sizes of Y and J as far as X's shape and the constants' shapes tell them. Wrong shapes are left to the
// kernel, which explains them.
OrtStatus* infer_fbs_conv(const ort::CustomOp*, OrtShapeInferContext* context, const Api& api) {
  return guarded(api, kFbsConv, [&] {
    const std::optional<InferredShape> x = inferred_input(api, context, 0);
    const std::optional<InferredShape> w = inferred_input(api, context, 2);
    int64_t winners = 0;
    if (!x || !w || x->size() != 4 || w->size() != 4 ||
        !inferred_attribute(api, context, "winners", ort::kAttributeInt, &winners, 1)) {
      return;
    }
    int64_t strides[2] = {1, 1};
    int64_t pads[4] = {};
    int64_t dilations[2] = {1, 1};
    inferred_attribute(api, context, "strides", ort::kAttributeInts, strides, 2);
    inferred_attribute(api, context, "pads", ort::kAttributeInts, pads, 4);
    inferred_attribute(api, context, "dilations", ort::kAttributeInts, dilations, 2);

    InferredShape y = {x->at(0), {}, {}, {winners, ""}};
    for (size_t i = 0; i < 2; ++i) {
      const Axis axis = {w->at(2 + i).value, strides[i], dilations[i], pads[i], pads[2 + i]};
      if (axis.kernel > 0 && axis.stride > 0 && axis.dilation > 0)
        y[1 + i] = inferred_outputs(axis, x->at(1 + i));
    }
    set_inferred_output(api, context, 0, ort::kFloat, y);
    set_inferred_output(api, context, 1, ort::kInt64, {x->at(0), {winners, ""}});
  });
}

}  // namespace

void describe_fbs_conv(Op* op) {
  op->name = [](const ort::CustomOp*) { return kFbsConv; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 7; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kFloat; };
  op->input_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i == 6 ? ort::kOptional : ort::kRequired;
  };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 2; };
  op->output_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kFloat; };
  op->create_kernel_v2 = create_fbs_conv;
  op->compute_v2 = run_fbs_conv;
  op->destroy = [](void* kernel) { delete static_cast<FbsConvKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_fbs_conv(self, context, registered_api());
  };
}

}  // namespace compress
