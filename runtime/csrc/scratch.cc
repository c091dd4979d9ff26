#include "scratch.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace compress {

namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;

std::atomic<int64_t> allocations{0};

struct Pool {
  std::mutex mutex;
  std::vector<Buffer> free;
};

// Never destroyed: a session may outlive static objects at the end of the process.
Pool& pool() {
  static Pool* const instance = new Pool;
  return *instance;
}

}  // namespace

Buffer::Buffer(size_t bytes) {
  if (bytes == 0) return;
  const size_t alignment = bytes >= kHugePage ? kHugePage : kLine;
  bytes_ = (bytes + kLine - 1) / kLine * kLine;
  if (bytes_ < bytes) throw std::bad_alloc();
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes_) != 0) throw std::bad_alloc();
#ifdef __linux__
  if (alignment == kHugePage) madvise(memory, bytes_, MADV_HUGEPAGE);  // a wish: small pages serve as well
#endif
  data_ = static_cast<char*>(memory);
  allocations.fetch_add(1, std::memory_order_relaxed);
}

Buffer::~Buffer() { std::free(data_); }

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Scratch::Scratch(size_t bytes) {
  {
    // The smallest that is large enough, else the largest, which then grows.
    std::lock_guard<std::mutex> lock(pool().mutex);
    std::vector<Buffer>& free = pool().free;
    size_t best = free.size();
    for (size_t i = 0; i < free.size(); ++i) {
      if (best == free.size()) {
        best = i;
        continue;
      }
      const bool fits = free[i].bytes() >= bytes;
      const bool best_fits = free[best].bytes() >= bytes;
      if (fits != best_fits ? fits : (free[i].bytes() < free[best].bytes()) == fits) best = i;
    }
    if (best < free.size()) {
      std::swap(free[best], free.back());
      buffer_ = std::move(free.back());
      free.pop_back();
    }
  }
  if (buffer_.bytes() < bytes) {
    buffer_ = Buffer();  // given back before its successor is asked for
    buffer_ = Buffer(bytes);
  }
}

Scratch::~Scratch() {
  std::lock_guard<std::mutex> lock(pool().mutex);
  // Growing the list is the one thing that can fail here; the buffer is then freed instead of kept.
  try {
    pool().free.push_back(std::move(buffer_));
  } catch (const std::bad_alloc&) {
  }
}

int64_t num_allocations() { return allocations.load(std::memory_order_relaxed); }

}  // namespace compress
