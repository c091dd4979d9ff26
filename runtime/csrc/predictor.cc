#include "predictor.h"

#include <algorithm>

#include "rows.h"

namespace compress {

namespace {

// Vector multiply-adds from which on several threads divide them: they wait for memory.
constexpr int64_t kDivided = 6000;

}  // namespace

Predictor::Predictor(const LayerSpec& spec, const KernelTable* kernels)
    : kernels_(kernels),
      padded_(static_cast<int32_t>((spec.outputs() + kernels->lanes - 1) / kernels->lanes * kernels->lanes)),
      precision_(spec.saliency_weight.precision()),
      weight_(padded_rows(spec.saliency_weight, padded_)) {
  if (precision_ == Precision::kByte) steps_ = padded_row(spec.saliency_steps->data, spec.outputs(), padded_);
}

int32_t Predictor::row_floats() const { return padded_ / values_per_float(precision_); }

void Predictor::run(const float* means, const int32_t* live, int32_t channels, const float* bias, float slope,
                    int32_t parts, const Parallel& parallel, float* s) const {
  const Rows rows = rows_of(weight_, precision_, padded_, steps_.floats());
  const int32_t lanes = kernels_->lanes, vectors = padded_ / lanes;
  parallel(static_cast<size_t>(parts), [&](size_t item) {
    const auto i = static_cast<int32_t>(item);
    add_rows(*kernels_, means, live, channels, rows, bias, slope, vectors * i / parts * lanes,
             vectors * (i + 1) / parts * lanes, s);
  });
}

int32_t Predictor::parts(int32_t channels, int threads) const {
  const int32_t vectors = padded_ / kernels_->lanes;
  return int64_t{channels} * vectors < kDivided ? 1 : std::min(threads, vectors);
}

}  // namespace compress
