// Unpack and UnpackAdd as ONNX Runtime sees them.
#include <cmath>
#include <limits>
#include <optional>

#include "op.h"
#include "session_threads.h"
#include "shape_inference.h"
#include "unpack.h"

namespace compress {

namespace {

constexpr char kUnpack[] = "Unpack";
constexpr char kUnpackAdd[] = "UnpackAdd";

struct UnpackKernel {
  Api api;
  Setting setting;
  int64_t channels;
  bool adds;
  float lower;

  const char* name() const { return adds ? kUnpackAdd : kUnpack; }
};

template <bool kAdds>
OrtStatus* create_unpack(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                         void** kernel) {
  const Api api(table);
  return guarded(api, kAdds ? kUnpackAdd : kUnpack, [&] {
    int64_t channels = 0;
    if (!attribute(api, info, "channels", &channels))
      require("attribute channels is missing; it must be an int");
    float lower = -std::numeric_limits<float>::max();
    if (kAdds) attribute(api, info, "lower", &lower);
    if (std::isnan(lower)) require("lower is NaN; it must be a number");
    *kernel = new UnpackKernel{api, static_cast<const Op*>(op)->setting, channels, kAdds, lower};
  });
}

OrtStatus* run_unpack(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const UnpackKernel*>(kernel);
  return guarded(self.api, self.name(), [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    require(check_unpack(self.channels, x, index));
    Sum sum = {nullptr, self.lower};
    if (self.adds) {
      const Tensor<float> z = input<float>(self.api, context, 2, "Z");
      require(check_sum(self.channels, x, z));
      sum.z = z.data;
    }
    float* y = output<float>(self.api, context, 0, {x.dims[0], x.dims[1], x.dims[2], self.channels});
    SessionThreads threads(self.api, context, self.setting.threads);
    unpack(*self.setting.kernels, self.channels, x, index, sum, y, threads.parallel());
    threads.finish();
  });
}

OrtStatus* infer_unpack(const ort::CustomOp*, OrtShapeInferContext* context, const Api& api) {
  return guarded(api, kUnpack, [&] {
    std::optional<InferredShape> x = inferred_input(api, context, 0);
    int64_t channels = 0;
    if (!x || x->size() != 4 ||
        !inferred_attribute(api, context, "channels", ort::kAttributeInt, &channels, 1)) {
      return;
    }
    x->at(3) = {channels, ""};
    set_inferred_output(api, context, 0, ort::kFloat, *x);
  });
}

void describe_both(Op* op) {
  op->input_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kFloat; };
  op->input_characteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->output_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->compute_v2 = run_unpack;
  op->destroy = [](void* kernel) { delete static_cast<UnpackKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_unpack(self, context, registered_api());
  };
}

}  // namespace

void describe_unpack(Op* op) {
  op->name = [](const ort::CustomOp*) { return kUnpack; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 2; };
  op->create_kernel_v2 = create_unpack<false>;
  describe_both(op);
}

void describe_unpack_add(Op* op) {
  op->name = [](const ort::CustomOp*) { return kUnpackAdd; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 3; };
  op->create_kernel_v2 = create_unpack<true>;
  // Z's memory may become Y's where nobody else reads it.
  op->may_inplace = [](int** inputs, int** outputs) -> size_t {
    static int z = 2, y = 0;
    *inputs = &z;
    *outputs = &y;
    return 1;
  };
  op->release_may_inplace = [](int*, int*) {};
  describe_both(op);
}

}  // namespace compress
