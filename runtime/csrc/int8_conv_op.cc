// FBSConvInt8 as ONNX Runtime sees it.
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

struct Int8Kernel {
  Api api;
  int threads;
  bool has_post_shift;
  std::unique_ptr<const FbsConvInt8> layer;
  WayEntry way;
};

constexpr char kFbsConvInt8[] = "FBSConvInt8";
constexpr size_t kSaliencyWeight = 5;  // A, of float or float16
constexpr bool kMayBeBytes = false;
constexpr size_t kPostShift = 7;

OrtStatus* create_fbs_conv_int8(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                                void** kernel) {
  const Api api(table);
  return guarded(api, kFbsConvInt8, [&] {
    Int8Spec spec;
    read_fbs_layer(api, info, 4, kMayBeBytes, &spec.layer);
    spec.weight = constant<int8_t>(api, info, 2, "W");
    spec.weight_step = constant(api, info, 3, "S");
    spec.layer.weight.dims = spec.weight.dims;
    spec.layer.post_shift = constant_if_any(api, info, kPostShift, "D");
    spec.x = read_scale(api, info, "x");
    spec.y = read_scale(api, info, "y");
    require(check_int8_layer(spec));
    const Setting& setting = static_cast<const Op*>(op)->setting;
    const bool has_post_shift = spec.layer.post_shift.has_value();
    auto layer = std::make_unique<const FbsConvInt8>(spec, setting.kernels);
    drop_file_pages(spec.weight);
    drop_file_pages(spec.layer.saliency_weight);
    const std::atomic<Way>* const way = &layer->way();
    *kernel =
        new Int8Kernel{api, setting.threads, has_post_shift, std::move(layer), {node_name(api, info), way}};
  });
}

OrtStatus* run_fbs_conv_int8(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const Int8Kernel*>(kernel);
  return guarded(self.api, kFbsConvInt8, [&] {
    const Tensor<uint8_t> x = input<uint8_t>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    const Int8Spec& spec = self.layer->spec();
    require(check_int8_input(spec, x, index));
    if (!self.has_post_shift && has_input(self.api, context, kPostShift))
      require(std::string("input D") + kNotConstant);
    const LayerSpec& layer = spec.layer;
    const int64_t samples = x.dims[0];
    auto* j = output<int64_t>(self.api, context, 1, {samples, layer.winners});
    auto* y =
        output<uint8_t>(self.api, context, 0,
                        {samples, layer.y().outputs(x.dims[1]), layer.x().outputs(x.dims[2]), layer.winners});
    SessionThreads threads(self.api, context, self.threads);
    self.layer->run(x, index, y, j, threads.parallel());
    threads.finish();
  });
}

}  // namespace

void describe_fbs_conv_int8(Op* op) {
  op->name = [](const ort::CustomOp*) { return kFbsConvInt8; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return kPostShift + 1; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int {
    return i == 0                 ? ort::kUint8
           : i == 1               ? ort::kInt64
           : i == 2               ? ort::kInt8
           : i == kSaliencyWeight ? ort::kAny
                                  : ort::kFloat;
  };
  op->input_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i == kPostShift ? ort::kOptional : ort::kRequired;
  };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 2; };
  op->output_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kUint8; };
  op->create_kernel_v2 = create_fbs_conv_int8;
  op->compute_v2 = run_fbs_conv_int8;
  op->destroy = [](void* kernel) { delete static_cast<Int8Kernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp*, OrtShapeInferContext* context) {
    const Api api = registered_api();
    return guarded(api, kFbsConvInt8, [&] { infer_fbs_layer(api, context, ort::kUint8); });
  };
}

}  // namespace compress
