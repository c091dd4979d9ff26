// FbsConv's first half: the predictor and the winners.
#include <algorithm>
#include <cmath>

#include "fbs_conv.h"
#include "fbs_work.h"
#include "plane_means.h"
#include "select.h"

namespace compress {

namespace {

// Vectors read from which on several threads sum them up: mostly other threads have written them, and from
// another's cache they come at 10 to 20 GB/s (ResNet-50 5 % faster than with 4000, where a thread at a time
// read them).
constexpr int64_t kDividedSums = 1000;

}  // namespace

// Of |X + E|.
void FbsConv::take_means(const float* x, const Work& work, const Parallel& parallel) const {
  const int64_t pixels = work.geometry->input_height * work.geometry->input_width;
  const int64_t size = sum_pixels(pixels);
  const int64_t parts = sum_parts(pixels);
  const bool divided = pixels * work.channels / lanes_ >= kDividedSums;
  const int64_t summers = divided ? std::min<int64_t>(parts, parallel.threads()) : 1;
  parallel(static_cast<size_t>(summers), [&](size_t item) {
    const auto i = static_cast<int64_t>(item);
    for (int64_t part = parts * i / summers; part < parts * (i + 1) / summers; ++part) {
      const int64_t first = part * size;
      kernels_->abs_sums(x + first * work.channels, std::min(size, pixels - first), work.channels,
                         work.left_out, work.partial_sums + part * part_floats(work.channels));
    }
  });
  finish_means(work.partial_sums, pixels, work.channels, work.means);
}

// Saliency, winners, and what the convolution needs to know of them.
void FbsConv::choose(const Sample& sample, const Work& work, const Parallel& parallel) const {
  if (sample.means != nullptr) {
    std::copy_n(sample.means, work.channels, work.means);
  } else {
    take_means(sample.x, work, parallel);
  }
  // The bias has what is left out of every channel.
  for (int32_t c = 0; work.left_out != nullptr && c < work.channels; ++c)
    work.means[c] -= std::abs(work.left_out[c]);
  predictor_.run(work.means, work.live, work.channels, saliency_bias_, spec_.saliency_slope,
                 work.manner.saliency_parts, parallel, work.saliency);
  if (spec_.normalize != 0) scale_to_mean_one(work.saliency, outputs_);

  if (winners_ == outputs_) {
    for (int32_t o = 0; o < outputs_; ++o) work.winners[o] = o;
  } else {
    if (winner_block_ > 1) block_means(work.saliency, outputs_, winner_block_, work.ranked);
    top_k(*kernels_, work.ranked, outputs_, winners_, work.keys, work.winners);
  }
  if (work.pack || work.all) {
    squeeze_steps(work.winners, winners_, lanes_, weights_.source_outputs(), work.steps, work.first_step);
  }

  const int32_t winners_padded = vectors_ * lanes_;
  for (int32_t i = 0; i < winners_padded; ++i) {
    const int32_t o = i < winners_ ? work.winners[i] : -1;
    work.bias[i] = o < 0 ? 0.0f : shift_[o];
    work.scale[i] = o < 0 ? 0.0f : steps_ == nullptr ? work.saliency[o] : work.saliency[o] * steps_[o];
    if (post_shift_ != nullptr) work.post[i] = o < 0 ? 0.0f : post_shift_[o];
    if (o >= 0) sample.j[i] = o;
  }
}

}  // namespace compress
