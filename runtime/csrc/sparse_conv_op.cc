// SparseConv as ONNX Runtime sees it.
#include <memory>
#include <optional>

#include "file_pages.h"
#include "op.h"
#include "session_threads.h"
#include "shape_inference.h"
#include "sparse_conv.h"
#include "window.h"

namespace compress {

namespace {

struct SparseConvKernel {
  Api api;
  int threads;
  std::unique_ptr<const SparseConv> layer;
};

constexpr char kSparseConv[] = "SparseConv";

SparseSpec read_sparse(const Api& api, const OrtKernelInfo* info) {
  SparseSpec spec;
  if (!attribute(api, info, "in_channels", &spec.channels))
    require("attribute in_channels is missing; it must be an int");
  attribute(api, info, "kernel_shape", &spec.kernel_shape);
  read_window(api, info, &spec);
  spec.weight = constant(api, info, 1, "W");
  spec.places = constant<uint8_t>(api, info, 2, "P");
  spec.bias = constant(api, info, 3, "B");
  return spec;
}

OrtStatus* create_sparse_conv(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                              void** kernel) {
  const Api api(table);
  return guarded(api, kSparseConv, [&] {
    const SparseSpec spec = read_sparse(api, info);
    require(check_sparse(spec));
    const Setting& setting = static_cast<const Op*>(op)->setting;
    *kernel =
        new SparseConvKernel{api, setting.threads, std::make_unique<const SparseConv>(spec, setting.kernels)};
    drop_file_pages(spec.weight);
  });
}

OrtStatus* run_sparse_conv(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const SparseConvKernel*>(kernel);
  return guarded(self.api, kSparseConv, [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    const SparseSpec& spec = self.layer->spec();
    require(check_sparse_input(spec, x.dims));
    float* y =
        output<float>(self.api, context, 0,
                      {x.dims[0], spec.outputs(), spec.y().outputs(x.dims[2]), spec.x().outputs(x.dims[3])});
    SessionThreads threads(self.api, context, self.threads);
    self.layer->run(x, y, threads.parallel());
    threads.finish();
  });
}

// Sizes of Y as far as X's and W's shapes tell them. Wrong shapes are left to the kernel, which explains
// them.
OrtStatus* infer_sparse_conv(const ort::CustomOp*, OrtShapeInferContext* context, const Api& api) {
  return guarded(api, kSparseConv, [&] {
    const std::optional<InferredShape> x = inferred_input(api, context, 0);
    const std::optional<InferredShape> w = inferred_input(api, context, 1);
    int64_t kernel[2] = {};
    if (!x || !w || x->size() != 4 || w->size() != 2 ||
        !inferred_attribute(api, context, "kernel_shape", ort::kAttributeInts, kernel, 2)) {
      return;
    }
    InferredShape y = {x->at(0), w->at(0), {}, {}};
    inferred_window(api, context, kernel, &x->at(2), &y[2]);
    set_inferred_output(api, context, 0, ort::kFloat, y);
  });
}

}  // namespace

void describe_sparse_conv(Op* op) {
  op->name = [](const ort::CustomOp*) { return kSparseConv; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 4; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int { return i == 2 ? ort::kUint8 : ort::kFloat; };
  op->input_characteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->output_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->create_kernel_v2 = create_sparse_conv;
  op->compute_v2 = run_sparse_conv;
  op->destroy = [](void* kernel) { delete static_cast<SparseConvKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_sparse_conv(self, context, registered_api());
  };
}

}  // namespace compress
