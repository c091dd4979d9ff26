#include "fbs_conv.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "fbs_work.h"
#include "select.h"

namespace compress {

namespace {

// Pixels this many floats apart, or a multiple, share one set of the first cache level: a tile's pixels would
// evict each other (1024 channels: 89 instead of 115 GFLOP/s), so they are copied further apart.
constexpr int32_t kCacheWayFloats = 1024;

// Squeezing one source vector of a weight row costs about this many vector multiply-adds.
constexpr double kSqueezeCost = 1.5;

}  // namespace

FbsConv::FbsConv(const LayerSpec& spec, const KernelTable* kernels, Way forced)
    : spec_(spec),
      kernels_(kernels),
      forced_(forced),
      outputs_(static_cast<int32_t>(spec.outputs())),
      inputs_(static_cast<int32_t>(spec.inputs())),
      taps_(static_cast<int32_t>(spec.weight.dims[2] * spec.weight.dims[3])),
      winners_(static_cast<int32_t>(spec.winners)),
      winner_block_(static_cast<int32_t>(std::min(spec.winner_block, spec.outputs()))),
      lanes_(kernels->lanes),
      all_vectors_((outputs_ + lanes_ - 1) / lanes_),
      vectors_((winners_ + lanes_ - 1) / lanes_) {
  const bool every_output_wins = winners_ == outputs_;
  channel_stride_ = every_output_wins ? lanes_ : taps_ * lanes_;
  tap_stride_ = every_output_wins ? inputs_ * lanes_ : lanes_;
  vector_stride_ = static_cast<int64_t>(inputs_) * taps_ * lanes_;
  const int32_t padded = all_vectors_ * lanes_;

  weight_ = Buffer(sizeof(float) * static_cast<size_t>(vector_stride_) * all_vectors_);
  std::memset(weight_.data(), 0, weight_.bytes());
  for (int32_t o = 0; o < outputs_; ++o) {
    float* vector = weight_.floats() + o / lanes_ * vector_stride_ + o % lanes_;
    const float* source = spec.weight.data + static_cast<int64_t>(o) * inputs_ * taps_;
    for (int32_t c = 0; c < inputs_; ++c) {
      for (int32_t t = 0; t < taps_; ++t) {
        vector[static_cast<int64_t>(c) * channel_stride_ + static_cast<int64_t>(t) * tap_stride_] = *source++;
      }
    }
  }

  saliency_weight_ = Buffer(sizeof(float) * static_cast<size_t>(inputs_) * padded);
  std::memset(saliency_weight_.data(), 0, saliency_weight_.bytes());
  for (int32_t c = 0; c < inputs_; ++c) {
    std::copy_n(spec.saliency_weight.data + static_cast<int64_t>(c) * outputs_, outputs_,
                saliency_weight_.floats() + static_cast<int64_t>(c) * padded);
  }

  per_output_ = Buffer(sizeof(float) * 3 * static_cast<size_t>(padded));
  std::memset(per_output_.data(), 0, per_output_.bytes());
  float* rows = per_output_.floats();
  saliency_bias_ = std::copy_n(spec.saliency_bias.data, outputs_, rows) - outputs_;
  shift_ = std::copy_n(spec.shift.data, outputs_, rows + padded) - outputs_;
  post_shift_ = nullptr;
  if (spec.post_shift) {
    post_shift_ = std::copy_n(spec.post_shift->data, outputs_, rows + 2 * padded) - outputs_;
  }

  // Winners are ascending, so the first panel is packed from the first vectors: about K / k times as many as
  // it has.
  const int32_t first_sources = every_output_wins ? 0 : std::min(2 * outputs_ / winners_ + 1, all_vectors_);
  link_.describe({inputs_, saliency_weight_.floats(), padded, weight_.floats(), first_sources, vector_stride_,
                  channel_stride_},
                 weight_.bytes() + saliency_weight_.bytes());

  spec_.weight.data = spec_.shift.data = spec_.saliency_weight.data = spec_.saliency_bias.data = nullptr;
  if (spec_.post_shift) spec_.post_shift->data = nullptr;
}

// Packing pays where enough pixels share the packed weights. Costs in vector multiply-adds per live channel.
// Measured against both ways, this choice is the faster one (tests/benchmarks/native_ways.py).
bool FbsConv::packs(const Geometry& geometry, int32_t channels) const {
  if (winners_ == outputs_ && channels == inputs_) return false;  // the weights are packed as they lie
  if (forced_ != Way::kNone) return forced_ == Way::kPacked;
  if (winner_block_ % lanes_ == 0) return true;  // whole vectors win: nothing is squeezed
  const double pack_cost = kSqueezeCost * taps_ * (all_vectors_ + vectors_);
  const double pixels = static_cast<double>(geometry.tap_pixels);
  return pack_cost + pixels * vectors_ < pixels * all_vectors_;
}

void FbsConv::run(const Tensor<float>& x, const Tensor<int64_t>& index, float* y, int64_t* j,
                  const Parallel& parallel) const {
  const int64_t samples = x.dims[0];
  if (samples == 0) return;
  const std::shared_ptr<const Geometry> shape =
      geometry_.get(spec_.y(), spec_.x(), x.dims[1], x.dims[2], kernels_->max_tile);
  const auto channels = static_cast<int32_t>(x.dims[3]);
  const int64_t x_size = x.dims[1] * x.dims[2] * x.dims[3];
  const int64_t y_size = shape->pixels() * winners_;
  const ChainLink::Next next = link_.enter(channels == inputs_);
  const ChainLink::Next same = {nullptr, false, next.weights_are_far};  // the sample after it is this layer's
  const auto sample = [&](size_t n, const Parallel& inner) {
    const auto i = static_cast<int64_t>(n);
    run_sample(x.data + i * x_size, index.data + (index.dims[0] == 1 ? 0 : i * channels), channels, *shape,
               i + 1 < samples ? same : next, y + i * y_size, j + i * winners_, inner);
  };
  if (samples >= parallel.threads()) {
    parallel(static_cast<size_t>(samples), [&](size_t n) { sample(n, Parallel()); });
  } else {
    for (int64_t n = 0; n < samples; ++n) sample(static_cast<size_t>(n), parallel);
  }
}

void FbsConv::run_sample(const float* x, const int64_t* index, int32_t channels, const Geometry& geometry,
                         const ChainLink::Next& next, float* y, int64_t* j, const Parallel& parallel) const {
  const int32_t padded = all_vectors_ * lanes_;
  const int32_t winners_padded = vectors_ * lanes_;
  const int64_t input_pixels = geometry.input_height * geometry.input_width;
  const bool whole = winners_ == outputs_;

  Work work = {};
  work.channels = channels;
  work.next = parallel.threads() <= 1 ? next.reads.get() : nullptr;
  work.next_reads_all = next.every_input;
  work.weights_are_far = next.weights_are_far;
  work.pitch = taps_ == 1 && channels % kCacheWayFloats == 0 ? channels + kMaxLanes : channels;
  work.pack = packs(geometry, channels);
  work.stored = whole && channels == inputs_;
  work.all = !work.pack && !whole;
  work.vectors = work.all ? all_vectors_ : vectors_;
  way_.store(work.pack ? Way::kPacked : work.all ? Way::kAll : Way::kStored, std::memory_order_relaxed);
  // Alone, one pair of packed vectors after the other passes through the same memory and stays in the cache.
  work.pack_slots = parallel.threads() <= 1 ? std::min<int32_t>(2, vectors_) : vectors_;
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    work.live_memory = carver.take<int32_t>(channels);
    work.channel_offsets = carver.take<int32_t>(channels);
    work.partial_sums = carver.take<float>((input_pixels + kSumPixels - 1) / kSumPixels * 4 * channels);
    work.means = carver.take<float>(channels);
    work.saliency = carver.take<float>(padded);
    work.ranked = winner_block_ == 1 ? work.saliency : carver.take<float>(padded);
    work.keys = carver.take<int32_t>(padded);
    work.winners = carver.take<int32_t>(winners_);
    work.bias = carver.take<float>(winners_padded);
    work.scale = carver.take<float>(winners_padded);
    work.post = carver.take<float>(winners_padded);
    work.first_step = carver.take<int32_t>(vectors_ + 1);
    work.steps = carver.take<SqueezeStep>(max_squeeze_steps(outputs_, winners_, lanes_));
    if (work.pack || work.stored) {
      work.weight_rows = carver.take<int32_t>(static_cast<int64_t>(taps_) * channels);
      work.next_sources = carver.take<const float*>(max_squeeze_steps(outputs_, winners_, lanes_));
    }
    if (work.pack) {
      work.pieces_packed = carver.take<int32_t>((vectors_ + 1) / 2);
      work.packed = carver.take<float>(static_cast<int64_t>(work.pack_slots) * taps_ * channels * lanes_);
    }
    if (work.next != nullptr) work.next_lines = carver.take<int32_t>(kMostNextLines);
    if (work.pitch != channels) work.spread_input = carver.take<float>(input_pixels * work.pitch);
    if (work.all) work.sums = carver.take<float>(geometry.pixels() * padded);
    return carver.used();
  };
  const Scratch scratch(carve(nullptr));
  carve(scratch.data());

  for (int32_t c = 0; c < channels; ++c) work.live_memory[c] = static_cast<int32_t>(index[c]);
  work.live = work.live_memory;
  for (int32_t c = 0; c < channels; ++c) work.channel_offsets[c] = work.live[c] * channel_stride_;
  choose(x, geometry, work, j, parallel);
  convolve(work.spread_input == nullptr ? x : work.spread_input, geometry, work, y, parallel);
}

}  // namespace compress
