#include "int8_layer.h"

#include <cmath>

namespace compress {

namespace {

bool is_step(float value) { return value > 0.0f && std::isfinite(value); }

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
  if (spec.weight_step.dims != Dims({w[0]})) {
    return "S has shape " + text(spec.weight_step.dims) + "; with W of shape " + text(w) + " it must be [" +
           std::to_string(w[0]) + "]";
  }
  for (int64_t o = 0; o < w[0]; ++o) {
    if (!is_step(spec.weight_step.data[o])) {
      return "S[" + std::to_string(o) + "] is " + std::to_string(spec.weight_step.data[o]) +
             "; it must be a positive number";
    }
  }
  return "";
}

std::string check_int8_input(const Int8Spec& spec, const Tensor<uint8_t>& x, const Tensor<int64_t>& index) {
  return check_input(spec.layer, {nullptr, x.dims}, index);
}

}  // namespace compress
