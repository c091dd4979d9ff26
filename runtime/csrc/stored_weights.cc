#include "stored_weights.h"

#include <algorithm>
#include <cstring>

namespace compress {

namespace {

void convert(const Weights& from, int64_t i, float step, float* to) { *to = step * from.at(i); }
void convert(const Weights& from, int64_t i, float, Half* to) { *to = from.halves[i]; }
void convert(const Weights& from, int64_t i, float, int8_t* to) { *to = from.bytes[i]; }

}  // namespace

StoredWeights::StoredWeights(const LayerSpec& spec, const KernelTable* kernels) {
  const bool every_output_wins = spec.winners == spec.outputs();
  const auto outputs = static_cast<int32_t>(spec.outputs());
  const auto inputs = static_cast<int32_t>(spec.inputs());
  const auto taps = static_cast<int32_t>(spec.weight.dims[2] * spec.weight.dims[3]);
  precision_ = every_output_wins ? Precision::kFloat : spec.weight.precision();
  source_outputs_ = stretch_outputs_ = kernels->lanes;
  if (precision_ == Precision::kHalf) {
    source_outputs_ = kernels->half_source;
    stretch_outputs_ = kLineHalves;
  } else if (precision_ == Precision::kByte) {
    source_outputs_ = kernels->byte_source;
    stretch_outputs_ = kLineBytes;
  }
  num_stretches_ = (outputs + stretch_outputs_ - 1) / stretch_outputs_;
  channel_stride_ = every_output_wins ? stretch_outputs_ : taps * stretch_outputs_;
  tap_stride_ = every_output_wins ? inputs * stretch_outputs_ : stretch_outputs_;
  stretch_stride_ = static_cast<int64_t>(inputs) * taps * stretch_outputs_;
  const size_t value = sizeof(float) / static_cast<size_t>(values_per_float());
  memory_ = Buffer(value * static_cast<size_t>(stretch_stride_) * static_cast<size_t>(num_stretches_));
  std::memset(memory_.data(), 0, memory_.bytes());
  if (precision_ == Precision::kFloat) fill<float>(spec);
  if (precision_ == Precision::kHalf) fill<Half>(spec);
  if (precision_ == Precision::kByte) fill<int8_t>(spec);
}

template <typename T>
void StoredWeights::fill(const LayerSpec& spec) {
  const int64_t inputs = spec.inputs(), taps = spec.weight.dims[2] * spec.weight.dims[3];
  T* const to = reinterpret_cast<T*>(memory_.data());
  int64_t from = 0;
  for (int64_t o = 0; o < spec.outputs(); ++o) {
    const float step = spec.weight_steps ? spec.weight_steps->data[o] : 1.0f;
    T* const column = to + o / stretch_outputs_ * stretch_stride_ + o % stretch_outputs_;
    for (int64_t c = 0; c < inputs; ++c) {
      for (int64_t t = 0; t < taps; ++t)
        convert(spec.weight, from++, step, column + c * channel_stride_ + t * tap_stride_);
    }
  }
}

void StoredWeights::describe(PackTask* task) const {
  const bool half = precision_ == Precision::kHalf, byte = precision_ == Precision::kByte;
  task->w = half || byte ? nullptr : memory_.floats();
  task->halves = half ? reinterpret_cast<const Half*>(memory_.data()) : nullptr;
  task->bytes = byte ? reinterpret_cast<const int8_t*>(memory_.data()) : nullptr;
  task->vector_stride = stretch_stride_;
  task->channel_stride = channel_stride_;
  task->tap_stride = tap_stride_;
}

}  // namespace compress
