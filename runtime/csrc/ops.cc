// The library's symbols: RegisterCustomOps, which a session looks for, and what the Python package asks.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "isa.h"
#include "op.h"
#include "scratch.h"
#include "ways.h"

#define COMPRESS_EXPORT __attribute__((visibility("default")))

namespace compress {

namespace {

std::atomic<const void*> registered_table = nullptr;

// The ops for one instruction set and number of threads, in a domain that sessions share.
struct Registration {
  Setting setting;
  Op ops[13];
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

// For measurements: all ways of a layer beside each other.
Way forced_way(const Api& api, const OrtSessionOptions* options) {
  const std::string value = config_entry(api, options, "compress.way");
  const Way way = way_named(value);
  if (!value.empty() && way != Way::kPacked && way != Way::kWinograd && way != Way::kMatrix &&
      way != Way::kAll) {
    require("session config entry compress.way is '" + value +
            "'; choose from: packed, winograd, matrix, all");
  }
  return way;
}

void register_ops(const Api& api, OrtSessionOptions* options) {
  std::string error;
  const Isa* isa = find_isa(config_entry(api, options, "compress.isa"), &error);
  require(error);
  const Setting setting = {isa->kernels, thread_hint(api, options), forced_way(api, options)};

  // Domains live as long as the library: sessions made from these options may outlive everything else. There
  // are as many as settings in use.
  static std::mutex mutex;
  static auto* const registrations = new std::vector<std::unique_ptr<Registration>>;
  const std::lock_guard<std::mutex> lock(mutex);
  registered_table = api.table();
  for (const auto& known : *registrations) {
    if (known->setting == setting) return check(api.add_domain(options, known->domain));
  }
  auto created = std::make_unique<Registration>();
  created->setting = setting;
  describe(&created->ops[0], setting, describe_fbs_conv);
  describe(&created->ops[1], setting, describe_unpack);
  describe(&created->ops[2], setting, describe_unpack_add);
  describe(&created->ops[3], setting, describe_sparse_conv);
  describe(&created->ops[4], setting, describe_linear);
  describe(&created->ops[5], setting, describe_fbs_conv_int8);
  describe(&created->ops[6], setting, describe_unpack_int8);
  describe(&created->ops[7], setting, describe_unpack_add_int8);
  describe(&created->ops[8], setting, describe_depthwise_conv);
  describe(&created->ops[9], setting, describe_to_nhwc);
  describe(&created->ops[10], setting, describe_max_pool);
  describe(&created->ops[11], setting, describe_fbs_conv_depthwise);
  describe(&created->ops[12], setting, describe_fbs_conv_depthwise_int8);
  check(api.create_domain("compress", &created->domain));
  for (const Op& op : created->ops) check(api.domain_add(created->domain, &op));
  registrations->push_back(std::move(created));
  check(api.add_domain(options, registrations->back()->domain));
}

}  // namespace

Api registered_api() { return Api(registered_table); }

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

// The way that the layer of this node's name went last, in this process; "" where there is none.
COMPRESS_EXPORT const char* CompressWay(const char* node) {
  return compress::text(compress::find_way(node == nullptr ? "" : node));
}

// Working buffers allocated so far in this process: constant once every size has been seen.
COMPRESS_EXPORT int64_t CompressAllocations() { return compress::num_allocations(); }
}
