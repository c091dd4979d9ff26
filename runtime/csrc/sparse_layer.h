// What a SparseConv node says about itself, and every check of it. Independent of ONNX Runtime.
#ifndef COMPRESS_SPARSE_LAYER_H_
#define COMPRESS_SPARSE_LAYER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "geometry.h"
#include "layer.h"

namespace compress {

// Attributes and constant inputs.
struct SparseSpec {
  int64_t channels = 0;
  std::vector<int64_t> kernel_shape;
  std::vector<int64_t> strides = {1, 1};
  std::vector<int64_t> pads = {0, 0, 0, 0};  // top, left, bottom, right
  std::vector<int64_t> dilations = {1, 1};
  float lower = 0.0f;
  float upper = 0.0f;
  Tensor<float> weight;    // W [K, R]
  Tensor<uint8_t> places;  // P: bit i of all bytes, lowest first, is 1 where row i of channels * taps exists
  Tensor<float> bias;      // B [K]

  int64_t outputs() const { return weight.dims[0]; }
  int64_t num_rows() const { return weight.dims[1]; }
  int64_t taps() const { return kernel_shape[0] * kernel_shape[1]; }
  bool has_row(int64_t place) const { return (places.data[place / 8] >> (place % 8) & 1) != 0; }
  Axis y() const { return {kernel_shape[0], strides[0], dilations[0], pads[0], pads[2]}; }
  Axis x() const { return {kernel_shape[1], strides[1], dilations[1], pads[1], pads[3]}; }
};

// Each returns an empty string, or what came and what is allowed.
std::string check_sparse(const SparseSpec& spec);
// X of one call, against a layer that passed check_sparse.
std::string check_sparse_input(const SparseSpec& spec, const Dims& x);

}  // namespace compress

#endif  // COMPRESS_SPARSE_LAYER_H_
