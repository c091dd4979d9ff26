// Weights that this library has copied need not stay in memory a second time.
#ifndef COMPRESS_FILE_PAGES_H_
#define COMPRESS_FILE_PAGES_H_

#include <cstddef>
#include <cstdint>

#include "layer.h"

namespace compress {

// Takes those whole pages of [data, data + bytes) out of this process's memory that a file holds too, as
// where ONNX Runtime maps a file of weights: they still hold the same bytes, read from the file when they are
// next asked for. All other pages stay as they are. Linux; elsewhere, and where the system does not say which
// pages those are, nothing happens. Nobody may write to the range meanwhile.
void drop_file_pages(const void* data, size_t bytes);

template <typename T>
void drop_file_pages(const Tensor<T>& tensor) {
  size_t bytes = sizeof(T);
  for (const int64_t size : tensor.dims) bytes *= static_cast<size_t>(size);
  drop_file_pages(tensor.data, bytes);
}

inline void drop_file_pages(const Weights& weights) {
  if (weights.floats != nullptr) return drop_file_pages(Tensor<float>{weights.floats, weights.dims});
  if (weights.halves != nullptr) return drop_file_pages(Tensor<Half>{weights.halves, weights.dims});
  drop_file_pages(Tensor<int8_t>{weights.bytes, weights.dims});
}

}  // namespace compress

#endif  // COMPRESS_FILE_PAGES_H_
