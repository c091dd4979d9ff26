#include "fbs_conv.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "fbs_work.h"
#include "plane_means.h"
#include "select.h"

namespace compress {

namespace {

// From so many weights read per call on, they are not in the second cache level when their turn comes. Asking
// for them while computing then gains 10-20 % (192 channels at 8x8: 168 -> 141 microseconds). Where all
// layers together fit the last level, the processor's own guesses serve as well up to larger layers.
constexpr int64_t kFarWeights = int64_t{1} << 15;
constexpr int64_t kFarWeightsOfFew = int64_t{1} << 19;

// Where planes are small, few pixels use the packed weights. They are packed for as many inputs at a time as
// stay near the first cache level, so many floats for a pair of vectors, while the next inputs' are asked for
// (512 channels at 7x7: 7 % faster on one thread, up to 1.5 times on four). Every time all sums are read and
// written: with larger planes, or less packed at a time, that costs more than it brings.
constexpr int64_t kBlockPixels = 256;
constexpr int32_t kBlockFloats = 9216;

// A plane of all inputs counts so many times as much as weights of its size when threads divide them: mostly
// it is a residual sum, and what all threads have read is written again as slowly as it came (a sum of
// ResNet-50 at 14x14 took 0.1 ms on four threads, 0.04 on one; the network 4 % longer). Weights may lie in
// every thread's cache.
constexpr int64_t kDensePlaneWeight = 6;

// Squeezing the winners out of one vector of a pixel's sums, in vector multiply-adds.
constexpr int64_t kPixelSqueezeCost = 12;

// Tiles of a thread, at least, where threads divide the plane by pixels.
constexpr int64_t kLeastTiles = 3;

// Vector multiply-adds in the tiles that a thread takes at a time, at least: 3 microseconds.
constexpr int64_t kWorkAtATime = 10000;

}  // namespace

FbsConv::FbsConv(const LayerSpec& spec, const KernelTable* kernels, Way forced,
                 const DepthwiseSpec* depthwise)
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
      vectors_((winners_ + lanes_ - 1) / lanes_),
      weights_(spec, kernels),
      predictor_(spec, kernels) {
  if (depthwise != nullptr) depthwise_.emplace(*depthwise, kernels);
  const int32_t padded = all_vectors_ * lanes_;

  per_output_ = Buffer(sizeof(float) * 4 * static_cast<size_t>(padded));
  std::memset(per_output_.data(), 0, per_output_.bytes());
  float* rows = per_output_.floats();
  saliency_bias_ = std::copy_n(spec.saliency_bias.data, outputs_, rows) - outputs_;
  shift_ = std::copy_n(spec.shift.data, outputs_, rows + padded) - outputs_;
  post_shift_ = nullptr;
  if (spec.post_shift) {
    post_shift_ = std::copy_n(spec.post_shift->data, outputs_, rows + 2 * padded) - outputs_;
  }
  // Sums of bytes are in steps, and so is what they begin with.
  steps_ = nullptr;
  if (weights_.precision() == Precision::kByte) {
    steps_ = std::copy_n(spec.weight_steps->data, outputs_, rows + 3 * padded) - outputs_;
    for (int32_t o = 0; o < outputs_; ++o) rows[padded + o] /= steps_[o];
  }

  if (spec.left_out) {
    left_out_ = Buffer(sizeof(float) * static_cast<size_t>(inputs_));
    std::copy_n(spec.left_out->data, inputs_, left_out_.floats());
    add_left_out(spec, [&](int64_t c) { return std::abs(static_cast<double>(left_out_.floats()[c])); }, rows);
  }

  // Winners are ascending, so the first panel is packed from the first outputs: about K / k times as many as
  // it has.
  const int32_t first_outputs = winners_ == outputs_ ? 0 : (2 * outputs_ / winners_ + 1) * lanes_;
  const int32_t stretch = weights_.stretch_outputs();
  const int32_t first_stretches = std::min((first_outputs + stretch - 1) / stretch, weights_.num_stretches());
  const auto memory = static_cast<int32_t>(weights_.values_per_float());
  link_.describe({inputs_, predictor_.rows(), predictor_.row_floats(), weights_.floats(), first_stretches,
                  weights_.num_stretches(), weights_.vector_stride() / memory, weights_.line_of(1, 0)},
                 weights_.bytes() + predictor_.bytes());

  spec_.weight = {nullptr, nullptr, spec.weight.dims};
  spec_.shift.data = spec_.saliency_bias.data = nullptr;
  spec_.saliency_weight = {nullptr, nullptr, spec.saliency_weight.dims};
  if (spec_.post_shift) spec_.post_shift->data = nullptr;
  for (std::optional<Tensor<float>>* const row :
       {&spec_.left_out, &spec_.weight_steps, &spec_.saliency_steps}) {
    if (*row) (*row)->data = nullptr;
  }
}

// Packing pays where enough pixels share the packed weights. Costs in vector multiply-adds per live channel.
// Measured against both ways, this choice is the faster one (tests/benchmarks/native_ways.py).
bool FbsConv::packs(const Geometry& geometry, int32_t channels) const {
  if (winners_ == outputs_ && channels == inputs_) return false;  // the weights are packed as they lie
  // The convolution reads floats, and bands hold winners only.
  if (weights_.precision() != Precision::kFloat || depthwise_) return true;
  if (forced_ == Way::kPacked || forced_ == Way::kAll) return forced_ == Way::kPacked;
  if (winner_block_ % lanes_ == 0) return true;  // whole vectors win: nothing is squeezed
  const int64_t products = geometry.tap_pixels * channels;
  const int64_t squeeze_cost = kPixelSqueezeCost * geometry.pixels() * (all_vectors_ + vectors_);
  return pack_cost(channels) + products * vectors_ < products * all_vectors_ + squeeze_cost;
}

// Of all winners' weights, in vector multiply-adds.
int64_t FbsConv::pack_cost(int32_t channels) const {
  return static_cast<int64_t>(kSqueezeCost * taps_ * (all_vectors_ + vectors_)) * channels;
}

// Of the convolution by packed weights, likewise.
int64_t FbsConv::plain_cost(const Geometry& geometry, int32_t channels) const {
  return geometry.tap_pixels * channels * vectors_ + pack_cost(channels);
}

// How threads divide a sample: each takes its part of the planes, and reads all weights; or where these are
// much larger, its part of the weights, and reads all of the planes.
Manner FbsConv::manner(const Geometry& geometry, const MatrixPlan* plan, int32_t channels,
                       int threads) const {
  const bool whole = winners_ == outputs_;
  const bool packed = packs(geometry, channels);
  const int32_t computed = packed || whole ? vectors_ : all_vectors_;
  int64_t convolution = geometry.tap_pixels * channels * computed;
  if (depthwise_) {
    convolution += depthwise_->window().y.outputs(geometry.output_height) *
                   depthwise_->window().x.outputs(geometry.output_width) * depthwise_->taps() * vectors_;
  }
  const int64_t input_pixels = geometry.input_height * geometry.input_width;
  Manner manner;
  manner.every_input = channels == inputs_;
  manner.shares = static_cast<int>(std::clamp<int64_t>(convolution / kWorkPerThread, 1, threads));
  const int64_t plane_weight = manner.every_input ? kDensePlaneWeight : 1;
  manner.by_outputs = int64_t{taps_} * outputs_ > plane_weight * input_pixels ||
                      geometry.num_tiles < kLeastTiles * manner.shares;
  const int32_t block = std::max(1, kBlockFloats / (kSegmentVectors * taps_ * lanes_));
  if (geometry.pixels() <= kBlockPixels && channels >= 2 * block) manner.block = block;
  manner.way = plan != nullptr                      ? Way::kMatrix
               : takes_winograd(geometry, channels) ? Way::kWinograd
               : packed                             ? Way::kPacked
               : whole                              ? Way::kStored
                                                    : Way::kAll;
  const bool winograd = manner.way == Way::kWinograd;
  if (plan != nullptr || winograd || depthwise_) {
    const Grid grid = plan != nullptr ? divide_matrices(*plan, threads)
                      : winograd ? divide_winograd(geometry, channels, threads)
                                 : divide_bands(band_shape(), geometry.input_height, geometry.input_width,
                                                vectors_, manner.shares);
    manner.shares = grid.shares();
    manner.stretches = grid.stretches;
    manner.by_outputs = grid.parts > 1;
    manner.block = 0;
  }
  manner.saliency_parts = predictor_.parts(channels, threads);
  return manner;
}

std::string FbsConv::check(const Tensor<float>& x, const Tensor<int64_t>& index) const {
  std::string error = check_input(spec_, x, index);
  if (!error.empty() || !depthwise_) return error;
  error = check_depthwise_planes(depthwise_->spec(), spec_.y_dims(x.dims));
  return error.empty() ? "" : "the depthwise convolution: " + error;
}

Dims FbsConv::y_dims(const Dims& x) const {
  const Dims between = spec_.y_dims(x);
  return depthwise_ ? depthwise_->spec().y_dims(between) : between;
}

void FbsConv::run(const Tensor<float>& x, const Tensor<int64_t>& index, float* y, int64_t* j,
                  const Parallel& parallel, const PlaneMeans& means) const {
  const int64_t samples = x.dims[0];
  if (samples == 0) return;
  const std::shared_ptr<const Geometry> shape =
      geometry_.get(spec_.y(), spec_.x(), x.dims[1], x.dims[2], {kernels_->max_tile});
  const auto channels = static_cast<int32_t>(x.dims[3]);
  const int64_t x_size = x.dims[1] * x.dims[2] * x.dims[3];
  const Dims y_shape = y_dims(x.dims);
  const int64_t y_size = y_shape[1] * y_shape[2] * y_shape[3];
  const bool alone = samples >= parallel.threads();  // each thread has a sample to itself
  const std::shared_ptr<const MatrixPlan> matrices = matrix_plan(*shape, channels);
  const Manner how = manner(*shape, matrices.get(), channels, alone ? 1 : parallel.threads());
  std::shared_ptr<const BandPlan> plan;
  if (depthwise_) {
    plan = plan_.get(band_shape(), x.dims[1], x.dims[2], how.stretches);
  }
  const ChainLink::Next next = link_.enter(how);
  const ChainLink::Next same = {nullptr, {}, next.weights_are_far};  // the sample after it is this layer's
  const auto sample = [&](size_t n, const Parallel& inner) {
    const auto i = static_cast<int64_t>(n);
    const Sample one = {x.data + i * x_size,
                        index.data + (index.dims[0] == 1 ? 0 : i * channels),
                        means.of_x == nullptr ? nullptr : means.of_x + i * channels,
                        channels,
                        y + i * y_size,
                        j + i * winners_,
                        means.of_y == nullptr ? nullptr : means.of_y + i * winners_,
                        y_shape[1] * y_shape[2]};
    run_sample(one, *shape, plan.get(), matrices.get(), how, i + 1 < samples ? same : next, inner);
  };
  if (alone) {
    parallel(static_cast<size_t>(samples), [&](size_t n) { sample(n, Parallel()); });
  } else {
    for (int64_t n = 0; n < samples; ++n) sample(static_cast<size_t>(n), parallel);
  }
}

void FbsConv::run_sample(const Sample& sample, const Geometry& geometry, const BandPlan* plan,
                         const MatrixPlan* matrix_plan, const Manner& manner, const ChainLink::Next& next,
                         const Parallel& parallel) const {
  const int32_t channels = sample.channels;
  const int32_t padded = all_vectors_ * lanes_;
  const int32_t winners_padded = vectors_ * lanes_;
  const int64_t input_pixels = geometry.input_height * geometry.input_width;

  Work work = {};
  work.geometry = &geometry;
  work.channels = channels;
  work.manner = manner;
  work.next = next;
  const bool winograd = manner.way == Way::kWinograd, matrices = manner.way == Way::kMatrix;
  work.pack = winograd || matrices || manner.way == Way::kPacked;
  work.stored = manner.way == Way::kStored && channels == inputs_;
  work.all = manner.way == Way::kAll;
  work.vectors = work.all ? all_vectors_ : vectors_;
  way_.store(manner.way, std::memory_order_relaxed);
  const int64_t weights = int64_t{taps_} * channels * padded / weights_.values_per_float();
  work.far = !work.all && weights >= (next.weights_are_far ? kFarWeights : kFarWeightsOfFew);
  const int64_t tile = geometry.tap_pixels * channels * kSegmentVectors / geometry.num_tiles;
  work.shared.count = manner.shares;
  work.shared.least_tiles =
      manner.shares == 1 ? geometry.num_tiles
                         : static_cast<int32_t>(kWorkAtATime / std::clamp<int64_t>(tile, 1, kWorkAtATime));
  work.max_sources = all_vectors_ + 1;
  const int32_t packed_channels = manner.block > 0 ? manner.block : channels;
  work.slot_floats = int64_t{kSegmentVectors} * taps_ * packed_channels * lanes_;
  work.last_slot = manner.shares == 1 ? 0 : work.slot_floats;
  work.matrix_plan = matrix_plan;
  if (winograd) size_winograd(&work);
  if (matrices) size_matrices(&work);
  const int64_t block_sums = manner.block > 0 ? int64_t{geometry.num_tiles} * kernels_->tile_floats() : 0;
  work.plan = plan;
  int64_t band_floats = 0;
  if (plan != nullptr) {
    const int32_t pitch = kSegmentVectors * lanes_;
    band_floats = plan->most_rows * plan->between_width * pitch;
    work.depthwise_floats = depthwise_->filters().floats(pitch);
  }
  int64_t y_sums = 0;
  if (sample.y_means != nullptr) {
    work.y_sums_pitch = winners_padded;
    work.y_sums_parts = plan != nullptr ? plan->sum_rows
                        : winograd      ? work.tiles.groups
                        : matrices      ? matrix_plan->num_units()
                                        : geometry.num_tiles;
    y_sums = work.y_sums_parts * winners_padded + part_floats(winners_padded);
  }
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    work.live_memory = carver.take<int32_t>(channels);
    work.channel_offsets = carver.take<int32_t>(channels);
    if (left_out_.data() != nullptr) work.left_out = carver.take<float>(channels);
    if (sample.means == nullptr)
      work.partial_sums = carver.take<float>(sum_parts(input_pixels) * part_floats(channels));
    work.means = carver.take<float>(channels);
    work.saliency = carver.take<float>(padded);
    work.ranked = winner_block_ == 1 ? work.saliency : carver.take<float>(padded);
    work.keys = carver.take<int32_t>(padded);
    work.winners = carver.take<int32_t>(winners_ + kMaxLanes);
    work.bias = carver.take<float>(winners_padded);
    work.scale = carver.take<float>(winners_padded);
    work.post = carver.take<float>(winners_padded);
    work.first_step = carver.take<int32_t>(vectors_ + 1);
    work.steps = carver.take<SqueezeStep>(max_squeeze_steps(outputs_, winners_, lanes_));
    work.shared.shares = carver.take<Share>(manner.shares);
    work.shared.segments = carver.take<Segment>(max_segments(work.vectors, manner.shares));
    if (work.far) work.weight_rows = carver.take<int32_t>(int64_t{taps_} * channels);
    if (manner.way == Way::kPacked && weights_.precision() == Precision::kFloat) {
      work.together = carver.take<bool>(vectors_);
    }
    if (y_sums > 0) work.y_sums = carver.take<float>(y_sums);
    if (work.all) work.sums = carver.take<float>(geometry.pixels() * padded);
    return carver.used();
  };
  // What a share writes first of all, so that it lies where the layer before had it.
  const auto carve_share = [&](char* memory) {
    Carver carver(memory);
    if (work.pack) work.packed = carver.take<float>(work.last_slot + work.slot_floats);
    if (winograd) work.patches = carver.take<float>(work.patches_floats);
    if (matrices) work.parts = carver.take<BFloat16>(matrix_plan->values());
    work.block_sums = carver.take<float>(block_sums);
    work.band_memory = carver.take<float>(band_floats);
    work.depthwise_rows = carver.take<float>(work.depthwise_floats);
    if (work.far) work.sources = carver.take<const float*>(work.max_sources);
    if (work.next.reads != nullptr) work.next_lines = carver.take<int32_t>(kMostNextLines);
    return carver.used();
  };
  const Scratch scratch(carve(nullptr));
  carve(scratch.data());
  const ShareScratch own_scratch(carve_share(nullptr), manner.shares, parallel.threads());
  carve_share(own_scratch.data());
  work.own = own_scratch.pitch();

  for (int32_t c = 0; c < channels; ++c) work.live_memory[c] = static_cast<int32_t>(sample.index[c]);
  work.live = work.live_memory;
  for (int32_t c = 0; c < channels; ++c) work.channel_offsets[c] = work.live[c] * weights_.channel_stride();
  if (work.left_out != nullptr) {
    for (int32_t c = 0; c < channels; ++c) work.left_out[c] = left_out_.floats()[work.live[c]];
  }
  choose(sample, work, parallel);
  if (work.together != nullptr) find_together(work);
  if (depthwise_) {
    convolve_bands(sample.x, work, sample.y, parallel);
  } else if (matrices) {
    convolve_matrices(sample.x, work, sample.y, parallel);
  } else if (winograd) {
    convolve_winograd(sample.x, work, sample.y, parallel);
  } else {
    convolve(sample.x, work, sample.y, parallel);
  }
  if (sample.y_means != nullptr) finish_y_means(sample, work);
}

}  // namespace compress
