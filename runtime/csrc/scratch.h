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
  // `grows`: it will give way to a larger one, and so has no place among those that share pages, which would
  // stay taken.
  explicit Buffer(size_t bytes, bool grows = false);
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
  bool shares_ = false;  // pages, or will once there are more such buffers
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

// From one share of a call to the next, in memory that each has for itself.
struct SharePitch {
  int64_t bytes;

  // What lies in share `share` where `first` lies in share 0.
  template <typename T>
  T* of(T* first, int32_t share) const {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(first) + share * bytes);
  }
};

// As much memory for each of several shares of a call. A share's begins at the same place in every call, as
// far as the buffer has grown by then: threads keep their shares from layer to layer, so that what one writes
// there lies in its own caches. (In one block with all else, other threads had it: M-CifarNet on four threads
// took 15 % longer.)
class ShareScratch {
 public:
  // `threads`: shares of any call, at most; of this one there may be more.
  ShareScratch(size_t bytes, int shares, int threads);

  char* data() const { return scratch_.data(); }  // of share 0
  SharePitch pitch() const { return pitch_; }

 private:
  Scratch scratch_;
  SharePitch pitch_;
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
