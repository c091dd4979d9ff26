// Work split into items, run on threads that belong to somebody else (ONNX Runtime's pool, a test's own).
#ifndef COMPRESS_PARALLEL_H_
#define COMPRESS_PARALLEL_H_

#include <cstddef>

namespace compress {

class Parallel {
 public:
  using Body = void (*)(void* data, size_t item);
  // Runs body(data, 0 … total-1), in any order and on any thread, and returns when all are done.
  using Runner = void (*)(void* context, Body body, size_t total, void* data);

  // `threads`: how many run at a time. Only a hint for splitting: every result is the same for any value.
  Parallel(int threads, Runner runner, void* context)
      : threads_(threads), runner_(runner), context_(context) {}

  // No threads but the caller's.
  Parallel() : Parallel(1, nullptr, nullptr) {}

  int threads() const { return threads_; }

  template <typename Function>
  void operator()(size_t total, const Function& function) const {
    if (threads_ <= 1 || total <= 1) {
      for (size_t i = 0; i < total; ++i) function(i);
      return;
    }
    const Body body = [](void* data, size_t item) { (*static_cast<const Function*>(data))(item); };
    runner_(context_, body, total, const_cast<Function*>(&function));
  }

 private:
  int threads_;
  Runner runner_;
  void* context_;
};

}  // namespace compress

#endif  // COMPRESS_PARALLEL_H_
