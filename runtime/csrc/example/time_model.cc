// Loads an .onnx file in ONNX Runtime with the native ops registered, and times it. For a device without
// Python: it needs this program, libonnxruntime.so, libcompress_ops.so and the model, nothing else.
//   compress_time MODEL LIBONNXRUNTIME [LIBCOMPRESS_OPS [THREADS [RUNS [ISA]]]]
// A "-" for LIBCOMPRESS_OPS leaves the library out: FBS layers then run on their function bodies. Unknown
// input sizes (the batch) become 1; input value i is (7919 i mod 1000) / 500 - 1, so that runs can be
// compared.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "example/session_api.h"

namespace {

using compress::ort::SessionApi;

// ONNX Runtime's function table, out of its library.
SessionApi load_runtime(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) throw std::runtime_error(dlerror());
  using GetApiBase = const compress::ort::ApiBase* (*)();
  const auto get_base = reinterpret_cast<GetApiBase>(dlsym(library, "OrtGetApiBase"));
  if (get_base == nullptr) throw std::runtime_error(std::string(path) + " is not ONNX Runtime's library");
  const void* table = get_base()->get_api(compress::ort::kApiVersion);
  if (table == nullptr)
    throw std::runtime_error("this ONNX Runtime is too old; 1.18 is the first that serves");
  return SessionApi(table);
}

class Model {
 public:
  Model(const SessionApi& api, const std::string& path, const std::string& ops, const std::string& threads,
        const std::string& isa)
      : api_(api) {
    check(api_.create_env("compress_time", &env_));
    OrtSessionOptions* options = nullptr;
    check(api_.create_options(&options));
    check(api_.set_threads(options, std::atoi(threads.c_str())));
    // Both before the library is registered: that is when it reads them.
    check(api_.add_config_entry(options, "compress.threads", threads.c_str()));
    check(api_.add_config_entry(options, "compress.isa", isa.c_str()));
    void* handle = nullptr;
    if (ops != "-") check(api_.register_library(options, ops.c_str(), &handle));
    check(api_.create_session(env_, path.c_str(), options, &session_));
    api_.release(options);
    read_names();
    make_inputs();
  }
  ~Model() {
    for (OrtValue* value : outputs_) {
      if (value != nullptr) api_.release(value);
    }
    for (OrtValue* value : inputs_) api_.release(value);
    if (session_ != nullptr) api_.release(session_);
    if (env_ != nullptr) api_.release(env_);
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // The outputs of the first run are written again by the others.
  void run() {
    check(api_.run(session_, input_names_.data(), inputs_.data(), inputs_.size(), output_names_.data(),
                   output_names_.size(), outputs_.data()));
  }

  std::vector<float> first_output() {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_.tensor_info(outputs_[0], &info));
    size_t values = 1;
    for (const int64_t size : sizes(info)) values *= static_cast<size_t>(size);
    api_.release_tensor_info(info);
    void* data = nullptr;
    check(api_.tensor_data(outputs_[0], &data));
    const auto* floats = static_cast<const float*>(data);
    return {floats, floats + values};
  }

 private:
  void check(OrtStatus* status) const {
    if (status == nullptr) return;
    const std::string message = api_.error_message(status);
    api_.release_status(status);
    throw std::runtime_error(message);
  }

  std::vector<int64_t> sizes(const OrtTensorTypeAndShapeInfo* info) const {
    size_t rank = 0;
    check(api_.rank(info, &rank));
    std::vector<int64_t> result(rank);
    if (rank > 0) check(api_.dims(info, result.data(), rank));
    return result;
  }

  void read_names() {
    OrtAllocator* allocator = nullptr;  // of malloc: the names stay as long as the program
    check(api_.default_allocator(&allocator));
    size_t num_inputs = 0, num_outputs = 0;
    check(api_.num_inputs(session_, &num_inputs));
    check(api_.num_outputs(session_, &num_outputs));
    for (size_t i = 0; i < num_inputs + num_outputs; ++i) {
      char* name = nullptr;
      check(i < num_inputs ? api_.input_name(session_, i, allocator, &name)
                           : api_.output_name(session_, i - num_inputs, allocator, &name));
      (i < num_inputs ? input_names_ : output_names_).push_back(name);
    }
    outputs_.resize(num_outputs);
  }

  void make_inputs() {
    OrtMemoryInfo* memory = nullptr;
    check(api_.cpu_memory(&memory));
    for (size_t i = 0; i < input_names_.size(); ++i) {
      OrtTypeInfo* type = nullptr;
      check(api_.input_type(session_, i, &type));
      const OrtTensorTypeAndShapeInfo* tensor = nullptr;
      check(api_.tensor_of(type, &tensor));
      std::vector<int64_t> dims = sizes(tensor);
      api_.release(type);
      size_t count = 1;
      for (int64_t& size : dims) {
        size = std::max<int64_t>(size, 1);
        count *= static_cast<size_t>(size);
      }
      std::vector<float>& values = *memory_.emplace_back(std::make_unique<std::vector<float>>(count));
      for (size_t k = 0; k < count; ++k) values[k] = static_cast<float>(k * 7919 % 1000) / 500.0f - 1.0f;
      OrtValue* value = nullptr;
      check(
          api_.float_tensor(memory, values.data(), count * sizeof(float), dims.data(), dims.size(), &value));
      inputs_.push_back(value);
    }
    api_.release(memory);
  }

  const SessionApi& api_;
  OrtEnv* env_ = nullptr;
  OrtSession* session_ = nullptr;
  std::vector<const char*> input_names_, output_names_;
  std::vector<std::unique_ptr<std::vector<float>>> memory_;
  std::vector<OrtValue*> inputs_, outputs_;
};

double milliseconds(Model& model) {
  const auto start = std::chrono::steady_clock::now();
  model.run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "compress_time MODEL LIBONNXRUNTIME [LIBCOMPRESS_OPS [THREADS [RUNS [ISA]]]]\n");
    return 2;
  }
  const auto argument = [&](int i, const char* otherwise) { return argc > i ? argv[i] : otherwise; };
  try {
    const SessionApi api = load_runtime(argv[2]);
    Model model(api, argv[1], argument(3, "-"), argument(4, "1"), argument(6, ""));
    model.run();
    std::vector<double> times(static_cast<size_t>(std::max(1, std::atoi(argument(5, "20")))));
    for (double& time : times) time = milliseconds(model);
    std::sort(times.begin(), times.end());
    std::printf("%s: median %.3f ms, lowest %.3f ms of %zu runs\nfirst output:", argv[1],
                times[times.size() / 2], times[0], times.size());
    const std::vector<float> output = model.first_output();
    for (size_t i = 0; i < std::min<size_t>(output.size(), 10); ++i) {
      std::printf(" %.9g", static_cast<double>(output[i]));
    }
    std::printf("\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
