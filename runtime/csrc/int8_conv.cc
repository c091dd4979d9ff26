#include "int8_conv.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "int8_work.h"
#include "select.h"

namespace compress {

namespace {

// Vectors of products below which another thread costs more than it brings.
constexpr int64_t kDotsPerThread = 20000;

// What else costs as much as so many vectors of products: a vector of outputs, and one of packed weights.
constexpr int64_t kStoreDots = 12, kPackDots = 20;

// Vectors of products in the tiles that a thread takes at a time, at least: 2 microseconds.
constexpr int64_t kDotsAtATime = 6000;

// Bytes of the input below which another thread costs more than it brings.
constexpr int64_t kInputPerThread = int64_t{32} << 10;

// Pixels whose bytes are added up in int32: no more would fit. Likewise with what is left out of them.
constexpr int64_t kSumPixels = int64_t{1} << 23;
constexpr int64_t kShiftedSumPixels = (int64_t{1} << 31) / (kMostLeftOut + 512);

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
  fill_weights(spec.weight.data);

  per_output_ = Buffer(sizeof(float) * 4 * static_cast<size_t>(padded));
  std::memset(per_output_.data(), 0, per_output_.bytes());
  float* const rows = per_output_.floats();
  const Int8Scale& made = spec.made();
  const double y_step = static_cast<double>(made.step);
  const auto y_zero = static_cast<float>(made.zero);
  for (int32_t o = 0; o < outputs_; ++o) {
    rows[o] = spec.layer.saliency_bias.data[o];
    rows[padded + o] = static_cast<float>(static_cast<double>(spec.weight_step.data[o]) *
                                          static_cast<double>(spec.x.step) / y_step);
    rows[2 * padded + o] = static_cast<float>(static_cast<double>(spec.layer.shift.data[o]) / y_step);
    rows[3 * padded + o] = y_zero;
    if (spec.layer.post_shift) rows[3 * padded + o] += spec.layer.post_shift->data[o] / made.step;
  }
  saliency_bias_ = rows;
  scale_ = rows + padded;
  shift_ = rows + 2 * padded;
  post_ = rows + 3 * padded;
  lower_ = std::clamp(spec.layer.lower / made.step + y_zero, 0.0f, 255.0f);
  upper_ = std::clamp(spec.layer.upper / made.step + y_zero, 0.0f, 255.0f);

  if (spec.left_out) {
    left_out_ = Buffer(sizeof(int32_t) * static_cast<size_t>(inputs_));
    std::copy_n(spec.left_out->data, inputs_, reinterpret_cast<int32_t*>(left_out_.data()));
    const auto size = [&](int64_t c) {
      return static_cast<double>(spec.x.step) * std::abs(static_cast<double>(spec.left_out->data[c]));
    };
    add_left_out(spec.layer, size, rows);
  }
  if (spec.depthwise) fill_filters(*spec.depthwise);

  if (winners_ == outputs_) {
    Work work = {};
    work.channels = inputs_;
    work.groups = groups_of(inputs_);
    work.vector_bytes = int64_t{taps_} * work.groups * lanes_ * kGroup;
    int8_t* squeezed = nullptr;
    const auto carve = [&](char* memory) {
      Carver carver(memory);
      work.live_memory = carver.take<int32_t>(inputs_);
      work.winners = carver.take<int32_t>(winners_ + kMaxLanes);
      take_choice(work, carver);
      squeezed = carver.take<int8_t>(row_memory(inputs_));
      return carver.used();
    };
    const Buffer memory(carve(nullptr));
    carve(memory.data());
    for (int32_t c = 0; c < inputs_; ++c) work.live_memory[c] = c;
    for (int32_t o = 0; o < outputs_; ++o) work.winners[o] = o;
    work.live = work.live_memory;
    list_choice(work);
    whole_ = Buffer(static_cast<size_t>(work.vector_bytes) * vectors_);
    for (int32_t v = 0; v < vectors_; ++v) {
      pack(work, v, squeezed, reinterpret_cast<int8_t*>(whole_.data()) + v * work.vector_bytes);
    }
  }
  spec_.weight.data = nullptr;
  spec_.weight_step.data = spec_.layer.shift.data = nullptr;
  spec_.layer.saliency_weight = {nullptr, nullptr, spec.layer.saliency_weight.dims};
  spec_.layer.saliency_bias.data = nullptr;
  for (std::optional<Tensor<float>>* const row : {&spec_.layer.post_shift, &spec_.layer.saliency_steps}) {
    if (*row) (*row)->data = nullptr;
  }
  if (spec_.left_out) spec_.left_out->data = nullptr;
  if (spec_.depthwise) {
    spec_.depthwise->weight.data = nullptr;
    spec_.depthwise->weight_step.data = spec_.depthwise->spec.shift.data = nullptr;
  }
}

void FbsConvInt8::fill_weights(const int8_t* source) {
  const int64_t channels = inputs_, taps = taps_, size = channels * taps;
  const bool rows = kernels_->int8.weight_rows;
  const int64_t vector_stride = size * lanes_;
  weight_ = Buffer(static_cast<size_t>(rows ? size * outputs_ + kPackSlack : vector_stride * all_vectors_));
  std::memset(weight_.data(), 0, weight_.bytes());
  for (int64_t o = 0; o < outputs_; ++o) {
    char* const to = weight_.data() + (rows ? o * size : o / lanes_ * vector_stride + o % lanes_);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t t = 0; t < taps; ++t, ++source)
        to[rows ? t * channels + c : (c * taps + t) * lanes_] = static_cast<char>(*source);
    }
  }
}

// What pack() reads of what is live and what has won.
void FbsConvInt8::take_choice(Work& work, Carver& carver) const {
  if (kernels_->int8.weight_rows) {
    work.live_bits = carver.take<uint64_t>((inputs_ + 63) / 64);
  } else {
    work.first_step = carver.take<int32_t>(vectors_ + 1);
    work.steps = carver.take<SqueezeStep>(max_squeeze_steps(outputs_, winners_, lanes_));
  }
}

void FbsConvInt8::list_choice(const Work& work) const {
  if (kernels_->int8.weight_rows) {
    std::fill_n(work.live_bits, (inputs_ + 63) / 64, 0);
    for (int32_t c = 0; c < work.channels; ++c)
      work.live_bits[work.live[c] / 64] |= uint64_t{1} << work.live[c] % 64;
  } else {
    squeeze_steps(work.winners, winners_, lanes_, lanes_, work.steps, work.first_step);
  }
}

// Bytes of Int8PackTask::rows.
int64_t FbsConvInt8::row_memory(int32_t channels) const {
  return kernels_->int8.weight_rows ? lanes_ * pack_row_pitch(channels) : 0;
}

void FbsConvInt8::fill_filters(const Int8Depthwise& depthwise) {
  const DepthwiseSpec& spec = depthwise.spec;
  filter_taps_ = static_cast<int32_t>(spec.weight.dims[2] * spec.weight.dims[3]);
  filters_ = FilterRows(filter_taps_ + 3, outputs_);
  const double step = static_cast<double>(spec_.y.step),
               between = static_cast<double>(depthwise.between.step);
  for (int64_t o = 0; o < outputs_; ++o) {
    for (int32_t t = 0; t < filter_taps_; ++t)
      filters_.row(t)[o] = static_cast<float>(depthwise.weight.data[o * filter_taps_ + t]);
    const float shift = spec.shift.data[o];
    const double of_zeros = static_cast<double>(std::clamp(shift, spec.lower, spec.upper));
    filters_.row(filter_taps_)[o] =
        static_cast<float>(static_cast<double>(depthwise.weight_step.data[o]) * between / step);
    filters_.row(filter_taps_ + 1)[o] = static_cast<float>(static_cast<double>(shift) / step);
    filters_.row(filter_taps_ + 2)[o] =
        static_cast<float>(static_cast<double>(spec_.y.zero) - of_zeros / step);
  }
}

BandShape FbsConvInt8::band_shape() const {
  const DepthwiseSpec& behind = spec_.depthwise->spec;
  return {window(),
          {behind.y(), behind.x()},
          kMaxInt8Vectors * lanes_,
          kernels_->int8.tile,
          {kernels_->max_tile}};
}

// Where the planes are larger than the weights, each thread takes its part of them, and packs all weights;
// else its part of the weights, and reads all of the planes.
FbsConvInt8::Manner FbsConvInt8::manner(const Geometry& geometry, const Dims& x, int threads) const {
  const auto channels = static_cast<int32_t>(x[3]);
  const int64_t groups = groups_of(channels);
  int64_t dots = geometry.tap_pixels * groups * vectors_ / kernels_->int8.speed +
                 geometry.pixels() * vectors_ * kStoreDots;
  if (whole_.bytes() == 0) dots += taps_ * groups * vectors_ * kPackDots;
  if (spec_.depthwise) {
    const Dims y = spec_.y_dims(x);
    dots += y[1] * y[2] * filter_taps_ * vectors_;
  }
  Manner manner;
  manner.shares = static_cast<int32_t>(std::clamp<int64_t>(dots / kDotsPerThread, 1, std::max(1, threads)));
  manner.by_outputs = int64_t{taps_} * outputs_ > geometry.input_height * geometry.input_width ||
                      geometry.num_tiles < 4 * manner.shares;
  manner.saliency_parts = predictor_.parts(channels, threads);
  if (spec_.depthwise) {
    const Grid grid = divide_bands(band_shape(), x[1], x[2], vectors_, manner.shares);
    manner.shares = grid.shares();
    manner.plan = plan_.get(band_shape(), x[1], x[2], grid.stretches);
  }
  return manner;
}

void FbsConvInt8::run(const Tensor<uint8_t>& x, const Tensor<int64_t>& index, uint8_t* y, int64_t* j,
                      const Parallel& parallel) const {
  const int64_t samples = x.dims[0];
  if (samples == 0) return;
  const auto channels = static_cast<int32_t>(x.dims[3]);
  const bool even = kernels_->int8.tile.even && !spec_.depthwise;
  const LaidPlane laid = laid_plane(window(), x.dims[1], x.dims[2], channels, even);
  const std::shared_ptr<const Geometry> shape =
      geometry_.get(laid.y.axis, laid.x.axis, laid.y.size, laid.x.size, kernels_->int8.tile);
  const int64_t x_size = x.dims[1] * x.dims[2] * x.dims[3];
  const Dims y_dims = spec_.y_dims(x.dims);
  const int64_t y_size = y_dims[1] * y_dims[2] * y_dims[3];
  const bool alone = samples >= parallel.threads();  // each thread has a sample to itself
  const Manner how = manner(*shape, x.dims, alone ? 1 : parallel.threads());
  const auto sample = [&](size_t n, const Parallel& inner) {
    const auto i = static_cast<int64_t>(n);
    run_sample(x.data + i * x_size, index.data + (index.dims[0] == 1 ? 0 : i * channels), laid, *shape, how,
               y + i * y_size, j + i * winners_, inner);
  };
  if (alone) {
    parallel(static_cast<size_t>(samples), [&](size_t n) { sample(n, Parallel()); });
  } else {
    for (int64_t n = 0; n < samples; ++n) sample(static_cast<size_t>(n), parallel);
  }
}

void FbsConvInt8::run_sample(const uint8_t* x, const int64_t* index, const LaidPlane& laid,
                             const Geometry& geometry, const Manner& manner, uint8_t* y, int64_t* j,
                             const Parallel& parallel) const {
  const int32_t padded = all_vectors_ * lanes_;
  const int32_t winners_padded = vectors_ * lanes_;
  const int64_t pixels = laid.input_height * laid.input_width;
  const int32_t channels = laid.channels;

  Work work = {};
  work.channels = channels;
  work.groups = groups_of(channels);
  work.stored = whole_.bytes() > 0 && channels == inputs_;
  work.vector_bytes = int64_t{taps_} * work.groups * lanes_ * kGroup;
  way_.store(work.stored ? Way::kStored : Way::kPacked, std::memory_order_relaxed);
  work.manner = &manner;
  SharedWork& shared = work.shared;
  shared.count = manner.shares;
  const int64_t tile =
      geometry.tap_pixels * work.groups * kMaxInt8Vectors / kernels_->int8.speed / geometry.num_tiles;
  shared.least_tiles = shared.count == 1
                           ? geometry.num_tiles
                           : static_cast<int32_t>(kDotsAtATime / std::clamp<int64_t>(tile, 1, kDotsAtATime));
  size_t regions = geometry.regions.size();
  int64_t band_floats = 0, filter_floats = 0;
  if (manner.plan != nullptr) {
    const int32_t pitch = kMaxInt8Vectors * lanes_;
    band_floats = manner.plan->most_rows * manner.plan->between_width * pitch;
    filter_floats = filters_.floats(pitch);
    for (const Band& band : manner.plan->bands) regions = std::max(regions, band.made.regions.size());
  }
  work.start_size = static_cast<int64_t>(regions) * kMaxInt8Vectors * lanes_;
  const int64_t at_a_time = left_out_.data() == nullptr ? kSumPixels : kShiftedSumPixels;
  const int64_t most = std::min<int64_t>(parallel.threads(), pixels);
  work.input_parts = std::max<int64_t>((pixels + at_a_time - 1) / at_a_time,
                                       std::min(pixels * channels / kInputPerThread, most));
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    work.live_memory = carver.take<int32_t>(channels);
    work.sums = carver.take<int32_t>(work.input_parts * channels);
    if (left_out_.data() != nullptr || spec_.x.zero != 0) work.zeros = carver.take<int32_t>(channels);
    work.means = carver.take<float>(channels);
    work.saliency = carver.take<float>(padded);
    work.ranked = winner_block_ == 1 ? work.saliency : carver.take<float>(padded);
    work.keys = carver.take<int32_t>(padded);
    work.winners = carver.take<int32_t>(winners_ + kMaxLanes);
    work.scale = carver.take<float>(winners_padded);
    work.bias = carver.take<float>(winners_padded);
    take_choice(work, carver);
    if (!laid.is_input()) work.laid = carver.take<uint8_t>(laid.bytes());
    shared.shares = carver.take<Share>(shared.count);
    shared.segments = carver.take<Segment>(max_segments(vectors_, shared.count));
    return carver.used();
  };
  const auto carve_share = [&](char* memory) {
    const int64_t slots = shared.slots_a_share();
    Carver carver(memory);
    if (!work.stored) {
      work.packed = carver.take<int8_t>(slots * kMaxInt8Vectors * work.vector_bytes);
      work.row_size = row_memory(channels);
      work.rows = carver.take<int8_t>(slots * work.row_size);
    }
    if (spec_.x.zero != 0) work.start = carver.take<int32_t>(slots * work.start_size);
    work.band_memory = carver.take<float>(band_floats);
    work.filter_rows = carver.take<float>(filter_floats);
    return carver.used();
  };
  const Scratch scratch(carve(nullptr));
  carve(scratch.data());
  const ShareScratch own_scratch(carve_share(nullptr), shared.count, parallel.threads());
  carve_share(own_scratch.data());
  work.own = own_scratch.pitch();

  for (int32_t c = 0; c < channels; ++c) work.live_memory[c] = static_cast<int32_t>(index[c]);
  work.live = work.live_memory;
  read_input(x, laid, work, parallel);
  choose(work, j, parallel);
  const uint8_t* const from = work.laid == nullptr ? x : work.laid;
  if (manner.plan != nullptr) {
    convolve_bands(from, geometry, work, y, parallel);
  } else {
    convolve(from, geometry, work, y, parallel);
  }
}

// Means of |x + what is left out|, where the bias has what is left out of every channel; and the plane that
// the convolution reads.
void FbsConvInt8::read_input(const uint8_t* x, const LaidPlane& laid, const Work& work,
                             const Parallel& parallel) const {
  const int64_t pixels = laid.input_height * laid.input_width;
  const auto* const left_out = reinterpret_cast<const int32_t*>(left_out_.data());
  const auto zero = static_cast<int32_t>(spec_.x.zero);
  for (int32_t c = 0; work.zeros != nullptr && c < work.channels; ++c)
    work.zeros[c] = left_out == nullptr ? zero : zero - left_out[work.live[c]];
  parallel(static_cast<size_t>(work.input_parts), [&](size_t item) {
    const auto part = static_cast<int64_t>(item);
    const auto begin = [&](int64_t i, int64_t size) { return size * i / work.input_parts; };
    const int64_t first = begin(part, pixels), last = begin(part + 1, pixels);
    kernels_->int8.sum_bytes(x + first * work.channels, last - first, work.channels, work.zeros,
                             work.sums + part * work.channels);
    if (work.laid == nullptr) return;
    lay_out(laid, x, static_cast<uint8_t>(zero), begin(part, laid.y.size), begin(part + 1, laid.y.size),
            work.laid);
  });
  const double step = static_cast<double>(spec_.x.step) / static_cast<double>(pixels);
  for (int32_t c = 0; c < work.channels; ++c) {
    int64_t sum = 0;
    for (int64_t part = 0; part < work.input_parts; ++part) sum += work.sums[part * work.channels + c];
    work.means[c] = static_cast<float>(step * static_cast<double>(sum));
    if (left_out != nullptr)
      work.means[c] -= spec_.x.step * static_cast<float>(std::abs(left_out[work.live[c]]));
  }
}

// Saliency, winners, and what the convolution needs to know of them.
void FbsConvInt8::choose(const Work& work, int64_t* j, const Parallel& parallel) const {
  predictor_.run(work.means, work.live, work.channels, saliency_bias_, spec_.layer.saliency_slope,
                 work.manner->saliency_parts, parallel, work.saliency);
  if (spec_.layer.normalize != 0) scale_to_mean_one(work.saliency, outputs_);
  if (winners_ == outputs_) {
    for (int32_t o = 0; o < outputs_; ++o) work.winners[o] = o;
  } else {
    if (winner_block_ > 1) block_means(work.saliency, outputs_, winner_block_, work.ranked);
    top_k(*kernels_, work.ranked, outputs_, winners_, work.keys, work.winners);
  }
  if (!work.stored) list_choice(work);

  for (int32_t i = 0; i < vectors_ * lanes_; ++i) {
    const bool wins = i < winners_;
    const int32_t o = wins ? work.winners[i] : 0;
    work.scale[i] = wins ? work.saliency[o] * scale_[o] : 0.0f;
    work.bias[i] = wins ? work.saliency[o] * shift_[o] + post_[o] : 0.0f;
    if (wins) j[i] = o;
  }
}

}  // namespace compress
