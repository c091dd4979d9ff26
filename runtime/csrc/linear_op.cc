// Linear as ONNX Runtime sees it.
#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "file_pages.h"
#include "linear.h"
#include "op.h"
#include "session_threads.h"
#include "shape_inference.h"

namespace compress {

namespace {

constexpr char kLinear[] = "Linear";
constexpr size_t kWeight = 2;  // W, of float, float16 or int8
constexpr size_t kSteps = 4;   // P, of int8
constexpr bool kMayBeBytes = true;

struct LinearKernel {
  Api api;
  int threads;
  std::unique_ptr<const Linear> layer;
};

// Most weights of such a layer are not read in a run, so those of a file should not come into memory at once
// only to be checked.
void check_pieces(const Weights& weight) {
  constexpr int64_t kHalves = int64_t{1} << 19;
  if (weight.halves == nullptr) return;
  const int64_t count = weight.dims[0] * weight.dims[1];
  for (int64_t first = 0; first < count; first += kHalves) {
    const Weights piece = {nullptr, weight.halves + first, {std::min(kHalves, count - first)}};
    require(check_halves("W", piece));
    drop_file_pages(piece);
  }
}

OrtStatus* create_linear(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                         void** kernel) {
  const Api api(table);
  return guarded(api, kLinear, [&] {
    LinearSpec spec;
    if (!attribute(api, info, "channels", &spec.channels))
      require("attribute channels is missing; it must be an int");
    spec.lower = -std::numeric_limits<float>::max();
    attribute(api, info, "lower", &spec.lower);
    int64_t average = 0;  // absent in older files
    attribute(api, info, "average", &average);
    if (average != 0 && average != 1)
      require("average is " + std::to_string(average) + "; it must be 0 or 1");
    spec.average = average == 1;
    const Weights weight = constant_weights(api, info, kWeight, "W", kMayBeBytes);
    const Tensor<float> shift = constant(api, info, 3, "B");
    spec.weight = weight.dims;
    spec.shift = shift.dims;
    require(check_linear(spec));
    const std::optional<Tensor<float>> steps = constant_if_any(api, info, kSteps, "P");
    require(check_steps("W", "P", weight, steps, spec.outputs()));
    check_pieces(weight);
    const Setting& setting = static_cast<const Op*>(op)->setting;
    auto layer = std::make_unique<const Linear>(spec, weight, shift.data, steps ? steps->data : nullptr,
                                                setting.kernels);
    if (layer->has_copy()) drop_file_pages(weight);
    *kernel = new LinearKernel{api, setting.threads, std::move(layer)};
  });
}

OrtStatus* run_linear(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const LinearKernel*>(kernel);
  return guarded(self.api, kLinear, [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    const Weights weight = input_weights(self.api, context, kWeight, "W", kMayBeBytes);
    const LinearSpec& spec = self.layer->spec();
    require(check_linear_input(spec, x, index));
    float* y = output<float>(self.api, context, 0, {x.dims[0], spec.outputs()});
    SessionThreads threads(self.api, context, self.threads);
    self.layer->run(x, index, weight, y, threads.parallel());
    threads.finish();
  });
}

OrtStatus* infer_linear(const ort::CustomOp*, OrtShapeInferContext* context, const Api& api) {
  return guarded(api, kLinear, [&] {
    const std::optional<InferredShape> x = inferred_input(api, context, 0);
    const std::optional<InferredShape> w = inferred_input(api, context, 2);
    if (!x || !w || x->size() != 4 || w->size() != 2) return;
    set_inferred_output(api, context, 0, ort::kFloat, {x->at(0), w->at(1)});
  });
}

}  // namespace

void describe_linear(Op* op) {
  op->name = [](const ort::CustomOp*) { return kLinear; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return kSteps + 1; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int {
    return i == 1 ? ort::kInt64 : i == kWeight ? ort::kAny : ort::kFloat;
  };
  op->input_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i == kSteps ? ort::kOptional : ort::kRequired;
  };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->output_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->create_kernel_v2 = create_linear;
  op->compute_v2 = run_linear;
  op->destroy = [](void* kernel) { delete static_cast<LinearKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_linear(self, context, registered_api());
  };
}

}  // namespace compress
