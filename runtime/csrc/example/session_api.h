// The part of ONNX Runtime's C interface that a program needs to load a model and run it, declared as in
// ort_abi.h: the pip package carries the library but no headers. A program that has ONNX Runtime's own
// headers uses those instead.
#ifndef COMPRESS_EXAMPLE_SESSION_API_H_
#define COMPRESS_EXAMPLE_SESSION_API_H_

#include <cstddef>
#include <cstdint>

#include "ort_abi.h"

struct OrtEnv;
struct OrtSession;
struct OrtRunOptions;
struct OrtTypeInfo;
struct OrtMemoryInfo;
struct OrtAllocator;

namespace compress::ort {

enum SessionSlot : int {
  kCreateEnv = 3,
  kCreateSession = 7,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSetIntraOpNumThreads = 24,
  kRegisterCustomOpsLibrary = 29,
  kSessionGetInputCount = 30,
  kSessionGetOutputCount = 31,
  kSessionGetInputTypeInfo = 33,
  kSessionGetInputName = 36,
  kSessionGetOutputName = 37,
  kCreateTensorWithDataAsOrtValue = 49,
  kCastTypeInfoToTensorInfo = 55,
  kCreateCpuMemoryInfo = 69,
  kGetAllocatorWithDefaultOptions = 78,
  kReleaseEnv = 92,
  kReleaseMemoryInfo = 94,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseTypeInfo = 98,
  kReleaseSessionOptions = 100,
  kAddSessionConfigEntry = 130,
};

// As Api: null on success, an OrtStatus to release otherwise.
class SessionApi : public Api {
 public:
  using Api::Api;

  OrtStatus* create_env(const char* log_id, OrtEnv** out) const {
    constexpr int kError = 3;
    return at<OrtStatus*(int, const char*, OrtEnv**)>(kCreateEnv)(kError, log_id, out);
  }
  OrtStatus* create_options(OrtSessionOptions** out) const {
    return at<OrtStatus*(OrtSessionOptions**)>(kCreateSessionOptions)(out);
  }
  OrtStatus* set_threads(OrtSessionOptions* options, int threads) const {
    return at<OrtStatus*(OrtSessionOptions*, int)>(kSetIntraOpNumThreads)(options, threads);
  }
  OrtStatus* add_config_entry(OrtSessionOptions* options, const char* key, const char* value) const {
    return at<OrtStatus*(OrtSessionOptions*, const char*, const char*)>(kAddSessionConfigEntry)(options, key,
                                                                                                value);
  }
  // `handle` must stay loaded as long as any session made from these options.
  OrtStatus* register_library(OrtSessionOptions* options, const char* path, void** handle) const {
    return at<OrtStatus*(OrtSessionOptions*, const char*, void**)>(kRegisterCustomOpsLibrary)(options, path,
                                                                                              handle);
  }
  OrtStatus* create_session(const OrtEnv* env, const char* path, const OrtSessionOptions* options,
                            OrtSession** out) const {
    return at<OrtStatus*(const OrtEnv*, const char*, const OrtSessionOptions*, OrtSession**)>(kCreateSession)(
        env, path, options, out);
  }

  OrtStatus* num_inputs(const OrtSession* session, size_t* out) const {
    return at<OrtStatus*(const OrtSession*, size_t*)>(kSessionGetInputCount)(session, out);
  }
  OrtStatus* num_outputs(const OrtSession* session, size_t* out) const {
    return at<OrtStatus*(const OrtSession*, size_t*)>(kSessionGetOutputCount)(session, out);
  }
  OrtStatus* input_type(const OrtSession* session, size_t index, OrtTypeInfo** out) const {
    return at<OrtStatus*(const OrtSession*, size_t, OrtTypeInfo**)>(kSessionGetInputTypeInfo)(session, index,
                                                                                              out);
  }
  // `out` belongs to `info`, and is null where it is not a tensor.
  OrtStatus* tensor_of(const OrtTypeInfo* info, const OrtTensorTypeAndShapeInfo** out) const {
    return at<OrtStatus*(const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**)>(kCastTypeInfoToTensorInfo)(
        info, out);
  }
  OrtStatus* default_allocator(OrtAllocator** out) const {
    return at<OrtStatus*(OrtAllocator**)>(kGetAllocatorWithDefaultOptions)(out);
  }
  // Names are allocated with `allocator`.
  OrtStatus* input_name(const OrtSession* session, size_t index, OrtAllocator* allocator, char** out) const {
    return at<OrtStatus*(const OrtSession*, size_t, OrtAllocator*, char**)>(kSessionGetInputName)(
        session, index, allocator, out);
  }
  OrtStatus* output_name(const OrtSession* session, size_t index, OrtAllocator* allocator, char** out) const {
    return at<OrtStatus*(const OrtSession*, size_t, OrtAllocator*, char**)>(kSessionGetOutputName)(
        session, index, allocator, out);
  }
  OrtStatus* cpu_memory(OrtMemoryInfo** out) const {
    constexpr int kArenaAllocator = 1, kDefaultMemory = 0;
    return at<OrtStatus*(int, int, OrtMemoryInfo**)>(kCreateCpuMemoryInfo)(kArenaAllocator, kDefaultMemory,
                                                                           out);
  }
  // A tensor over memory that stays the caller's.
  OrtStatus* float_tensor(const OrtMemoryInfo* memory, float* data, size_t bytes, const int64_t* dims,
                          size_t rank, OrtValue** out) const {
    return at<OrtStatus*(const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t, int, OrtValue**)>(
        kCreateTensorWithDataAsOrtValue)(memory, data, bytes, dims, rank, kFloat, out);
  }
  // Outputs that are null are allocated, others are written into.
  OrtStatus* run(OrtSession* session, const char* const* input_names, const OrtValue* const* inputs,
                 size_t num_inputs, const char* const* output_names, size_t num_outputs,
                 OrtValue** outputs) const {
    return at<OrtStatus*(OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*,
                         size_t, const char* const*, size_t, OrtValue**)>(kRun)(
        session, nullptr, input_names, inputs, num_inputs, output_names, num_outputs, outputs);
  }

  void release(OrtEnv* env) const { at<void(OrtEnv*)>(kReleaseEnv)(env); }
  void release(OrtSessionOptions* options) const {
    at<void(OrtSessionOptions*)>(kReleaseSessionOptions)(options);
  }
  void release(OrtSession* session) const { at<void(OrtSession*)>(kReleaseSession)(session); }
  void release(OrtTypeInfo* info) const { at<void(OrtTypeInfo*)>(kReleaseTypeInfo)(info); }
  void release(OrtMemoryInfo* info) const { at<void(OrtMemoryInfo*)>(kReleaseMemoryInfo)(info); }
  void release(OrtValue* value) const { at<void(OrtValue*)>(kReleaseValue)(value); }
};

}  // namespace compress::ort

#endif  // COMPRESS_EXAMPLE_SESSION_API_H_
