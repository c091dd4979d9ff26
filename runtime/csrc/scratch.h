// Working memory that outlives the calls that use it: nothing is allocated once every size has been seen.
#ifndef COMPRESS_SCRATCH_H_
#define COMPRESS_SCRATCH_H_

#include <cstddef>
#include <cstdint>

#include "huge_pages.h"

namespace compress {

// Memory aligned to a cache line, on huge pages as far as the system has them: weights are read once per
// call, so that missing translations cost as much as missing lines (small pages: MobileNetV2 3 % slower).
// Throws std::bad_alloc.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  char* data() const { return place_.data; }
  float* floats() const { return reinterpret_cast<float*>(place_.data); }
  size_t bytes() const { return bytes_; }

 private:
  Place place_ = {};
  size_t bytes_ = 0;
};

// One buffer out of the library's pool, given back at the end of its scope. Concurrent holders get different
// ones; a buffer grows to the largest size asked of it and stays.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  char* data() const { return buffer_.data(); }
  size_t bytes() const { return buffer_.bytes(); }  // that there are, maybe more than were asked for

 private:
  Buffer buffer_;
};

// Hands out parts of a block of memory. A first pass over null memory measures how much all parts need.
class Carver {
 public:
  explicit Carver(char* memory) : memory_(memory) {}

  template <typename T>
  T* take(int64_t count) {
    T* part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  }
  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlignment = 64;
  char* memory_;
  size_t used_ = 0;
};

// Buffers allocated since the library was loaded, for the test that a steady state allocates none.
int64_t num_allocations();

}  // namespace compress

#endif  // COMPRESS_SCRATCH_H_
