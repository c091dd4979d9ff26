// The scales that the ops on bytes have as attributes.
#ifndef COMPRESS_INT8_ATTRIBUTES_H_
#define COMPRESS_INT8_ATTRIBUTES_H_

#include <string>

#include "int8_layer.h"
#include "ort_access.h"

namespace compress {

// Of attributes <name>_step and <name>_zero, unchecked.
inline Int8Scale read_scale(const Api& api, const OrtKernelInfo* info, const std::string& name) {
  Int8Scale scale;
  if (!attribute(api, info, (name + "_step").c_str(), &scale.step))
    require("attribute " + name + "_step is missing; it must be a float");
  attribute(api, info, (name + "_zero").c_str(), &scale.zero);
  return scale;
}

}  // namespace compress

#endif  // COMPRESS_INT8_ATTRIBUTES_H_
