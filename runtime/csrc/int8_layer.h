// What an FBSConvInt8 or FBSConvDepthwiseInt8 node says about itself, and every check of it. Independent of
// ONNX Runtime.
#ifndef COMPRESS_INT8_LAYER_H_
#define COMPRESS_INT8_LAYER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "depthwise.h"
#include "layer.h"

namespace compress {

// A tensor of bytes q stands for step * (q - zero).
struct Int8Scale {
  float step = 0.0f;
  int64_t zero = 0;
};

// The depthwise convolution behind a layer, as DepthwiseSpec, whose `weight` has sizes only.
struct Int8Depthwise {
  DepthwiseSpec spec;
  Tensor<int8_t> weight;      // V [K, 1, kh, kw]
  Tensor<float> weight_step;  // G [K]
  Int8Scale between;          // of the planes that it reads
};

// As LayerSpec, whose W is int8 here: its `weight` has sizes only.
struct Int8Spec {
  LayerSpec layer;
  Tensor<int8_t> weight;                    // W [K, C, kh, kw]
  Tensor<float> weight_step;                // S [K]
  std::optional<Tensor<int32_t>> left_out;  // E [C] or absent
  Int8Scale x, y;
  std::optional<Int8Depthwise> depthwise;

  // Of the planes that come out of the layer itself.
  const Int8Scale& made() const { return depthwise ? depthwise->between : y; }
  // The shape of Y, for an X that has passed check_int8_input.
  Dims y_dims(const Dims& input) const;
};

// Products of a byte and a weight, in the worst case, that a sum in int32 holds.
inline constexpr int64_t kMostInt8Terms = 2147483647 / (255 * 128);

// And of a depthwise convolution, whose sums are whole numbers held in floats.
inline constexpr int64_t kMostInt8Taps = (1 << 24) / (255 * 128);

// Steps of X that E may say, either way.
inline constexpr int32_t kMostLeftOut = 65535;

// Each returns an empty string, or what came and what is allowed.
std::string check_scale(const std::string& name, const Int8Scale& scale);  // <name>_step, <name>_zero
std::string check_zero(const std::string& name, int64_t zero);
std::string check_int8_layer(const Int8Spec& spec);
// X and I of one call, against a layer that passed check_int8_layer.
std::string check_int8_input(const Int8Spec& spec, const Tensor<uint8_t>& x, const Tensor<int64_t>& index);

}  // namespace compress

#endif  // COMPRESS_INT8_LAYER_H_
