// MaxPoolNHWC as ONNX Runtime sees it.
#include <memory>
#include <optional>
#include <utility>

#include "max_pool.h"
#include "op.h"
#include "session_threads.h"
#include "shape_inference.h"
#include "window.h"

namespace compress {

namespace {

constexpr char kMaxPool[] = "MaxPoolNHWC";

struct MaxPoolKernel {
  Api api;
  int threads;
  std::unique_ptr<const MaxPool> pool;
};

OrtStatus* create_max_pool(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                           void** kernel) {
  const Api api(table);
  return guarded(api, kMaxPool, [&] {
    MaxPoolSpec spec;
    attribute(api, info, "kernel_shape", &spec.kernel);
    attribute(api, info, "strides", &spec.strides);
    attribute(api, info, "pads", &spec.pads);
    attribute(api, info, "dilations", &spec.dilations);
    require(check_max_pool(spec));
    const Setting& setting = static_cast<const Op*>(op)->setting;
    *kernel = new MaxPoolKernel{api, setting.threads, std::make_unique<const MaxPool>(spec, setting.kernels)};
  });
}

OrtStatus* run_max_pool(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const MaxPoolKernel*>(kernel);
  return guarded(self.api, kMaxPool, [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    const MaxPoolSpec& spec = self.pool->spec();
    require(check_max_pool_input(spec, x.dims));
    float* y =
        output<float>(self.api, context, 0,
                      {x.dims[0], spec.y().outputs(x.dims[1]), spec.x().outputs(x.dims[2]), x.dims[3]});
    SessionThreads threads(self.api, context, self.threads);
    self.pool->run(x, y, threads.parallel());
    threads.finish();
  });
}

OrtStatus* infer_max_pool(const ort::CustomOp*, OrtShapeInferContext* context, const Api& api) {
  return guarded(api, kMaxPool, [&] {
    const std::optional<InferredShape> x = inferred_input(api, context, 0);
    int64_t kernel[2] = {};
    if (!x || x->size() != 4 ||
        !inferred_attribute(api, context, "kernel_shape", ort::kAttributeInts, kernel, 2)) {
      return;
    }
    InferredShape y = {x->at(0), {}, {}, x->at(3)};
    inferred_window(api, context, kernel, &x->at(1), &y[1]);
    set_inferred_output(api, context, 0, ort::kFloat, y);
  });
}

}  // namespace

void describe_max_pool(Op* op) {
  op->name = [](const ort::CustomOp*) { return kMaxPool; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->input_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->input_characteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->output_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->create_kernel_v2 = create_max_pool;
  op->compute_v2 = run_max_pool;
  op->destroy = [](void* kernel) { delete static_cast<MaxPoolKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_max_pool(self, context, registered_api());
  };
}

}  // namespace compress
