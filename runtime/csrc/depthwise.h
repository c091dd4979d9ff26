// A depthwise convolution of packed planes. Independent of ONNX Runtime.
#ifndef COMPRESS_DEPTHWISE_H_
#define COMPRESS_DEPTHWISE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "geometry.h"
#include "kernels/table.h"
#include "layer.h"
#include "parallel.h"
#include "scratch.h"

namespace compress {

// What a DepthwiseConv node says about itself.
struct DepthwiseSpec {
  int64_t channels = 0;  // C
  std::vector<int64_t> strides = {1, 1};
  std::vector<int64_t> pads = {0, 0, 0, 0};  // top, left, bottom, right
  std::vector<int64_t> dilations = {1, 1};
  float lower = 0.0f;
  float upper = 0.0f;
  Tensor<float> weight;  // W [C, 1, kh, kw]
  Tensor<float> shift;   // B [C]

  Axis y() const { return {weight.dims[2], strides[0], dilations[0], pads[0], pads[2]}; }
  Axis x() const { return {weight.dims[3], strides[1], dilations[1], pads[1], pads[3]}; }
  // The shape of Y, for an X that has passed check_depthwise_planes.
  Dims y_dims(const Dims& input) const {
    return {input[0], y().outputs(input[1]), x().outputs(input[2]), input[3]};
  }
};

// Each returns an empty string, or what came and what is allowed.
std::string check_depthwise(const DepthwiseSpec& spec);
// X and I of one call, against a layer that passed check_depthwise.
std::string check_depthwise_input(const DepthwiseSpec& spec, const Tensor<float>& x,
                                  const Tensor<int64_t>& index);

// The planes of X, of shape [N, H, W, …].
std::string check_depthwise_planes(const DepthwiseSpec& spec, const Dims& x);

// What a kernel reads of each channel of a depthwise convolution, channel beside channel: its weights, tap
// after tap, and some numbers more.
class FilterRows {
 public:
  FilterRows() = default;
  FilterRows(int32_t rows, int32_t channels)
      : rows_(rows),
        channels_(channels),
        values_(sizeof(float) * static_cast<size_t>(rows) * static_cast<size_t>(channels)) {}

  float* row(int32_t number) const { return values_.floats() + int64_t{number} * channels_; }

  // Those of `count` channels, in rows `pitch` floats long, whose ends beyond `count` are left as they are.
  template <typename Index>
  void gather(const Index* channels, int32_t count, int32_t pitch, float* to) const {
    for (int32_t r = 0; r < rows_; ++r, to += pitch) {
      const float* const from = row(r);
      for (int32_t j = 0; j < count; ++j) to[j] = from[channels[j]];
    }
  }
  // That gather() writes.
  int64_t floats(int32_t pitch) const { return int64_t{rows_} * pitch; }

 private:
  int32_t rows_ = 0, channels_ = 0;
  Buffer values_;
};

class DepthwiseConv {
 public:
  // Copies what it needs out of `spec`, which must have passed check_depthwise.
  DepthwiseConv(const DepthwiseSpec& spec, const KernelTable* kernels);

  // What check_depthwise_input reads; the tensors' data pointers are not valid any more.
  const DepthwiseSpec& spec() const { return spec_; }
  Window window() const { return {spec_.y(), spec_.x()}; }
  int32_t taps() const { return taps_; }

  // y [N, H', W', Cx] from inputs that have passed check_depthwise_input. Safe to call from several threads
  // at a time. Throws std::bad_alloc.
  void run(const Tensor<float>& x, const Tensor<int64_t>& index, float* y, const Parallel& parallel) const;

  const FilterRows& filters() const { return filters_; }
  // A task that reads such rows.
  DepthwiseTask task(const float* rows, int32_t pitch) const;

 private:
  DepthwiseSpec spec_;
  const KernelTable* kernels_;
  int32_t taps_;
  FilterRows filters_;  // the weights of each tap, B, and what planes of zeros become, negative
  mutable LastGeometry geometry_;
};

}  // namespace compress

#endif  // COMPRESS_DEPTHWISE_H_
