#include "rows.h"

#include <algorithm>
#include <cstring>

namespace compress {

namespace {

template <typename T>
Buffer padded(const T* values, const Dims& dims, int64_t pitch) {
  Buffer buffer(sizeof(T) * static_cast<size_t>(dims[0] * pitch));
  std::memset(buffer.data(), 0, buffer.bytes());
  T* const to = reinterpret_cast<T*>(buffer.data());
  for (int64_t i = 0; i < dims[0]; ++i) std::copy_n(values + i * dims[1], dims[1], to + i * pitch);
  return buffer;
}

}  // namespace

void add_rows(const KernelTable& kernels, const float* factors, const int32_t* which, int32_t count,
              const Rows& rows, const float* start, float slope, int32_t first, int32_t last, float* sums) {
  if (rows.bytes != nullptr) {
    kernels.saliency_bytes(factors, which, count, rows.bytes, rows.pitch, rows.steps, start, slope, first,
                           last, sums);
  } else if (rows.halves != nullptr) {
    kernels.saliency_half(factors, which, count, rows.halves, rows.pitch, start, slope, first, last, sums);
  } else {
    kernels.saliency(factors, which, count, rows.floats, rows.pitch, start, slope, first, last, sums);
  }
}

Buffer padded_rows(const Weights& weights, int64_t pitch) {
  if (weights.bytes != nullptr) return padded(weights.bytes, weights.dims, pitch);
  if (weights.halves != nullptr) return padded(weights.halves, weights.dims, pitch);
  return padded(weights.floats, weights.dims, pitch);
}

Buffer padded_row(const float* values, int64_t count, int64_t pitch) {
  return padded(values, {1, count}, pitch);
}

Rows rows_of(const Buffer& copy, Precision precision, int64_t pitch, const float* steps) {
  switch (precision) {
    case Precision::kFloat:
      return {copy.floats(), nullptr, pitch};
    case Precision::kHalf:
      return {nullptr, reinterpret_cast<const Half*>(copy.data()), pitch};
    case Precision::kByte:
      break;
  }
  return {nullptr, nullptr, pitch, reinterpret_cast<const int8_t*>(copy.data()), steps};
}

}  // namespace compress
