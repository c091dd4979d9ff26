// ToNHWC as ONNX Runtime sees it.
#include <optional>

#include "op.h"
#include "session_threads.h"
#include "shape_inference.h"
#include "to_nhwc.h"

namespace compress {

namespace {

constexpr char kToNhwc[] = "ToNHWC";

struct ToNhwcKernel {
  Api api;
  Setting setting;
};

OrtStatus* create_to_nhwc(const ort::CustomOp* op, const void* table, const OrtKernelInfo*, void** kernel) {
  const Api api(table);
  return guarded(api, kToNhwc, [&] { *kernel = new ToNhwcKernel{api, static_cast<const Op*>(op)->setting}; });
}

OrtStatus* run_to_nhwc(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const ToNhwcKernel*>(kernel);
  return guarded(self.api, kToNhwc, [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    require(check_to_nhwc(x.dims));
    float* y = output<float>(self.api, context, 0, {x.dims[0], x.dims[2], x.dims[3], x.dims[1]});
    SessionThreads threads(self.api, context, self.setting.threads);
    to_nhwc(*self.setting.kernels, x, y, threads.parallel());
    threads.finish();
  });
}

OrtStatus* infer_to_nhwc(const ort::CustomOp*, OrtShapeInferContext* context, const Api& api) {
  return guarded(api, kToNhwc, [&] {
    const std::optional<InferredShape> x = inferred_input(api, context, 0);
    if (!x || x->size() != 4) return;
    set_inferred_output(api, context, 0, ort::kFloat, {x->at(0), x->at(2), x->at(3), x->at(1)});
  });
}

}  // namespace

void describe_to_nhwc(Op* op) {
  op->name = [](const ort::CustomOp*) { return kToNhwc; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->input_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->input_characteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->output_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->create_kernel_v2 = create_to_nhwc;
  op->compute_v2 = run_to_nhwc;
  op->destroy = [](void* kernel) { delete static_cast<ToNhwcKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_to_nhwc(self, context, registered_api());
  };
}

}  // namespace compress
