// The sizes of a tensor, kept in place: reading a shape on every call must not allocate.
#ifndef COMPRESS_DIMS_H_
#define COMPRESS_DIMS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

namespace compress {

class Dims {
 public:
  static constexpr size_t kMost = 8;  // twice what any op here takes

  Dims() = default;
  Dims(std::initializer_list<int64_t> sizes) : Dims(std::span(sizes.begin(), sizes.size())) {}
  // At most kMost sizes.
  explicit Dims(std::span<const int64_t> sizes) : size_(sizes.size()) {
    std::copy(sizes.begin(), sizes.end(), sizes_);
  }

  size_t size() const { return size_; }
  int64_t* data() { return sizes_; }
  const int64_t* data() const { return sizes_; }
  const int64_t* begin() const { return sizes_; }
  const int64_t* end() const { return sizes_ + size_; }
  int64_t& operator[](size_t i) { return sizes_[i]; }
  int64_t operator[](size_t i) const { return sizes_[i]; }
  bool operator==(const Dims& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

 private:
  size_t size_ = 0;
  int64_t sizes_[kMost] = {};
};

}  // namespace compress

#endif  // COMPRESS_DIMS_H_
