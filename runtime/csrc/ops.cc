// The glue between ONNX Runtime and the layers: the ops FBSConv and Unpack of domain "compress", and the one
// symbol a session looks for, RegisterCustomOps. No exception leaves this file: whatever goes wrong ends in
// an OrtStatus.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "fbs_conv.h"
#include "isa.h"
#include "layer.h"
#include "ort_abi.h"
#include "parallel.h"
#include "unpack.h"

#define COMPRESS_EXPORT __attribute__((visibility("default")))

namespace compress {
namespace {

using ort::Api;

// A status of ONNX Runtime's own on its way out.
struct StatusError {
  OrtStatus* status;
};

void check(OrtStatus* status) {
  if (status != nullptr) throw StatusError{status};
}

void require(const std::string& error) {
  if (!error.empty()) throw std::invalid_argument(error);
}

// Runs `body`, and turns whatever it throws into a status that starts with the op's name.
template <typename Body>
OrtStatus* guarded(const Api& api, const char* op, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const StatusError& error) {
    return error.status;
  } catch (const std::invalid_argument& error) {
    return api.create_status(ort::kInvalidArgument, (std::string(op) + ": " + error.what()).c_str());
  } catch (const std::exception& error) {
    return api.create_status(ort::kFail, (std::string(op) + ": " + error.what()).c_str());
  }
}

// ---- Reading tensors and attributes ----

std::vector<int64_t> dims_of(const Api& api, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  check(api.rank(info, &rank));
  std::vector<int64_t> dims(rank);
  if (rank > 0) check(api.dims(info, dims.data(), rank));
  return dims;
}

struct ReleaseInfo {
  Api api;
  void operator()(OrtTensorTypeAndShapeInfo* info) const { api.release_tensor_info(info); }
};
using TensorInfo = std::unique_ptr<OrtTensorTypeAndShapeInfo, ReleaseInfo>;

template <typename T>
Tensor<T> read_tensor(const Api& api, const char* name, const OrtValue* value) {
  constexpr int kExpected = std::is_same_v<T, float> ? ort::kFloat : ort::kInt64;
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api.tensor_info(value, &raw));
  const TensorInfo info(raw, {api});
  int type = 0;
  check(api.element_type(info.get(), &type));
  if (type != kExpected) {
    require(std::string(name) + " has element type " + std::to_string(type) + "; it must be " +
            (kExpected == ort::kFloat ? "float" : "int64"));
  }
  void* data = nullptr;
  check(api.tensor_data(const_cast<OrtValue*>(value), &data));
  return {static_cast<const T*>(data), dims_of(api, info.get())};
}

template <typename T>
Tensor<T> input(const Api& api, const OrtKernelContext* context, size_t index, const char* name) {
  const OrtValue* value = nullptr;
  check(api.input(context, index, &value));
  if (value == nullptr) require(std::string("input ") + name + " is missing");
  return read_tensor<T>(api, name, value);
}

bool has_input(const Api& api, const OrtKernelContext* context, size_t index) {
  size_t count = 0;
  check(api.input_count(context, &count));
  const OrtValue* value = nullptr;
  if (index < count) check(api.input(context, index, &value));
  return value != nullptr;
}

template <typename T>
T* output(const Api& api, OrtKernelContext* context, size_t index, const std::vector<int64_t>& dims) {
  OrtValue* value = nullptr;
  check(api.output(context, index, dims.data(), dims.size(), &value));
  void* data = nullptr;
  check(api.tensor_data(value, &data));
  return static_cast<T*>(data);
}

constexpr char kNotConstant[] =
    " is not a constant; store it as an initializer that no graph input overrides";

// Nothing where the input is missing or not a constant.
std::optional<Tensor<float>> constant_if_any(const Api& api, const OrtKernelInfo* info, size_t index,
                                             const char* name) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  OrtStatus* status = api.constant_input(info, index, &is_constant, &value);
  if (status != nullptr) api.release_status(status);
  if (status != nullptr || is_constant == 0 || value == nullptr) return std::nullopt;
  return read_tensor<float>(api, name, value);
}

Tensor<float> constant(const Api& api, const OrtKernelInfo* info, size_t index, const char* name) {
  std::optional<Tensor<float>> tensor = constant_if_any(api, info, index, name);
  if (!tensor) require(std::string("input ") + name + kNotConstant);
  return *std::move(tensor);
}

// False when the node lacks the attribute (or has it with another type, which ONNX Runtime reports alike).
template <typename T>
bool attribute(const Api& api, const OrtKernelInfo* info, const char* name, T* value) {
  OrtStatus* status = api.attribute(info, name, value);
  if (status == nullptr) return true;
  api.release_status(status);
  return false;
}

void attribute(const Api& api, const OrtKernelInfo* info, const char* name, std::vector<int64_t>* values) {
  size_t size = 0;
  OrtStatus* status = api.attribute_array(info, name, nullptr, &size);
  if (status != nullptr) {
    api.release_status(status);
    return;
  }
  values->resize(size);
  if (size > 0) check(api.attribute_array(info, name, values->data(), &size));
}

// The same for shape inference, which runs before any kernel exists.
template <typename T>
bool inferred_attribute(const Api& api, const OrtShapeInferContext* context, const char* name,
                        ort::AttributeType type, T* values, size_t count) {
  const OrtOpAttr* found = nullptr;
  OrtStatus* status = api.inferred_attribute(context, name, &found);
  size_t bytes = 0;
  if (status == nullptr && found != nullptr) {
    status = api.read_attribute(found, type, values, count * sizeof(T), &bytes);
    if (status == nullptr && bytes == count * sizeof(T)) return true;
  }
  if (status != nullptr) api.release_status(status);
  return false;
}

// ---- Threads ----

// The session's own pool. A failure is kept, and raised by finish() after all items are over: nothing may be
// thrown through ONNX Runtime's threads.
class SessionThreads {
 public:
  SessionThreads(const Api& api, const OrtKernelContext* context, int threads)
      : api_(api), context_(context), parallel_(threads, run, this) {}
  ~SessionThreads() {
    if (status_ != nullptr) api_.release_status(status_);
  }
  SessionThreads(const SessionThreads&) = delete;
  SessionThreads& operator=(const SessionThreads&) = delete;

  const Parallel& parallel() const { return parallel_; }

  void finish() {
    if (out_of_memory_) throw std::bad_alloc();
    check(std::exchange(status_, nullptr));
  }

 private:
  struct Items {
    SessionThreads* threads;
    Parallel::Body body;
    void* data;
  };

  static void run(void* self, Parallel::Body body, size_t total, void* data) {
    auto* const threads = static_cast<SessionThreads*>(self);
    Items items = {threads, body, data};
    // As many batches as items: whoever is free takes the next.
    OrtStatus* status = threads->api_.parallel_for(threads->context_, run_item, total, total, &items);
    if (status == nullptr) return;
    if (threads->status_ != nullptr) threads->api_.release_status(threads->status_);
    threads->status_ = status;
  }

  static void run_item(void* data, size_t item) {
    const auto* const items = static_cast<const Items*>(data);
    try {
      items->body(items->data, item);
    } catch (const std::bad_alloc&) {  // all that items can throw
      items->threads->out_of_memory_ = true;
    }
  }

  const Api& api_;
  const OrtKernelContext* context_;
  OrtStatus* status_ = nullptr;
  std::atomic<bool> out_of_memory_ = false;
  Parallel parallel_;
};

// ---- Ops ----

// What every op of one registration shares.
struct Setting {
  const KernelTable* kernels;
  int threads;
};

struct Op : ort::CustomOp {
  Setting setting;
};

struct FbsConvKernel {
  Api api;
  int threads;
  bool has_post_shift;
  std::unique_ptr<const FbsConv> layer;
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
    auto created = std::make_unique<FbsConvKernel>(
        FbsConvKernel{api, setting.threads, spec.post_shift.has_value(),
                      std::make_unique<const FbsConv>(spec, setting.kernels)});
    *kernel = created.release();
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

// One size on its way through shape inference: a number, or else a name, or else nothing is known.
struct InferredSize {
  int64_t value = -1;
  std::string name;

  bool known() const { return value >= 0 || !name.empty(); }
};
using InferredShape = std::vector<InferredSize>;

// Nothing where the input's shape is unknown.
std::optional<InferredShape> inferred_input(const Api& api, const OrtShapeInferContext* context,
                                            size_t index) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // stays ONNX Runtime's
  OrtStatus* status = api.inferred_input(context, index, &info);
  if (status != nullptr || info == nullptr) {
    if (status != nullptr) api.release_status(status);
    return std::nullopt;
  }
  const std::vector<int64_t> dims = dims_of(api, info);
  std::vector<const char*> names(dims.size(), "");
  if (!names.empty()) check(api.symbolic_dims(info, names.data(), names.size()));
  InferredShape shape;
  for (size_t i = 0; i < dims.size(); ++i) shape.push_back({dims[i], names[i] == nullptr ? "" : names[i]});
  return shape;
}

// Does nothing unless every size is known: ONNX Runtime would take a nameless unknown one for the number -1.
void set_inferred_output(const Api& api, OrtShapeInferContext* context, size_t index, ort::ElementType type,
                         const InferredShape& shape) {
  std::vector<int64_t> dims;
  std::vector<const char*> names;
  for (const InferredSize& size : shape) {
    if (!size.known()) return;
    dims.push_back(size.value);
    names.push_back(size.value >= 0 ? "" : size.name.c_str());
  }
  OrtTensorTypeAndShapeInfo* raw = nullptr;
  check(api.create_tensor_info(&raw));
  const TensorInfo info(raw, {api});
  check(api.set_element_type(info.get(), type));
  check(api.set_dims(info.get(), dims.data(), dims.size()));
  check(api.set_symbolic_dims(info.get(), names.data(), names.size()));
  check(api.inferred_output(context, index, info.get()));
}

// What a convolution makes of one size. A named size gets a name that says how it came about: equal names
// mean equal sizes to ONNX Runtime.
InferredSize inferred_outputs(const Axis& axis, const InferredSize& size) {
  if (size.value > 0) return {axis.outputs(size.value), ""};
  if (size.name.empty()) return {};
  return {-1, "conv(" + size.name + "," + std::to_string(axis.kernel) + "," + std::to_string(axis.stride) +
                  "," + std::to_string(axis.dilation) + "," + std::to_string(axis.pad_begin + axis.pad_end) +
                  ")"};
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

struct UnpackKernel {
  Api api;
  Setting setting;
  int64_t channels;
};

constexpr char kUnpack[] = "Unpack";

OrtStatus* create_unpack(const ort::CustomOp* op, const void* table, const OrtKernelInfo* info,
                         void** kernel) {
  const Api api(table);
  return guarded(api, kUnpack, [&] {
    int64_t channels = 0;
    if (!attribute(api, info, "channels", &channels))
      require("attribute channels is missing; it must be an int");
    *kernel = new UnpackKernel{api, static_cast<const Op*>(op)->setting, channels};
  });
}

OrtStatus* run_unpack(void* kernel, OrtKernelContext* context) {
  const auto& self = *static_cast<const UnpackKernel*>(kernel);
  return guarded(self.api, kUnpack, [&] {
    const Tensor<float> x = input<float>(self.api, context, 0, "X");
    const Tensor<int64_t> index = input<int64_t>(self.api, context, 1, "I");
    require(check_unpack(self.channels, x, index));
    float* y = output<float>(self.api, context, 0, {x.dims[0], x.dims[1], x.dims[2], self.channels});
    SessionThreads threads(self.api, context, self.setting.threads);
    unpack(*self.setting.kernels, self.channels, x, index, y, threads.parallel());
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

// ---- Registration ----

// ONNX Runtime hands shape inference no API table, so the one the library was registered with is kept here.
const void* registered_table = nullptr;

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
    return infer_fbs_conv(self, context, Api(registered_table));
  };
}

void describe_unpack(Op* op) {
  op->name = [](const ort::CustomOp*) { return kUnpack; };
  op->input_count = [](const ort::CustomOp*) -> size_t { return 2; };
  op->input_type = [](const ort::CustomOp*, size_t i) -> int { return i == 1 ? ort::kInt64 : ort::kFloat; };
  op->input_characteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op->output_count = [](const ort::CustomOp*) -> size_t { return 1; };
  op->output_type = [](const ort::CustomOp*, size_t) -> int { return ort::kFloat; };
  op->create_kernel_v2 = create_unpack;
  op->compute_v2 = run_unpack;
  op->destroy = [](void* kernel) { delete static_cast<UnpackKernel*>(kernel); };
  op->infer_shapes = [](const ort::CustomOp* self, OrtShapeInferContext* context) {
    return infer_unpack(self, context, Api(registered_table));
  };
}

// The ops for one instruction set and number of threads, in a domain that sessions share.
struct Registration {
  Setting setting;
  Op ops[2];
  OrtCustomOpDomain* domain;
};

void describe(Op* op, const Setting& setting, void (*describe_op)(Op*)) {
  *op = {};
  op->version = ort::kApiVersion;
  op->setting = setting;
  op->execution_provider = [](const ort::CustomOp*) -> const char* { return nullptr; };
  op->output_characteristic = [](const ort::CustomOp*, size_t) -> int { return ort::kRequired; };
  op->input_memory_type = [](const ort::CustomOp*, size_t) -> int { return 0; };
  op->variadic_input_min_arity = [](const ort::CustomOp*) { return 1; };
  op->variadic_input_homogeneity = [](const ort::CustomOp*) { return 1; };
  op->variadic_output_min_arity = [](const ort::CustomOp*) { return 1; };
  op->variadic_output_homogeneity = [](const ort::CustomOp*) { return 1; };
  op->start_version = [](const ort::CustomOp*) { return 1; };
  op->end_version = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
  describe_op(op);
}

std::string config_entry(const Api& api, const OrtSessionOptions* options, const char* key) {
  int found = 0;
  check(api.has_config_entry(options, key, &found));
  if (found == 0) return "";
  size_t size = 0;
  check(api.get_config_entry(options, key, nullptr, &size));
  std::string value(size, '\0');
  check(api.get_config_entry(options, key, value.data(), &size));
  value.resize(std::char_traits<char>::length(value.c_str()));
  return value;
}

// Into how many parts a session's work is worth splitting. The pool's size cannot be asked for, so the
// session may say it; otherwise a core each is assumed.
int thread_hint(const Api& api, const OrtSessionOptions* options) {
  constexpr int kMost = 1024;
  const std::string value = config_entry(api, options, "compress.threads");
  if (value.empty()) return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMost);
  int threads = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), threads);
  if (error != std::errc() || end != value.data() + value.size() || threads < 1 || threads > kMost) {
    require("session config entry compress.threads is '" + value + "'; it must be a whole number from 1 to " +
            std::to_string(kMost));
  }
  return threads;
}

void register_ops(const Api& api, OrtSessionOptions* options) {
  std::string error;
  const Isa* isa = find_isa(config_entry(api, options, "compress.isa"), &error);
  require(error);
  const Setting setting = {isa->kernels, thread_hint(api, options)};

  // Domains live as long as the library: sessions made from these options may outlive everything else. There
  // are as many as settings in use.
  static std::mutex mutex;
  static auto* const registrations = new std::vector<std::unique_ptr<Registration>>;
  const std::lock_guard<std::mutex> lock(mutex);
  registered_table = api.table();
  for (const auto& known : *registrations) {
    if (known->setting.kernels == setting.kernels && known->setting.threads == setting.threads) {
      return check(api.add_domain(options, known->domain));
    }
  }
  auto created = std::make_unique<Registration>();
  created->setting = setting;
  describe(&created->ops[0], setting, describe_fbs_conv);
  describe(&created->ops[1], setting, describe_unpack);
  check(api.create_domain("compress", &created->domain));
  for (const Op& op : created->ops) check(api.domain_add(created->domain, &op));
  registrations->push_back(std::move(created));
  check(api.add_domain(options, registrations->back()->domain));
}

}  // namespace
}  // namespace compress

extern "C" {

// Called by ONNX Runtime when a session registers this library.
COMPRESS_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const compress::ort::ApiBase* base) {
  const void* table = base->get_api(compress::ort::kApiVersion);
  // Too old a runtime has no table of this version, and so no way to make a status: without the domain, its
  // own message about unknown ops follows.
  if (table == nullptr) return nullptr;
  const compress::ort::Api api(table);
  return compress::guarded(api, "compress", [&] { compress::register_ops(api, options); });
}

// The instruction sets built in, best first, for `runtime.isas()`: name, description and "1" where this
// machine has it, one after the other; null past the end.
COMPRESS_EXPORT const char* CompressIsa(int row, int column) {
  const compress::Isa* isa = compress::isas();
  for (; row > 0 && isa->name != nullptr; --row) ++isa;
  if (isa->name == nullptr || row < 0) return nullptr;
  switch (column) {
    case 0:
      return isa->name;
    case 1:
      return isa->description;
    case 2:
      return isa->supported() ? "1" : "0";
    default:
      return nullptr;
  }
}

// Working buffers allocated so far in this process: constant once every size has been seen.
COMPRESS_EXPORT int64_t CompressAllocations() { return compress::num_allocations(); }
}
