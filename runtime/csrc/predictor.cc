#include "predictor.h"

#include <algorithm>

#include "rows.h"

namespace compress {

Predictor::Predictor(const LayerSpec& spec, const KernelTable* kernels)
    : kernels_(kernels),
      padded_(static_cast<int32_t>((spec.outputs() + kernels->lanes - 1) / kernels->lanes * kernels->lanes)),
      precision_(spec.saliency_weight.precision()),
      weight_(padded_rows(spec.saliency_weight, padded_)) {
  if (precision_ != Precision::kByte) return;
  steps_ = Buffer(sizeof(float) * static_cast<size_t>(padded_));
  std::fill_n(std::copy_n(spec.saliency_steps->data, spec.outputs(), steps_.floats()),
              padded_ - spec.outputs(), 0.0f);
}

int32_t Predictor::row_floats() const { return padded_ / values_per_float(precision_); }

void Predictor::run(const float* means, const int32_t* live, int32_t channels, const float* bias, float slope,
                    int32_t first, int32_t last, float* s) const {
  add_rows(*kernels_, means, live, channels, rows_of(weight_, precision_, padded_, steps_.floats()), bias,
           slope, first, last, s);
}

}  // namespace compress
