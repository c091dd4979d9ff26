// Unpack and UnpackAdd, on floats and on bytes, as ONNX Runtime sees them.
#include <cmath>
#include <limits>
#include <optional>
#include <type_traits>

#include "int8_attributes.h"
#include "op.h"
#include "session_threads.h"
#include "shape_inference.h"
#include "unpack.h"

namespace compress {

namespace {

struct UnpackKernel {
  Api api;
  Setting setting;
  int64_t channels;
  bool adds;
  float lower;
  Int8Scale x, z, y;  // of the ops on bytes
};

template <typename Element>
constexpr bool kIsBytes = std::is_same_v<Element, uint8_t>;

template <typename Element>
constexpr ort::ElementType kElementType = kIsBytes<Element> ? ort::kUint8 : ort::kFloat;

template <typename Element>
const char* name_of(bool adds) {
  if (kIsBytes<Element>) return adds ? "UnpackAddInt8" : "UnpackInt8";
  return adds ? "UnpackAdd" : "Unpack";
}

void read_scales(const Api& api, const OrtKernelInfo* info, UnpackKernel* kernel) {
  if (!kernel->adds) {
    kernel->x.step = 1.0f;
    if (!attribute(api, info, "zero", &kernel->x.zero))
      require("attribute zero is missing; it must be an int");
    require(check_zero("zero", kernel->x.zero));
    kernel->y = kernel->x;
    return;
  }
  kernel->x = read_scale(api, info, "x");
  kernel->z = read_scale(api, info, "z");
  kernel->y = read_scale(api, info, "y");
  require(check_scale("x", kernel->x));
  require(check_scale("z", kernel->z));
  require(check_scale("y", kernel->y));
}

template <typename Element, bool kAdds>
OrtStatus* create_unpack(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                         void** kernel) {
  const Api api(table);
  return guarded(api, name_of<Element>(kAdds), [&] {
    UnpackKernel made = {api, static_cast<const Op*>(op)->setting, 0, kAdds, 0.0f, {}, {}, {}};
    if (!attribute(api, info, "channels", &made.channels))
      require("attribute channels is missing; it must be an int");
    made.lower = -std::numeric_limits<float>::max();
    if (kAdds) attribute(api, info, "lower", &made.lower);
    if (std::isnan(made.lower)) require("lower is NaN; it must be a number");
    if (kIsBytes<Element>) read_scales(api, info, &made);
    *kernel = new UnpackKernel(made);
  });
}

template <typename Element>
OrtStatus* run_unpack(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const UnpackKernel*>(kernel);
  return guarded(self.api, name_of<Element>(self.adds), [&] {
    const Tensor<Element> x = input<Element>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    require(check_unpack(self.channels, x.dims, index));
    const Element* z = nullptr;
    std::optional<Tensor<int64_t>> z_index;
    if (self.adds) {
      const Tensor<Element> summand = input<Element>(self.api, context, 2, "Z");
      if (!kIsBytes<Element> && has_input(self.api, context, 3)) {
        z_index = input<int64_t>(self.api, context, 3, "K");
        require(check_packed_sum(self.channels, x.dims, summand.dims, *z_index));
      } else {
        require(check_sum(self.channels, x.dims, summand.dims));
      }
      z = summand.data;
    }
    float* means = nullptr;
    if constexpr (!kIsBytes<Element>)
      means = output_if_any<float>(self.api, context, 1, {x.dims[0], self.channels});
    auto* y = output<Element>(self.api, context, 0, {x.dims[0], x.dims[1], x.dims[2], self.channels});
    SessionThreads threads(self.api, context, self.setting.threads);
    if constexpr (kIsBytes<Element>) {
      unpack_bytes(*self.setting.kernels, self.channels, x, index, {z, self.x, self.z, self.y, self.lower}, y,
                   threads.parallel());
    } else {
      const Sum sum = {z, self.lower, means, z_index ? &*z_index : nullptr};
      unpack(*self.setting.kernels, self.channels, x, index, sum, y, threads.parallel());
    }
    threads.finish();
  });
}

template <typename Element>
OrtStatus* infer_unpack(const ort::CustomOp*, OrtShapeInferContext* context, const Api& api) {
  return guarded(api, name_of<Element>(false), [&] {
    std::optional<InferredShape> x = inferred_input(api, context, 0);
    int64_t channels = 0;
    if (!x || x->size() != 4 ||
        !inferred_attribute(api, context, "channels", ort::kAttributeInt, &channels, 1)) {
      return;
    }
    x->at(3) = {channels, ""};
    set_inferred_output(api, context, 0, kElementType<Element>, *x);
  });
}

template <typename Element, bool kAdds>
void describe(Op* op) {
  op->name = [](const ort::CustomOp*) { return name_of<Element>(kAdds); };
  op->input_count = [](const ort::CustomOp*) -> size_t { return !kAdds ? 2 : kIsBytes<Element> ? 3 : 4; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int {
    return i == 1 || i == 3 ? ort::kInt64 : kElementType<Element>;
  };
  op->input_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i == 3 ? ort::kOptional : ort::kRequired;
  };
  constexpr bool kMeans = kAdds && !kIsBytes<Element>;
  op->output_count = [](const ort::CustomOp*) -> size_t { return kMeans ? 2 : 1; };
  op->output_characteristic = [](const ort::CustomOp*, size_t i) -> int {
    return i == 1 ? ort::kOptional : ort::kRequired;
  };
  op->output_type = [](const ort::CustomOp*, size_t) -> int { return kElementType<Element>; };
  op->create_kernel_v2 = create_unpack<Element, kAdds>;
  op->compute_v2 = run_unpack<Element>;
  op->destroy = [](void* kernel) { delete static_cast<UnpackKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_unpack<Element>(self, context, registered_api());
  };
  if (!kAdds) return;
  // Z's memory may become Y's where nobody else reads it.
  op->may_inplace = [](int** inputs, int** outputs) -> size_t {
    static int z = 2, y = 0;
    *inputs = &z;
    *outputs = &y;
    return 1;
  };
  op->release_may_inplace = [](int*, int*) {};
}

}  // namespace

void describe_unpack(Op* op) { describe<float, false>(op); }
void describe_unpack_add(Op* op) { describe<float, true>(op); }
void describe_unpack_int8(Op* op) { describe<uint8_t, false>(op); }
void describe_unpack_add_int8(Op* op) { describe<uint8_t, true>(op); }

}  // namespace compress
