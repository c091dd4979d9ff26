#include "predictor.h"

#include "rows.h"

namespace compress {

Predictor::Predictor(const LayerSpec& spec, const KernelTable* kernels)
    : kernels_(kernels),
      padded_(static_cast<int32_t>((spec.outputs() + kernels->lanes - 1) / kernels->lanes * kernels->lanes)),
      precision_(spec.saliency_weight.precision()),
      weight_(padded_rows(spec.saliency_weight, padded_)) {
  if (precision_ == Precision::kByte) steps_ = padded_row(spec.saliency_steps->data, spec.outputs(), padded_);
}

int32_t Predictor::row_floats() const { return padded_ / values_per_float(precision_); }

void Predictor::run(const float* means, const int32_t* live, int32_t channels, const float* bias, float slope,
                    int32_t first, int32_t last, float* s) const {
  add_rows(*kernels_, means, live, channels, rows_of(weight_, precision_, padded_, steps_.floats()), bias,
           slope, first, last, s);
}

}  // namespace compress
