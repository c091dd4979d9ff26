#include "predictor.h"

#include <algorithm>
#include <cstring>

namespace compress {

namespace {

// Rows of `row` values to rows of `pitch`, zeros behind them.
template <typename T>
Buffer padded_rows(const T* values, int64_t rows, int64_t row, int64_t pitch) {
  Buffer buffer(sizeof(T) * static_cast<size_t>(rows * pitch));
  std::memset(buffer.data(), 0, buffer.bytes());
  T* const to = reinterpret_cast<T*>(buffer.data());
  for (int64_t i = 0; i < rows; ++i) std::copy_n(values + i * row, row, to + i * pitch);
  return buffer;
}

}  // namespace

Predictor::Predictor(const LayerSpec& spec, const KernelTable* kernels)
    : kernels_(kernels),
      padded_(static_cast<int32_t>((spec.outputs() + kernels->lanes - 1) / kernels->lanes * kernels->lanes)),
      is_half_(spec.saliency_weight.halves != nullptr),
      weight_(is_half_ ? padded_rows(spec.saliency_weight.halves, spec.inputs(), spec.outputs(), padded_)
                       : padded_rows(spec.saliency_weight.floats, spec.inputs(), spec.outputs(), padded_)) {}

int32_t Predictor::row_floats() const { return is_half_ ? padded_ / 2 : padded_; }

void Predictor::run(const float* means, const int32_t* live, int32_t channels, const float* bias, float slope,
                    int32_t first, int32_t last, float* s) const {
  if (is_half_) {
    const auto* const halves = reinterpret_cast<const Half*>(weight_.data());
    kernels_->saliency_half(means, live, channels, halves, padded_, bias, slope, first, last, s);
  } else {
    kernels_->saliency(means, live, channels, weight_.floats(), padded_, bias, slope, first, last, s);
  }
}

}  // namespace compress
