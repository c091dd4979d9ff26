#include "layer.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>

namespace compress {

namespace {

constexpr int64_t kMaxValues = std::numeric_limits<int32_t>::max();  // of one sample or one layer's weights

std::string integer(int64_t value) { return std::to_string(value); }

std::string check_shape(const char* name, const Dims& dims, const Dims& expected, const LayerSpec& spec) {
  if (dims == expected) return "";
  return std::string(name) + " has shape " + text(dims) + "; with W of shape " + text(spec.weight.dims) +
         " it must be " + text(expected);
}

// `name`: of the index, `of`: of the tensor whose channels it places.
std::string check_index(const Tensor<int64_t>& index, int64_t samples, int64_t packed, int64_t channels,
                        const char* name = "I", const char* of = "X") {
  if (index.dims.size() != 2 || index.dims[1] != packed || (index.dims[0] != samples && index.dims[0] != 1)) {
    return std::string(name) + " has shape " + text(index.dims) + "; " + of + " needs [" + integer(samples) +
           ", " + integer(packed) + "], or one row for all samples: [1, " + integer(packed) + "]";
  }
  for (int64_t n = 0; n < index.dims[0]; ++n) {
    int64_t previous = -1;
    for (int64_t i = 0; i < packed; ++i) {
      const int64_t value = index.data[n * packed + i];
      if (value > previous && value < channels) {
        previous = value;
        continue;
      }
      const std::string where =
          std::string(name) + "[" + integer(n) + ", " + integer(i) + "] is " + integer(value);
      if (value < 0 || value >= channels) {
        return where + "; channels go from 0 to " + integer(channels - 1);
      }
      return where + " after " + integer(previous) + "; each row must be ascending without repeats";
    }
  }
  return "";
}

}  // namespace

bool small_product(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (factor == 0) return true;
    if (product > kMaxValues / factor) return false;
    product *= factor;
  }
  return true;
}

std::string check_list(const char* name, const std::vector<int64_t>& values, size_t count, int64_t least) {
  bool good = values.size() == count;
  for (const int64_t value : values) good = good && value >= least && value <= kMaxGeometry;
  if (good) return "";
  return std::string(name) + " is " + text(values) + "; it needs " + integer(static_cast<int64_t>(count)) +
         " values from " + integer(least) + " to " + integer(kMaxGeometry);
}

std::string check_bounds(float lower, float upper) {
  if (lower <= upper) return "";
  return "lower is " + std::to_string(lower) + " and upper is " + std::to_string(upper) +
         "; lower must not be above upper";
}

std::string text(std::span<const int64_t> dims) {
  std::string result = "[";
  for (size_t i = 0; i < dims.size(); ++i) result += (i == 0 ? "" : ", ") + integer(dims[i]);
  return result + "]";
}

std::string check_halves(const char* name, const Weights& weights) {
  if (weights.halves == nullptr) return "";
  int64_t count = 1;
  for (const int64_t size : weights.dims) count *= size;
  if (std::all_of(weights.halves, weights.halves + count, is_finite)) return "";
  return std::string(name) + " holds values that are not finite; as float16 it must be finite";
}

std::string check_steps(const char* name, const char* steps_name, const Weights& weights,
                        const std::optional<Tensor<float>>& steps, int64_t outputs) {
  const bool bytes = weights.precision() == Precision::kByte;
  if (bytes != steps.has_value()) {
    return std::string(name) + (bytes ? " is int8 and " : " is not int8 and ") + steps_name +
           (bytes ? " is missing or no constant; it must hold a step for each output"
                  : " is there; it must be absent");
  }
  if (!bytes) return "";
  const Dims expected = {outputs};
  if (steps->dims != expected)
    return std::string(steps_name) + " has shape " + text(steps->dims) + "; it must be " + text(expected);
  const auto good = [](float step) {
    return step >= std::numeric_limits<float>::min() && std::isfinite(step);
  };
  const float* const end = steps->data + outputs;
  const float* const bad = std::find_if_not(steps->data, end, good);
  if (bad == end) return "";
  return std::string(steps_name) + "[" + integer(bad - steps->data) + "] is " + std::to_string(*bad) +
         "; it must be positive, normal and finite";
}

std::string check_layer(const LayerSpec& spec) {
  std::string error;
  const auto failed = [&](std::string found) { return !(error = std::move(found)).empty(); };

  if (spec.group != 1) return "group is " + integer(spec.group) + "; only 1 is supported";
  if (failed(check_window(spec))) return error;
  const Dims& w = spec.weight.dims;
  if (w.size() != 4) return "W has shape " + text(w) + "; it must be [K, C, kh, kw]";
  for (size_t i = 0; i < 4; ++i) {
    const int64_t most = i < 2 ? kMaxChannels : kMaxGeometry;
    if (w[i] < 1 || w[i] > most)
      return "W has shape " + text(w) + "; every size must be 1 or more, up to " + integer(most);
  }
  // Weights are padded to whole vectors of outputs, halves and bytes to whole lines.
  static_assert(kLineBytes >= kLineHalves && kLineHalves >= kMaxLanes);
  if (!small_product({w[0] + kLineBytes, w[1], w[2], w[3]})) {
    return "W has shape " + text(w) + "; it may hold at most " + integer(kMaxValues) + " values";
  }
  const int64_t outputs = spec.outputs();
  if (failed(check_shape("B", spec.shift.dims, {outputs}, spec)) ||
      failed(check_shape("A", spec.saliency_weight.dims, {spec.inputs(), outputs}, spec)) ||
      failed(check_shape("R", spec.saliency_bias.dims, {outputs}, spec)) ||
      (spec.post_shift && failed(check_shape("D", spec.post_shift->dims, {outputs}, spec))) ||
      (spec.left_out && failed(check_shape("E", spec.left_out->dims, {spec.inputs()}, spec)))) {
    return error;
  }
  if (!small_product({spec.inputs(), outputs + kMaxLanes}))
    return "A has shape " + text(spec.saliency_weight.dims) + "; it is too large";
  if (failed(check_halves("W", spec.weight)) || failed(check_halves("A", spec.saliency_weight)) ||
      failed(check_steps("W", "P", spec.weight, spec.weight_steps, outputs)) ||
      failed(check_steps("A", "Q", spec.saliency_weight, spec.saliency_steps, outputs))) {
    return error;
  }
  for (int64_t o = 0; spec.weight_steps && o < outputs; ++o) {  // sums of bytes begin with it
    if (std::isinf(spec.shift.data[o] / spec.weight_steps->data[o]) && std::isfinite(spec.shift.data[o])) {
      return "P[" + integer(o) + "] is too small for B[" + integer(o) +
             "]; B / P must be within the range of float";
    }
  }
  if (spec.winners < 1 || spec.winners > outputs) {
    return "winners is " + integer(spec.winners) + "; W of shape " + text(w) + " allows 1 to " +
           integer(outputs);
  }
  if (spec.normalize != 0 && spec.normalize != 1)
    return "normalize is " + integer(spec.normalize) + "; it must be 0 or 1";
  if (spec.winner_block < 1)
    return "winner_block is " + integer(spec.winner_block) + "; it must be 1 or more";
  if (std::isnan(spec.saliency_slope)) return "saliency_slope is NaN; it must be a number, 0 for ReLU";
  return check_bounds(spec.lower, spec.upper);
}

std::string check_input(const LayerSpec& spec, const Tensor<float>& x, const Tensor<int64_t>& index) {
  const int64_t channels = spec.inputs();
  if (x.dims.size() != 4) return "X has shape " + text(x.dims) + "; it must be [N, H, W, Cx]";
  const int64_t samples = x.dims[0];
  const int64_t packed = x.dims[3];
  if (x.dims[1] < 1 || x.dims[2] < 1 || packed < 1 || packed > channels) {
    return "X has shape " + text(x.dims) +
           "; it must be [N, H, W, Cx] with H and W of 1 or more and Cx from 1 to C = " + integer(channels) +
           " (W has shape " + text(spec.weight.dims) + ")";
  }
  const int64_t height = spec.y().outputs(x.dims[1]);
  const int64_t width = spec.x().outputs(x.dims[2]);
  if (height < 1 || width < 1) {
    return "X has shape " + text(x.dims) + ", smaller than the kernel of W " + text(spec.weight.dims) +
           " with dilations " + text(spec.dilations) + " and pads " + text(spec.pads);
  }
  // Whole planes of sums, padded to whole vectors, are the largest thing computed with.
  if (!small_product({x.dims[1], x.dims[2], packed}) ||
      !small_product({height, width, spec.outputs() + kMaxLanes})) {
    return "X has shape " + text(x.dims) + "; one sample may hold at most " + integer(kMaxValues) +
           " values, in and out";
  }
  return check_index(index, samples, packed, channels);
}

std::string check_means(const Dims& x, const Dims& means) {
  const Dims expected = {x[0], x[3]};
  if (means == expected) return "";
  return "U has shape " + text(means) + "; with X of shape " + text(x) + " it must be " + text(expected);
}

std::string check_unpack(int64_t channels, const Dims& x, const Tensor<int64_t>& index) {
  if (channels < 1 || channels > kMaxChannels) {
    return "channels is " + integer(channels) + "; it must be from 1 to " + integer(kMaxChannels);
  }
  if (x.size() != 4 || x[3] > channels) {
    return "X has shape " + text(x) +
           "; it must be [N, H, W, k] with k up to channels = " + integer(channels);
  }
  if (!small_product({x[1], x[2], channels})) {
    return "X has shape " + text(x) + "; one sample may hold at most " + integer(kMaxValues) + " values";
  }
  return check_index(index, x[0], x[3], channels);
}

std::string check_sum(int64_t channels, const Dims& x, const Dims& z) {
  const Dims expected = {x[0], x[1], x[2], channels};
  if (z == expected) return "";
  return "Z has shape " + text(z) + "; with X of shape " + text(x) + " and channels " + integer(channels) +
         " it must be " + text(expected);
}

std::string check_packed_sum(int64_t channels, const Dims& x, const Dims& z, const Tensor<int64_t>& index) {
  if (z.size() != 4 || z[0] != x[0] || z[1] != x[1] || z[2] != x[2] || z[3] > channels) {
    return "Z has shape " + text(z) + "; packed, with X of shape " + text(x) +
           " it must be of as many samples and pixels, with up to channels = " + integer(channels);
  }
  return check_index(index, z[0], z[3], channels, "K", "Z");
}

}  // namespace compress
