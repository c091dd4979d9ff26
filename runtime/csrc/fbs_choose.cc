// FbsConv's first half: the predictor and the winners.
#include <algorithm>

#include "fbs_conv.h"
#include "fbs_work.h"
#include "select.h"

namespace compress {

namespace {

// Vectors of outputs that one thread of several computes of the predictor.
constexpr int32_t kSaliencyVectors = 8;

}  // namespace

// Saliency, winners, and what the convolution needs to know of them.
void FbsConv::choose(const float* x, const Geometry& geometry, const Work& work, int64_t* j,
                     const Parallel& parallel) const {
  const int64_t pixels = geometry.input_height * geometry.input_width;
  const int64_t parts = (pixels + kSumPixels - 1) / kSumPixels;
  const auto sum_part = [&](size_t part) {
    const int64_t first = static_cast<int64_t>(part) * kSumPixels;
    float* const copy = work.spread_input == nullptr ? nullptr : work.spread_input + first * work.pitch;
    kernels_->abs_sums(x + first * work.channels, std::min(kSumPixels, pixels - first), work.channels,
                       work.partial_sums + static_cast<int64_t>(part) * 4 * work.channels, copy, work.pitch);
  };
  const bool sums_are_large = pixels * work.channels / lanes_ >= kWorkPerThread;
  (sums_are_large ? parallel : Parallel())(static_cast<size_t>(parts), sum_part);
  for (int32_t c = 0; c < work.channels; ++c) {
    float sum = work.partial_sums[c];
    for (int64_t part = 1; part < parts; ++part) sum += work.partial_sums[part * 4 * work.channels + c];
    work.means[c] = sum / static_cast<float>(pixels);
  }

  const int32_t padded = all_vectors_ * lanes_;
  const bool saliency_is_large =
      static_cast<int64_t>(work.channels) * all_vectors_ >= kWorkPerThread / 4 && parallel.threads() > 1;
  const int32_t block = saliency_is_large ? kSaliencyVectors * lanes_ : padded;
  parallel(static_cast<size_t>((padded + block - 1) / block), [&](size_t b) {
    const auto first = static_cast<int32_t>(b) * block;
    kernels_->saliency(work.means, work.live, work.channels, saliency_weight_.floats(), padded,
                       saliency_bias_, spec_.saliency_slope, first, std::min(first + block, padded),
                       work.saliency);
  });
  if (spec_.normalize != 0) scale_to_mean_one(work.saliency, outputs_);

  if (winners_ == outputs_) {
    for (int32_t o = 0; o < outputs_; ++o) work.winners[o] = o;
  } else {
    if (winner_block_ > 1) block_means(work.saliency, outputs_, winner_block_, work.ranked);
    top_k(*kernels_, work.ranked, outputs_, winners_, work.keys, work.winners);
  }
  if (work.pack || work.all) squeeze_steps(work.winners, winners_, lanes_, work.steps, work.first_step);

  const int32_t winners_padded = vectors_ * lanes_;
  for (int32_t i = 0; i < winners_padded; ++i) {
    const int32_t o = i < winners_ ? work.winners[i] : -1;
    work.bias[i] = o < 0 ? 0.0f : shift_[o];
    work.scale[i] = o < 0 ? 0.0f : work.saliency[o];
    if (post_shift_ != nullptr) work.post[i] = o < 0 ? 0.0f : post_shift_[o];
    if (o >= 0) j[i] = o;
  }
}

}  // namespace compress
