// What an FBSConv node says about itself, and every check of it. Independent of ONNX Runtime, so that the
// sanitizer host drives the same code.
#ifndef COMPRESS_LAYER_H_
#define COMPRESS_LAYER_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dims.h"
#include "geometry.h"
#include "half.h"

namespace compress {

template <typename T>
struct Tensor {
  const T* data = nullptr;
  Dims dims;
};

// How numbers are kept.
enum class Precision { kFloat, kHalf, kByte };

// How many take as much memory as a float.
constexpr int32_t values_per_float(Precision precision) {
  return precision == Precision::kFloat ? 1 : precision == Precision::kHalf ? 2 : 4;
}

// Numbers of one precision: all but one of the pointers are null.
struct Weights {
  const float* floats = nullptr;
  const Half* halves = nullptr;
  Dims dims;
  const int8_t* bytes = nullptr;  // in steps, of which each output has one

  Precision precision() const {
    return bytes != nullptr ? Precision::kByte : halves != nullptr ? Precision::kHalf : Precision::kFloat;
  }
  float at(int64_t i) const {
    if (bytes != nullptr) return static_cast<float>(bytes[i]);
    return halves != nullptr ? to_float(halves[i]) : floats[i];
  }
};

// Attributes and constant inputs.
struct LayerSpec {
  int64_t winners = 0;
  std::vector<int64_t> strides = {1, 1};
  std::vector<int64_t> pads = {0, 0, 0, 0};  // top, left, bottom, right
  std::vector<int64_t> dilations = {1, 1};
  int64_t group = 1;
  float lower = 0.0f;
  float upper = 0.0f;
  float saliency_slope = 0.0f;
  int64_t normalize = 0;
  int64_t winner_block = 1;
  Weights weight;                           // W [K, C, kh, kw]
  Tensor<float> shift;                      // B [K]
  Weights saliency_weight;                  // A [C, K]
  Tensor<float> saliency_bias;              // R [K]
  std::optional<Tensor<float>> post_shift;  // D [K] or absent
  std::optional<Tensor<float>> left_out;    // E [C] or absent
  // What a 1 in W and in A stands for, where they are bytes.
  std::optional<Tensor<float>> weight_steps;    // P [K]
  std::optional<Tensor<float>> saliency_steps;  // Q [K]

  int64_t outputs() const { return weight.dims[0]; }
  int64_t inputs() const { return weight.dims[1]; }
  Axis y() const { return {weight.dims[2], strides[0], dilations[0], pads[0], pads[2]}; }
  Axis x() const { return {weight.dims[3], strides[1], dilations[1], pads[1], pads[3]}; }
  // The shape of Y, for an X that has passed check_input.
  Dims y_dims(const Dims& input) const {
    return {input[0], y().outputs(input[1]), x().outputs(input[2]), winners};
  }
};

// Far above any real layer, and low enough that no product of sizes below can overflow.
inline constexpr int64_t kMaxGeometry = 4096;  // kernel, stride, dilation, pad
inline constexpr int64_t kMaxChannels = int64_t{1} << 20;

// True when the product of non-negative factors stays within an int32.
bool small_product(std::initializer_list<int64_t> factors);
// Empty where an attribute has `count` values from `least` to kMaxGeometry.
std::string check_list(const char* name, const std::vector<int64_t>& values, size_t count, int64_t least);

// The strides, pads and dilations of any of our convolutions.
template <typename Spec>
std::string check_window(const Spec& spec) {
  std::string error = check_list("strides", spec.strides, 2, 1);
  if (error.empty()) error = check_list("pads", spec.pads, 4, 0);
  if (error.empty()) error = check_list("dilations", spec.dilations, 2, 1);
  return error;
}

// Halves must be finite: instruction sets need not agree on others.
std::string check_halves(const char* name, const Weights& weights);

// Bytes need a step for each output, positive, and nothing else has any.
std::string check_steps(const char* name, const char* steps_name, const Weights& weights,
                        const std::optional<Tensor<float>>& steps, int64_t outputs);

// lower and upper of a clamp.
std::string check_bounds(float lower, float upper);

// "[2, 3]"
std::string text(std::span<const int64_t> dims);

// Each returns an empty string, or what came and what is allowed.
std::string check_layer(const LayerSpec& spec);
// X and I of one call, against a layer that passed check_layer.
std::string check_input(const LayerSpec& spec, const Tensor<float>& x, const Tensor<int64_t>& index);
// The shape of U, the means of X's planes: one a channel.
std::string check_means(const Dims& x, const Dims& means);
// The shape of X, and I, of Unpack, which has `channels` channels.
std::string check_unpack(int64_t channels, const Dims& x, const Tensor<int64_t>& index);
// The shape of Z of UnpackAdd, whose X and I have passed check_unpack.
std::string check_sum(int64_t channels, const Dims& x, const Dims& z);
// The shape of a packed Z, and K, likewise.
std::string check_packed_sum(int64_t channels, const Dims& x, const Dims& z, const Tensor<int64_t>& index);

}  // namespace compress

#endif  // COMPRESS_LAYER_H_
