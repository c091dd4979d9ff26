#include "scratch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace compress {

namespace {

constexpr size_t kLine = 64;

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

Buffer::Buffer(size_t bytes, bool grows) {
  if (bytes == 0) return;
  const size_t rounded = (bytes + kLine - 1) / kLine * kLine;
  if (rounded < bytes) throw std::bad_alloc();
  const bool large = rounded >= kHugePage;
  shares_ = !large && !grows;
  if (shares_) place_ = take_place(rounded);
  if (place_.data == nullptr) {
    void* memory = nullptr;
    if (posix_memalign(&memory, large ? kHugePage : kLine, rounded) != 0) {
      if (shares_) give_back(place_, rounded);
      throw std::bad_alloc();
    }
    place_.data = static_cast<char*>(memory);
    if (large) want_huge_pages(place_.data, rounded);
  }
  bytes_ = rounded;
  allocations.fetch_add(1, std::memory_order_relaxed);
}

Buffer::~Buffer() {
  if (bytes_ == 0) return;
  if (place_.chunk == nullptr) std::free(place_.data);
  if (shares_) give_back(place_, bytes_);
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(place_, other.place_);
  std::swap(bytes_, other.bytes_);
  std::swap(shares_, other.shares_);
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
    buffer_ = Buffer(bytes, true);
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

ShareScratch::ShareScratch(size_t bytes, int shares, int threads)
    : scratch_(bytes * static_cast<size_t>(shares)) {
  const size_t even = scratch_.bytes() / static_cast<size_t>(std::max(shares, threads)) / kLine * kLine;
  pitch_ = {static_cast<int64_t>(std::max(even, bytes))};
}

int64_t num_allocations() { return allocations.load(std::memory_order_relaxed); }

}  // namespace compress
