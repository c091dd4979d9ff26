#include "predictor.h"

#include "rows.h"

namespace compress {

Predictor::Predictor(const LayerSpec& spec, const KernelTable* kernels)
    : kernels_(kernels),
      padded_(static_cast<int32_t>((spec.outputs() + kernels->lanes - 1) / kernels->lanes * kernels->lanes)),
      is_half_(spec.saliency_weight.halves != nullptr),
      weight_(padded_rows(spec.saliency_weight, padded_)) {}

int32_t Predictor::row_floats() const { return is_half_ ? padded_ / 2 : padded_; }

void Predictor::run(const float* means, const int32_t* live, int32_t channels, const float* bias, float slope,
                    int32_t first, int32_t last, float* s) const {
  add_rows(*kernels_, means, live, channels, rows_of(weight_, is_half_, padded_), bias, slope, first, last,
           s);
}

}  // namespace compress
