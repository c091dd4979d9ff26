#include "linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "rows.h"

namespace compress {

namespace {

constexpr int64_t kMaxValues = std::numeric_limits<int32_t>::max();

// Vector multiply-adds below which another thread costs more than it brings, as in fbs_work.h; but these wait
// for memory.
constexpr int64_t kWorkPerThread = 20000;

// Weights that several samples read one after the other, in floats: of a second cache level of one megabyte
// half.
constexpr int64_t kSharedFloats = int64_t{1} << 17;

}  // namespace

std::string check_linear(const LinearSpec& spec) {
  const Dims& w = spec.weight;
  if (spec.channels < 1) return "channels is " + std::to_string(spec.channels) + "; it must be 1 or more";
  if (w.size() != 2 || w[0] < 1 || w[1] < 1 || w[0] % spec.channels != 0) {
    return "W has shape " + text(w) +
           "; it must be [C * H * W, K] with C = channels = " + std::to_string(spec.channels);
  }
  if (w[0] > kMaxValues / (w[1] + kMaxLanes)) {
    return "W has shape " + text(w) + "; it may hold at most " + std::to_string(kMaxValues) + " values";
  }
  if (spec.average && w[0] != spec.channels) {
    return "W has shape " + text(w) +
           "; with average it must be [C, K] with C = channels = " + std::to_string(spec.channels);
  }
  if (spec.shift != Dims{w[1]}) {
    return "B has shape " + text(spec.shift) + "; with W of shape " + text(w) + " it must be [" +
           std::to_string(w[1]) + "]";
  }
  return std::isnan(spec.lower) ? "lower is NaN; it must be a number" : "";
}

std::string check_linear_input(const LinearSpec& spec, const Tensor<float>& x, const Tensor<int64_t>& index) {
  std::string error = check_unpack(spec.channels, x.dims, index);
  if (error.empty() && spec.average) {
    if (x.dims[1] < 1 || x.dims[2] < 1)
      error = "X has shape " + text(x.dims) + "; its planes must have 1 pixel or more to be averaged";
  } else if (error.empty() && x.dims[1] * x.dims[2] * spec.channels != spec.weight[0]) {
    error = "X has shape " + text(x.dims) + "; with W of shape " + text(spec.weight) + " and channels " +
            std::to_string(spec.channels) + " its planes must have " +
            std::to_string(spec.weight[0] / spec.channels) + " pixels";
  }
  return error;
}

Linear::Linear(const LinearSpec& spec, const Weights& weight, const float* shift, const float* steps,
               const KernelTable* kernels)
    : spec_(spec),
      kernels_(kernels),
      pitch_(static_cast<int32_t>((spec.outputs() + kernels->lanes - 1) / kernels->lanes * kernels->lanes)) {
  const int64_t outputs = spec.outputs();
  shift_ = padded_row(shift, outputs, pitch_);
  if (steps != nullptr) steps_ = padded_row(steps, outputs, pitch_);
  if (pitch_ == outputs) return;
  weight_ = padded_rows(weight, pitch_);
}

namespace {

// Of a sample's packed planes [pixels][live], pixel after pixel.
void average_planes(const float* x, int64_t pixels, int64_t live, float* means) {
  std::fill_n(means, live, 0.0f);
  for (int64_t p = 0; p < pixels; ++p, x += live) {
    for (int64_t j = 0; j < live; ++j) means[j] += x[j];
  }
  for (int64_t j = 0; j < live; ++j) means[j] /= static_cast<float>(pixels);
}

}  // namespace

// y = B + the sum of the rows of W that exist, each times its input: what the predictor does, so its kernel
// does it. Several samples go through the rows together, a few at a time, so that all find them in the cache.
void Linear::run(const Tensor<float>& x, const Tensor<int64_t>& index, const Weights& weight, float* y,
                 const Parallel& parallel) const {
  const int64_t samples = x.dims[0];
  const int64_t plane = x.dims[1] * x.dims[2];
  const int64_t live = x.dims[3];
  const int64_t outputs = spec_.outputs();
  const int64_t pixels = spec_.average ? 1 : plane;  // that meet a row of W each
  const auto terms = static_cast<int32_t>(live * pixels);
  if (samples == 0) return;

  int32_t *rows, *next;
  float *values, *sums, *part;
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    rows = carver.take<int32_t>(samples * terms);
    values = carver.take<float>(samples * terms);
    sums = carver.take<float>(samples * pitch_);
    part = carver.take<float>(pitch_);
    next = carver.take<int32_t>(samples * parallel.threads());
    return carver.used();
  };
  const Scratch scratch(carve(nullptr));
  carve(scratch.data());

  for (int64_t n = 0; n < samples; ++n) {
    const float* const input = x.data + n * live * plane;
    const int64_t* const channels = index.data + (index.dims[0] == 1 ? 0 : n * live);
    for (int64_t j = 0, i = n * terms; j < live; ++j) {
      for (int64_t p = 0; p < pixels; ++p, ++i) {
        rows[i] = static_cast<int32_t>(channels[j] * pixels + p);
        if (!spec_.average) values[i] = input[p * live + j];
      }
    }
    if (spec_.average) average_planes(input, plane, live, values + n * terms);
    std::copy_n(shift_.floats(), pitch_, sums + n * pitch_);
  }

  const Rows matrix = weight_.data() == nullptr
                          ? Rows{weight.floats, weight.halves, pitch_, weight.bytes, steps_.floats()}
                          : rows_of(weight_, weight.precision(), pitch_, steps_.floats());
  const auto num_rows = static_cast<int32_t>(spec_.weight[0]);
  const auto shared = static_cast<int32_t>(std::max<int64_t>(4, kSharedFloats / pitch_));
  const int32_t step = samples == 1 ? num_rows : shared;
  const int64_t vectors = pitch_ / kernels_->lanes;
  const int64_t work = samples * terms * vectors;
  const int64_t blocks = std::min({int64_t{parallel.threads()}, vectors, work / kWorkPerThread + 1});
  parallel(static_cast<size_t>(blocks), [&](size_t b) {
    const auto block = static_cast<int64_t>(b);
    const auto first = static_cast<int32_t>(vectors * block / blocks * kernels_->lanes);
    const auto last = static_cast<int32_t>(vectors * (block + 1) / blocks * kernels_->lanes);
    int32_t* const done = next + block * samples;  // of each sample's rows
    if (samples == 1) {
      return add_rows(*kernels_, values, rows, terms, matrix, shift_.floats(), 1.0f, first, last, sums);
    }
    std::fill_n(done, samples, 0);
    for (int32_t end = step;; end += step) {
      for (int64_t n = 0; n < samples; ++n) {
        const int32_t* const own = rows + n * terms;
        const int32_t begin = done[n];
        done[n] = end >= num_rows
                      ? terms
                      : static_cast<int32_t>(std::lower_bound(own + begin, own + terms, end) - own);
        if (begin == done[n]) continue;
        float* const sum = sums + n * pitch_;
        add_rows(*kernels_, values + n * terms + begin, own + begin, done[n] - begin, matrix, sum, 1.0f,
                 first, last, part);
        std::copy(part + first, part + last, sum + first);
      }
      if (end >= num_rows) break;
    }
  });
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t o = 0; o < outputs; ++o) {
      const float sum = sums[n * pitch_ + o];
      y[n * outputs + o] = sum < spec_.lower ? spec_.lower : sum;
    }
  }
}

}  // namespace compress
