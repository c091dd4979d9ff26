// DepthwiseConv as ONNX Runtime sees it.
#include <memory>
#include <optional>
#include <utility>

#include "depthwise.h"
#include "file_pages.h"
#include "op.h"
#include "session_threads.h"
#include "shape_inference.h"
#include "window.h"

namespace compress {

namespace {

constexpr char kDepthwiseConv[] = "DepthwiseConv";

struct DepthwiseKernel {
  Api api;
  int threads;
  std::unique_ptr<const DepthwiseConv> layer;
};

OrtStatus* create_depthwise(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                            void** kernel) {
  const Api api(table);
  return guarded(api, kDepthwiseConv, [&] {
    DepthwiseSpec spec;
    if (!attribute(api, info, "channels", &spec.channels))
      require("attribute channels is missing; it must be an int");
    read_window(api, info, &spec);
    spec.weight = constant(api, info, 2, "W");
    spec.shift = constant(api, info, 3, "B");
    require(check_depthwise(spec));
    const Setting& setting = static_cast<const Op*>(op)->setting;
    auto layer = std::make_unique<const DepthwiseConv>(spec, setting.kernels);
    drop_file_pages(spec.weight);
    *kernel = new DepthwiseKernel{api, setting.threads, std::move(layer)};
  });
}

OrtStatus* run_depthwise(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const DepthwiseKernel*>(kernel);
  return guarded(self.api, kDepthwiseConv, [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    const DepthwiseSpec& spec = self.layer->spec();
    require(check_depthwise_input(spec, x, index));
    float* y = output<float>(self.api, context, 0, spec.y_dims(x.dims));
    SessionThreads threads(self.api, context, self.threads);
    self.layer->run(x, index, y, threads.parallel());
    threads.finish();
  });
}

// Sizes of Y as far as X's and W's shapes tell them. Wrong shapes are left to the kernel, which explains
// them.
OrtStatus* infer_depthwise(const ort::CustomOp*, OrtShapeInferContext* context, const Api& api) {
  return guarded(api, kDepthwiseConv, [&] {
    const std::optional<InferredShape> x = inferred_input(api, context, 0);
    const std::optional<InferredShape> w = inferred_input(api, context, 2);
    if (!x || !w || x->size() != 4 || w->size() != 4) return;
    InferredShape y = {x->at(0), {}, {}, x->at(3)};
    const int64_t kernel[2] = {w->at(2).value, w->at(3).value};
    inferred_window(api, context, kernel, &x->at(1), &y[1]);
    set_inferred_output(api, context, 0, ort::kFloat, y);
  });
}

}  // namespace

void describe_depthwise_conv(Op* op) {
  op->name = [](const ort::CustomOp*) { return kDepthwiseConv; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 4; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kFloat; };
  op->input_characteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->output_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->create_kernel_v2 = create_depthwise;
  op->compute_v2 = run_depthwise;
  op->destroy = [](void* kernel) { delete static_cast<DepthwiseKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_depthwise(self, context, registered_api());
  };
}

}  // namespace compress
