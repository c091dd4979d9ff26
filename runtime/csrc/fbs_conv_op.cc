// FBSConv as ONNX Runtime sees it.
#include <memory>
#include <string>
#include <utility>

#include "fbs_attributes.h"
#include "fbs_conv.h"
#include "file_pages.h"
#include "op.h"
#include "session_threads.h"
#include "ways.h"

namespace compress {

namespace {

struct FbsConvKernel {
  Api api;
  int threads;
  bool has_post_shift, has_left_out;
  std::unique_ptr<const FbsConv> layer;
  WayEntry way;
};

constexpr char kFbsConv[] = "FBSConv";
constexpr size_t kWeight = 2, kSaliencyWeight = 4;  // W and A, of float or float16

OrtStatus* create_fbs_conv(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                           void** kernel) {
  const Api api(table);
  return guarded(api, kFbsConv, [&] {
    LayerSpec spec;
    read_fbs_layer(api, info, 3, &spec);
    spec.weight = constant_weights(api, info, 2, "W");
    spec.post_shift = constant_if_any(api, info, 6, "D");
    spec.left_out = constant_if_any(api, info, 7, "E");
    require(check_layer(spec));
    const Setting& setting = static_cast<const Op*>(op)->setting;
    auto layer = std::make_unique<const FbsConv>(spec, setting.kernels, setting.way);
    drop_file_pages(spec.weight);
    drop_file_pages(spec.saliency_weight);
    const std::atomic<Way>* const way = &layer->way();
    *kernel = new FbsConvKernel{api,
                                setting.threads,
                                spec.post_shift.has_value(),
                                spec.left_out.has_value(),
                                std::move(layer),
                                {node_name(api, info), way}};
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
    if (!self.has_left_out && has_input(self.api, context, 7)) require(std::string("input E") + kNotConstant);
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

}  // namespace

void describe_fbs_conv(Op* op) {
  op->name = [](const ort::CustomOp*) { return kFbsConv; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 8; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int {
    return i == 1 ? ort::kInt64 : i == kWeight || i == kSaliencyWeight ? ort::kAny : ort::kFloat;
  };
  op->input_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i >= 6 ? ort::kOptional : ort::kRequired;
  };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 2; };
  op->output_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kFloat; };
  op->create_kernel_v2 = create_fbs_conv;
  op->compute_v2 = run_fbs_conv;
  op->destroy = [](void* kernel) { delete static_cast<FbsConvKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp*, OrtShapeInferContext* context) {
    const Api api = registered_api();
    return guarded(api, kFbsConv, [&] { infer_fbs_layer(api, context, ort::kFloat); });
  };
}

}  // namespace compress
