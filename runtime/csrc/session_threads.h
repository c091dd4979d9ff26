// The session's own threads behind Parallel.
#ifndef COMPRESS_SESSION_THREADS_H_
#define COMPRESS_SESSION_THREADS_H_

#include <atomic>
#include <new>
#include <utility>

#include "ort_access.h"
#include "parallel.h"

namespace compress {

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

}  // namespace compress

#endif  // COMPRESS_SESSION_THREADS_H_
