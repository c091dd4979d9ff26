#include "int8_layer.h"

#include <cmath>

namespace compress {

namespace {

bool is_step(float value) { return value > 0.0f && std::isfinite(value); }

// A step for each of the outputs of `weight`.
std::string check_weight_steps(const char* name, const char* weight_name, const Dims& weight,
                               const Tensor<float>& steps) {
  const std::string named = name;
  if (steps.dims != Dims({weight[0]})) {
    return named + " has shape " + text(steps.dims) + "; with " + weight_name + " of shape " + text(weight) +
           " it must be [" + std::to_string(weight[0]) + "]";
  }
  for (int64_t o = 0; o < weight[0]; ++o) {
    if (is_step(steps.data[o])) continue;
    return named + "[" + std::to_string(o) + "] is " + std::to_string(steps.data[o]) +
           "; it must be a positive number";
  }
  return "";
}

std::string check_left_out(const Int8Spec& spec) {
  if (!spec.left_out) return "";
  const int64_t inputs = spec.layer.inputs();
  if (spec.left_out->dims != Dims({inputs})) {
    return "E has shape " + text(spec.left_out->dims) + "; it must be [" + std::to_string(inputs) + "]";
  }
  for (int64_t c = 0; c < inputs; ++c) {
    const int32_t steps = spec.left_out->data[c];
    if (steps >= -kMostLeftOut && steps <= kMostLeftOut) continue;
    return "E[" + std::to_string(c) + "] is " + std::to_string(steps) + "; it must be from " +
           std::to_string(-kMostLeftOut) + " to " + std::to_string(kMostLeftOut) + " steps of X";
  }
  return "";
}

std::string check_int8_depthwise(const Int8Depthwise& depthwise) {
  const std::string error = check_depthwise(depthwise.spec);
  if (!error.empty()) return "the depthwise convolution, its W being V and its B being F: " + error;
  const Dims& v = depthwise.weight.dims;
  if (v[2] * v[3] > kMostInt8Taps) {
    return "V has shape " + text(v) + "; a filter may have at most " + std::to_string(kMostInt8Taps) +
           " numbers";
  }
  return check_weight_steps("G", "V", v, depthwise.weight_step);
}

}  // namespace

std::string check_scale(const std::string& name, const Int8Scale& scale) {
  if (!is_step(scale.step)) {
    return name + "_step is " + std::to_string(scale.step) + "; it must be a positive number";
  }
  return check_zero(name + "_zero", scale.zero);
}

std::string check_zero(const std::string& name, int64_t zero) {
  if (zero >= 0 && zero <= 255) return "";
  return name + " is " + std::to_string(zero) + "; it must be from 0 to 255";
}

std::string check_int8_layer(const Int8Spec& spec) {
  if (const std::string error = check_layer(spec.layer); !error.empty()) return error;
  if (const std::string error = check_scale("x", spec.x); !error.empty()) return error;
  if (const std::string error = check_scale("y", spec.y); !error.empty()) return error;
  const Dims& w = spec.weight.dims;
  if (w[1] * w[2] * w[3] > kMostInt8Terms) {
    return "W has shape " + text(w) + "; an output may sum up at most " + std::to_string(kMostInt8Terms) +
           " products";
  }
  std::string error = check_weight_steps("S", "W", w, spec.weight_step);
  if (error.empty()) error = check_left_out(spec);
  if (!error.empty() || !spec.depthwise) return error;
  error = check_scale("between", spec.depthwise->between);
  return error.empty() ? check_int8_depthwise(*spec.depthwise) : error;
}

std::string check_int8_input(const Int8Spec& spec, const Tensor<uint8_t>& x, const Tensor<int64_t>& index) {
  std::string error = check_input(spec.layer, {nullptr, x.dims}, index);
  if (!error.empty() || !spec.depthwise) return error;
  error = check_depthwise_planes(spec.depthwise->spec, spec.layer.y_dims(x.dims));
  return error.empty() ? "" : "the depthwise convolution: " + error;
}

Dims Int8Spec::y_dims(const Dims& input) const {
  const Dims made = layer.y_dims(input);
  return depthwise ? depthwise->spec.y_dims(made) : made;
}

}  // namespace compress
