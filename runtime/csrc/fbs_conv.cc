#include "fbs_conv.h"

#include <algorithm>
#include <cstring>

#include "select.h"

namespace compress {

namespace {

// Pixels per partial channel sum. Fixed, so that the saliency does not depend on the number of threads.
constexpr int64_t kSumPixels = 512;

// Vector multiply-adds below which another thread costs more than it brings: about 10 microseconds.
constexpr int64_t kWorkPerThread = 40000;

// Pixels this many floats apart, or a multiple, share one set of the first cache level: a tile's pixels would
// evict each other (1024 channels: 89 instead of 115 GFLOP/s), so they are copied further apart.
constexpr int32_t kCacheWayFloats = 1024;

// From so many weights read per call on, they are not in the second cache level when their turn comes; asking
// for them while computing then gains 10-20 % (512 channels at 7x7), below it costs 1-2 %.
constexpr int64_t kFarWeights = int64_t{1} << 19;

// Rows of weights packed for one vector before the next vector's turn: what they read stays in the first
// cache level.
constexpr int32_t kPackRows = 64;

// Squeezing one source vector of a weight row costs about this many vector multiply-adds.
constexpr double kSqueezeCost = 1.5;

}  // namespace

// The memory of one sample's call, carved out of one scratch buffer.
struct FbsConv::Work {
  int32_t channels;
  int32_t pitch;  // floats from pixel to pixel of what is convolved
  const int32_t* live;
  bool pack;           // squeeze the winners' weights first, or compute by the weights as they are
  bool all;            // compute every output and keep the winners
  int32_t pack_slots;  // vectors of packed weights that exist at a time

  int32_t* live_memory;
  int32_t* channel_offsets;
  float* partial_sums;
  float* means;
  float* saliency;
  int32_t* keys;
  int32_t* winners;
  float* bias;
  float* scale;
  float* post;
  int32_t* first_step;
  SqueezeStep* steps;
  float* packed;
  float* sums;
  float* spread_input;
  int32_t* weight_rows;
  const float** next_sources;
};

FbsConv::FbsConv(const LayerSpec& spec, const KernelTable* kernels)
    : spec_(spec),
      kernels_(kernels),
      outputs_(static_cast<int32_t>(spec.outputs())),
      inputs_(static_cast<int32_t>(spec.inputs())),
      taps_(static_cast<int32_t>(spec.weight.dims[2] * spec.weight.dims[3])),
      winners_(static_cast<int32_t>(spec.winners)),
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

  spec_.weight.data = spec_.shift.data = spec_.saliency_weight.data = spec_.saliency_bias.data = nullptr;
  if (spec_.post_shift) spec_.post_shift->data = nullptr;
}

std::shared_ptr<const Geometry> FbsConv::geometry(int64_t height, int64_t width) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (geometry_ == nullptr || geometry_->input_height != height || geometry_->input_width != width) {
    geometry_ = std::make_shared<const Geometry>(
        make_geometry(spec_.y(), spec_.x(), height, width, kernels_->max_tile));
  }
  return geometry_;
}

// Packing pays where enough pixels share the packed weights. Costs in vector multiply-adds per live channel.
bool FbsConv::packs(const Geometry& geometry, int32_t channels) const {
  if (winners_ == outputs_ && channels == inputs_) return false;  // the weights are packed as they lie
  const double pack_cost = kSqueezeCost * taps_ * (all_vectors_ + vectors_);
  const double pixels = static_cast<double>(geometry.tap_pixels);
  return pack_cost + pixels * vectors_ < pixels * all_vectors_;
}

void FbsConv::run(const Tensor<float>& x, const Tensor<int64_t>& index, float* y, int64_t* j,
                  const Parallel& parallel) const {
  const int64_t samples = x.dims[0];
  if (samples == 0) return;
  const std::shared_ptr<const Geometry> shape = geometry(x.dims[1], x.dims[2]);
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

void FbsConv::run_sample(const float* x, const int64_t* index, int32_t channels, const Geometry& geometry,
                         float* y, int64_t* j, const Parallel& parallel) const {
  const int32_t padded = all_vectors_ * lanes_;
  const int32_t winners_padded = vectors_ * lanes_;
  const int64_t input_pixels = geometry.input_height * geometry.input_width;
  const bool whole = winners_ == outputs_;

  Work work = {};
  work.channels = channels;
  work.pitch = taps_ == 1 && channels % kCacheWayFloats == 0 ? channels + kMaxLanes : channels;
  work.pack = packs(geometry, channels);
  work.all = !work.pack && !whole;
  // Alone, one pair of packed vectors after the other passes through the same memory and stays in the cache.
  work.pack_slots = parallel.threads() <= 1 ? std::min<int32_t>(2, vectors_) : vectors_;
  const auto carve = [&](char* memory) {
    Carver carver(memory);
    work.live_memory = carver.take<int32_t>(channels);
    work.channel_offsets = carver.take<int32_t>(channels);
    work.partial_sums = carver.take<float>((input_pixels + kSumPixels - 1) / kSumPixels * channels);
    work.means = carver.take<float>(channels);
    work.saliency = carver.take<float>(padded);
    work.keys = carver.take<int32_t>(padded);
    work.winners = carver.take<int32_t>(winners_);
    work.bias = carver.take<float>(winners_padded);
    work.scale = carver.take<float>(winners_padded);
    work.post = carver.take<float>(winners_padded);
    work.first_step = carver.take<int32_t>(vectors_ + 1);
    work.steps = carver.take<SqueezeStep>(max_squeeze_steps(outputs_, winners_, lanes_));
    if (work.pack) {
      work.weight_rows = carver.take<int32_t>(static_cast<int64_t>(taps_) * channels);
      work.next_sources = carver.take<const float*>(max_squeeze_steps(outputs_, winners_, lanes_));
      work.packed = carver.take<float>(static_cast<int64_t>(work.pack_slots) * taps_ * channels * lanes_);
    }
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
  if (work.spread_input != nullptr) {
    for (int64_t p = 0; p < input_pixels; ++p) {
      std::copy_n(x + p * channels, channels, work.spread_input + p * work.pitch);
    }
    x = work.spread_input;
  }
  convolve(x, geometry, work, y, parallel);
}

// Saliency, winners, and what the convolution needs to know of them.
void FbsConv::choose(const float* x, const Geometry& geometry, const Work& work, int64_t* j,
                     const Parallel& parallel) const {
  const int64_t pixels = geometry.input_height * geometry.input_width;
  const int64_t parts = (pixels + kSumPixels - 1) / kSumPixels;
  const auto sum_part = [&](size_t part) {
    const int64_t first = static_cast<int64_t>(part) * kSumPixels;
    kernels_->abs_sums(x + first * work.channels, std::min(kSumPixels, pixels - first), work.channels,
                       work.partial_sums + static_cast<int64_t>(part) * work.channels);
  };
  const bool sums_are_large = pixels * work.channels / lanes_ >= kWorkPerThread;
  (sums_are_large ? parallel : Parallel())(static_cast<size_t>(parts), sum_part);
  for (int32_t c = 0; c < work.channels; ++c) {
    float sum = work.partial_sums[c];
    for (int64_t part = 1; part < parts; ++part) sum += work.partial_sums[part * work.channels + c];
    work.means[c] = sum / static_cast<float>(pixels);
  }

  const int32_t padded = all_vectors_ * lanes_;
  const int32_t block = 8 * lanes_;
  const bool saliency_is_large = static_cast<int64_t>(work.channels) * all_vectors_ >= kWorkPerThread / 4;
  (saliency_is_large ? parallel : Parallel())(
      static_cast<size_t>((padded + block - 1) / block), [&](size_t b) {
        const auto first = static_cast<int32_t>(b) * block;
        kernels_->saliency(work.means, work.live, work.channels, saliency_weight_.floats(), padded,
                           saliency_bias_, spec_.saliency_slope, first, std::min(first + block, padded),
                           work.saliency);
      });
  if (spec_.normalize != 0) {
    double sum = 0.0;
    for (int32_t o = 0; o < outputs_; ++o) sum += static_cast<double>(work.saliency[o]);
    const double factor = sum == 0.0 ? 1.0 : static_cast<double>(outputs_) / sum;
    for (int32_t o = 0; o < outputs_; ++o) {
      work.saliency[o] = static_cast<float>(static_cast<double>(work.saliency[o]) * factor);
    }
  }

  if (winners_ == outputs_) {
    for (int32_t o = 0; o < outputs_; ++o) work.winners[o] = o;
  } else {
    top_k(*kernels_, work.saliency, outputs_, winners_, work.keys, work.winners);
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

void FbsConv::convolve(const float* x, const Geometry& geometry, const Work& work, float* y,
                       const Parallel& parallel) const {
  const int64_t packed_stride = static_cast<int64_t>(taps_) * work.channels * lanes_;
  const bool contiguous = work.pack || (winners_ == outputs_ && work.channels == inputs_);

  ConvTask task = {};
  task.x = x;
  task.y = work.all ? work.sums : y;
  task.vector_stride = work.pack ? packed_stride : vector_stride_;
  task.channel_offsets = contiguous ? nullptr : work.channel_offsets;
  task.tap_stride = tap_stride_;
  task.channels = work.channels;
  task.pitch = work.pitch;
  task.k = work.all ? all_vectors_ * lanes_ : winners_;
  task.raw = work.all;
  task.epilogue = {work.bias, work.scale, post_shift_ == nullptr ? nullptr : work.post, spec_.lower,
                   spec_.upper};
  task.regions = geometry.regions.data();
  task.num_regions = static_cast<int32_t>(geometry.regions.size());
  task.input_step_x = static_cast<int32_t>(spec_.strides[1]);
  task.input_step_y = static_cast<int32_t>(spec_.strides[0] * geometry.input_width);
  task.output_width = static_cast<int32_t>(geometry.output_width);

  const auto pack_vector = [&](int32_t vector, int32_t slot, int32_t first, int32_t last) {
    PackTask pack = {};
    pack.w = weight_.floats();
    pack.vector_stride = vector_stride_;
    pack.channel_stride = channel_stride_;
    pack.tap_stride = tap_stride_;
    pack.live = work.live;
    pack.channels = work.channels;
    pack.taps = taps_;
    pack.steps = work.steps + work.first_step[vector];
    pack.num_steps = work.first_step[vector + 1] - work.first_step[vector];
    pack.out = work.packed + slot * packed_stride;
    kernels_->pack(pack, first, last);
  };

  const int32_t vectors = work.all ? all_vectors_ : vectors_;
  const int32_t panels = (vectors + 1) / 2;  // pairs of vectors, and one single where their number is odd
  const auto width = [&](int32_t panel) { return std::min(2, vectors - 2 * panel); };

  const int64_t work_size = geometry.tap_pixels * work.channels * vectors;
  const int threads = static_cast<int>(
      std::min<int64_t>(parallel.threads(), std::max<int64_t>(1, work_size / kWorkPerThread)));

  if (threads <= 1) {
    const int32_t pack_step = std::max(1, kPackRows / taps_);
    Prefetch prefetch = {};
    if (work.pack && packed_stride * all_vectors_ >= kFarWeights) {
      prefetch.sources = work.next_sources;
      prefetch.rows = work.weight_rows;
      prefetch.num_rows = taps_ * work.channels;
      for (int32_t c = 0, r = 0; c < work.channels; ++c) {
        for (int32_t t = 0; t < taps_; ++t) work.weight_rows[r++] = work.channel_offsets[c] + t * tap_stride_;
      }
      task.prefetch = &prefetch;
    }
    for (int32_t panel = 0; panel < panels; ++panel) {
      const float* w = weight_.floats() + 2 * panel * vector_stride_;
      if (work.pack) {
        // A few channels of one vector, then of the other: both read the source vector they share while it is
        // near.
        for (int32_t first = 0; first < work.channels; first += pack_step) {
          const int32_t last = std::min(first + pack_step, work.channels);
          for (int32_t v = 0; v < width(panel); ++v) pack_vector(2 * panel + v, v, first, last);
        }
        w = work.packed;
        // While this panel is computed, what the next one is packed from comes nearer.
        prefetch.num_sources = prefetch.source = prefetch.row = 0;
        if (task.prefetch != nullptr && panel + 1 < panels) {
          const int32_t first = 2 * panel + 2;
          for (int32_t i = work.first_step[first]; i < work.first_step[first + width(panel + 1)]; ++i) {
            const float* source = weight_.floats() + work.steps[i].source * vector_stride_;
            if (prefetch.num_sources == 0 || work.next_sources[prefetch.num_sources - 1] != source) {
              work.next_sources[prefetch.num_sources++] = source;
            }
          }
        }
      }
      kernels_->conv(task, w, 2 * panel, width(panel), 0, geometry.num_tiles);
    }
  } else {
    if (work.pack) {
      const int32_t step = std::max(16, (work.channels + threads - 1) / threads);
      const int32_t slices = (work.channels + step - 1) / step;
      parallel(static_cast<size_t>(vectors) * slices, [&](size_t item) {
        const auto vector = static_cast<int32_t>(item) / slices;
        const int32_t first = static_cast<int32_t>(item) % slices * step;
        pack_vector(vector, vector, first, std::min(first + step, work.channels));
      });
    }
    const int32_t wanted = (4 * threads + panels - 1) / panels;
    const int32_t slices = std::clamp(wanted, 1, geometry.num_tiles);
    parallel(static_cast<size_t>(panels) * slices, [&](size_t item) {
      const auto panel = static_cast<int32_t>(item) / slices;
      const int64_t slice = static_cast<int64_t>(item) % slices;
      const float* w = (work.pack ? work.packed : weight_.floats()) + 2 * panel * task.vector_stride;
      kernels_->conv(task, w, 2 * panel, width(panel), static_cast<int>(geometry.num_tiles * slice / slices),
                     static_cast<int>(geometry.num_tiles * (slice + 1) / slices));
    });
  }
  if (work.all) {
    kernels_->squeeze(work.sums, task.k, geometry.pixels(), work.steps, work.first_step, task.epilogue,
                      winners_, y);
  }
}

}  // namespace compress
