#include "int8_conv.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "int8_work.h"
#include "select.h"

namespace compress {

namespace {

// Vectors of products below which another thread costs more than it brings.
constexpr int64_t kDotsPerThread = 15000;

// Vectors of products in the tiles that a thread takes at a time, at least: 2 microseconds.
constexpr int64_t kDotsAtATime = 6000;

// Pixels whose bytes are added up in int32: no more would fit.
constexpr int64_t kSumPixels = int64_t{1} << 23;

// Copies pixels so that each has whole groups of channels. What follows a pixel's channels is multiplied by
// weights of 0, so it may be the next pixel's.
void spread(const uint8_t* x, int64_t pixels, int32_t channels, uint8_t* to) {
  const int64_t pitch = int64_t{groups_of(channels)} * kGroup;
  const int64_t whole = std::max<int64_t>(0, pixels - kGroup);  // of which so much may be read
  if (pitch == kGroup) {
    for (int64_t p = 0; p < whole; ++p) std::memcpy(to + p * kGroup, x + p * channels, kGroup);
  } else {
    for (int64_t p = 0; p < whole; ++p)
      std::memcpy(to + p * pitch, x + p * channels, static_cast<size_t>(pitch));
  }
  for (int64_t p = whole; p < pixels; ++p) {
    std::memset(to + (p + 1) * pitch - kGroup, 0, kGroup);
    std::memcpy(to + p * pitch, x + p * channels, static_cast<size_t>(channels));
  }
}

}  // namespace

FbsConvInt8::FbsConvInt8(const Int8Spec& spec, const KernelTable* kernels)
    : spec_(spec),
      kernels_(kernels),
      outputs_(static_cast<int32_t>(spec.layer.outputs())),
      inputs_(static_cast<int32_t>(spec.layer.inputs())),
      taps_(static_cast<int32_t>(spec.weight.dims[2] * spec.weight.dims[3])),
      winners_(static_cast<int32_t>(spec.layer.winners)),
      winner_block_(static_cast<int32_t>(std::min(spec.layer.winner_block, spec.layer.outputs()))),
      lanes_(kernels->lanes),
      all_vectors_((outputs_ + lanes_ - 1) / lanes_),
      vectors_((winners_ + lanes_ - 1) / lanes_),
      predictor_(spec.layer, kernels) {
  const int32_t padded = all_vectors_ * lanes_;
  const int64_t vector_stride = static_cast<int64_t>(inputs_) * taps_ * lanes_;
  weight_ = Buffer(static_cast<size_t>(vector_stride) * all_vectors_);
  std::memset(weight_.data(), 0, weight_.bytes());
  for (int64_t o = 0; o < outputs_; ++o) {
    char* const vector = weight_.data() + o / lanes_ * vector_stride + o % lanes_;
    const int8_t* const source = spec.weight.data + o * inputs_ * taps_;
    for (int64_t i = 0; i < int64_t{inputs_} * taps_; ++i) vector[i * lanes_] = static_cast<char>(source[i]);
  }

  per_output_ = Buffer(sizeof(float) * 4 * static_cast<size_t>(padded));
  std::memset(per_output_.data(), 0, per_output_.bytes());
  float* const rows = per_output_.floats();
  const double y_step = static_cast<double>(spec.y.step);
  const auto y_zero = static_cast<float>(spec.y.zero);
  for (int32_t o = 0; o < outputs_; ++o) {
    rows[o] = spec.layer.saliency_bias.data[o];
    rows[padded + o] = static_cast<float>(static_cast<double>(spec.weight_step.data[o]) *
                                          static_cast<double>(spec.x.step) / y_step);
    rows[2 * padded + o] = static_cast<float>(static_cast<double>(spec.layer.shift.data[o]) / y_step);
    rows[3 * padded + o] = y_zero;
    if (spec.layer.post_shift) rows[3 * padded + o] += spec.layer.post_shift->data[o] / spec.y.step;
  }
  saliency_bias_ = rows;
  scale_ = rows + padded;
  shift_ = rows + 2 * padded;
  post_ = rows + 3 * padded;
  lower_ = std::clamp(spec.layer.lower / spec.y.step + y_zero, 0.0f, 255.0f);
  upper_ = std::clamp(spec.layer.upper / spec.y.step + y_zero, 0.0f, 255.0f);

  if (winners_ == outputs_) {
    Work work = {};
    work.channels = inputs_;
    work.groups = groups_of(inputs_);
    work.vector_bytes = int64_t{taps_} * work.groups * lanes_ * kGroup;
    const auto carve = [&](char* memory) {
      Carver carver(memory);
      work.live_memory = carver.take<int32_t>(inputs_);
      work.winners = carver.take<int32_t>(winners_ + kMaxLanes);
      work.first_step = carver.take<int32_t>(vectors_ + 1);
      work.steps = carver.take<SqueezeStep>(max_squeeze_steps(outputs_, winners_, lanes_));
      return carver.used();
    };
    const Buffer memory(carve(nullptr));
    carve(memory.data());
    for (int32_t c = 0; c < inputs_; ++c) work.live_memory[c] = c;
    for (int32_t o = 0; o < outputs_; ++o) work.winners[o] = o;
    work.live = work.live_memory;
    squeeze_steps(work.winners, winners_, lanes_, lanes_, work.steps, work.first_step);
    whole_ = Buffer(static_cast<size_t>(work.vector_bytes) * vectors_);
    for (int32_t v = 0; v < vectors_; ++v) {
      pack(work, v, reinterpret_cast<int8_t*>(whole_.data()) + v * work.vector_bytes);
    }
  }
  spec_.weight.data = nullptr;
  spec_.weight_step.data = spec_.layer.shift.data = nullptr;
  spec_.layer.saliency_weight = {nullptr, nullptr, spec.layer.saliency_weight.dims};
  spec_.layer.saliency_bias.data = nullptr;
  if (spec_.layer.post_shift) spec_.layer.post_shift->data = nullptr;
}

void FbsConvInt8::run(const Tensor<uint8_t>& x, const Tensor<int64_t>& index, uint8_t* y, int64_t* j,
                      const Parallel& parallel) const {
  const int64_t samples = x.dims[0];
  if (samples == 0) return;
  const std::shared_ptr<const Geometry> shape =
      geometry_.get(spec_.layer.y(), spec_.layer.x(), x.dims[1], x.dims[2], kernels_->int8.max_tile);
  const auto channels = static_cast<int32_t>(x.dims[3]);
  const int64_t x_size = x.dims[1] * x.dims[2] * x.dims[3];
  const int64_t y_size = shape->pixels() * winners_;
  const auto sample = [&](size_t n, const Parallel& inner) {
    const auto i = static_cast<int64_t>(n);
    run_sample(x.data + i * x_size, index.data + (index.dims[0] == 1 ? 0 : i * channels), channels, *shape,
               y + i * y_size, j + i * winners_, inner);
  };
  if (samples >= parallel.threads()) {
    parallel(static_cast<size_t>(samples), [&](size_t n) { sample(n, Parallel()); });
  } else {
    for (int64_t n = 0; n < samples; ++n) sample(static_cast<size_t>(n), parallel);
  }
}

void FbsConvInt8::run_sample(const uint8_t* x, const int64_t* index, int32_t channels,
                             const Geometry& geometry, uint8_t* y, int64_t* j,
                             const Parallel& parallel) const {
  const int32_t padded = all_vectors_ * lanes_;
  const int32_t winners_padded = vectors_ * lanes_;
  const int64_t pixels = geometry.input_height * geometry.input_width;

  Work work = {};
  work.channels = channels;
  work.groups = groups_of(channels);
  work.stored = whole_.bytes() > 0 && channels == inputs_;
  work.vector_bytes = int64_t{taps_} * work.groups * lanes_ * kGroup;
  way_.store(work.stored ? Way::kStored : Way::kPacked, std::memory_order_relaxed);
  // Where the planes are larger than the weights, each thread takes its part of them, and packs all weights;
  // else its part of the weights, and reads all of the planes.
  const int64_t dots = geometry.tap_pixels * work.groups * vectors_;
  SharedWork& shared = work.shared;
  shared.count =
      static_cast<int32_t>(std::clamp<int64_t>(dots / kDotsPerThread, 1, std::max(1, parallel.threads())));
  const int64_t tile = geometry.tap_pixels * work.groups * kMaxInt8Vectors / geometry.num_tiles;
  shared.least_tiles = shared.count == 1
                           ? geometry.num_tiles
                           : static_cast<int32_t>(kDotsAtATime / std::clamp<int64_t>(tile, 1, kDotsAtATime));
  work.by_outputs = int64_t{taps_} * outputs_ > pixels || geometry.num_tiles < 4 * shared.count;
  work.start_size = static_cast<int64_t>(geometry.regions.size()) * kMaxInt8Vectors * lanes_;
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    work.live_memory = carver.take<int32_t>(channels);
    work.sums = carver.take<int32_t>(channels);
    work.means = carver.take<float>(channels);
    work.saliency = carver.take<float>(padded);
    work.ranked = winner_block_ == 1 ? work.saliency : carver.take<float>(padded);
    work.keys = carver.take<int32_t>(padded);
    work.winners = carver.take<int32_t>(winners_ + kMaxLanes);
    work.scale = carver.take<float>(winners_padded);
    work.bias = carver.take<float>(winners_padded);
    work.first_step = carver.take<int32_t>(vectors_ + 1);
    work.steps = carver.take<SqueezeStep>(max_squeeze_steps(outputs_, winners_, lanes_));
    if (channels % kGroup != 0) work.spread = carver.take<uint8_t>(pixels * work.groups * kGroup);
    shared.shares = carver.take<Share>(shared.count);
    shared.segments = carver.take<Segment>(max_segments(vectors_, shared.count));
    return carver.used();
  };
  const auto carve_share = [&](char* memory) {
    const int64_t slots = shared.slots_a_share();
    Carver carver(memory);
    if (!work.stored) work.packed = carver.take<int8_t>(slots * kMaxInt8Vectors * work.vector_bytes);
    if (spec_.x.zero != 0) work.start = carver.take<int32_t>(slots * work.start_size);
    return carver.used();
  };
  const Scratch scratch(carve(nullptr));
  carve(scratch.data());
  const ShareScratch own_scratch(carve_share(nullptr), shared.count, parallel.threads());
  carve_share(own_scratch.data());
  work.own = own_scratch.pitch();

  for (int32_t c = 0; c < channels; ++c) work.live_memory[c] = static_cast<int32_t>(index[c]);
  work.live = work.live_memory;
  choose(x, geometry, work, j);
  if (work.spread != nullptr) spread(x, pixels, channels, work.spread);
  convolve(work.spread == nullptr ? x : work.spread, geometry, work, y, parallel);
}

// Saliency, winners, and what the convolution needs to know of them.
void FbsConvInt8::choose(const uint8_t* x, const Geometry& geometry, const Work& work, int64_t* j) const {
  const int64_t pixels = geometry.input_height * geometry.input_width;
  const auto zero = static_cast<int32_t>(spec_.x.zero);
  const double step = static_cast<double>(spec_.x.step) / static_cast<double>(pixels);
  for (int64_t first = 0; first < pixels; first += kSumPixels) {
    kernels_->int8.sum_bytes(x + first * work.channels, std::min(kSumPixels, pixels - first), work.channels,
                             zero, work.sums);
    for (int32_t c = 0; c < work.channels; ++c) {
      const auto mean = static_cast<float>(step * static_cast<double>(work.sums[c]));
      work.means[c] = first == 0 ? mean : work.means[c] + mean;
    }
  }

  const int32_t padded = all_vectors_ * lanes_;
  predictor_.run(work.means, work.live, work.channels, saliency_bias_, spec_.layer.saliency_slope, 0, padded,
                 work.saliency);
  if (spec_.layer.normalize != 0) scale_to_mean_one(work.saliency, outputs_);
  if (winners_ == outputs_) {
    for (int32_t o = 0; o < outputs_; ++o) work.winners[o] = o;
  } else {
    if (winner_block_ > 1) block_means(work.saliency, outputs_, winner_block_, work.ranked);
    top_k(*kernels_, work.ranked, outputs_, winners_, work.keys, work.winners);
  }
  if (!work.stored) squeeze_steps(work.winners, winners_, lanes_, lanes_, work.steps, work.first_step);

  for (int32_t i = 0; i < vectors_ * lanes_; ++i) {
    const bool wins = i < winners_;
    const int32_t o = wins ? work.winners[i] : 0;
    work.scale[i] = wins ? work.saliency[o] * scale_[o] : 0.0f;
    work.bias[i] = wins ? work.saliency[o] * shift_[o] + post_[o] : 0.0f;
    if (wins) j[i] = o;
  }
}

}  // namespace compress
