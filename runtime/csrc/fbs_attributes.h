// What FBSConv and FBSConvInt8 read and infer alike.
#ifndef COMPRESS_FBS_ATTRIBUTES_H_
#define COMPRESS_FBS_ATTRIBUTES_H_

#include <optional>

#include "layer.h"
#include "ort_access.h"
#include "shape_inference.h"
#include "window.h"

namespace compress {

// What attributes of the depthwise convolution behind a layer begin with.
inline constexpr char kDepthwisePrefix[] = "depthwise_";

// Everything but the weights: the attributes, and the constants B, A and R, which are inputs `first` to
// `first` + 2. `may_be_bytes`: A.
inline void read_fbs_layer(const Api& api, const OrtKernelInfo* info, size_t first, bool may_be_bytes,
                           LayerSpec* spec) {
  if (!attribute(api, info, "winners", &spec->winners))
    require("attribute winners is missing; it must be an int");
  read_window(api, info, spec);
  attribute(api, info, "group", &spec->group);
  attribute(api, info, "saliency_slope", &spec->saliency_slope);
  attribute(api, info, "normalize", &spec->normalize);
  attribute(api, info, "winner_block", &spec->winner_block);  // absent in older files: 1
  spec->shift = constant(api, info, first, "B");
  spec->saliency_weight = constant_weights(api, info, first + 1, "A", may_be_bytes);
  spec->saliency_bias = constant(api, info, first + 2, "R");
}

// Sizes of Y, of element type `type`, and J as far as X's shape and the constants' shapes tell them. Wrong
// shapes are left to the kernel, which explains them. `depthwise`: the input that holds the filters of the
// depthwise convolution behind it, 0 where there is none.
inline void infer_fbs_layer(const Api& api, OrtShapeInferContext* context, ort::ElementType type,
                            size_t depthwise = 0) {
  const std::optional<InferredShape> x = inferred_input(api, context, 0);
  const std::optional<InferredShape> w = inferred_input(api, context, 2);
  int64_t winners = 0;
  if (!x || !w || x->size() != 4 || w->size() != 4 ||
      !inferred_attribute(api, context, "winners", ort::kAttributeInt, &winners, 1)) {
    return;
  }
  InferredShape y = {x->at(0), {}, {}, {winners, ""}};
  const int64_t kernel[2] = {w->at(2).value, w->at(3).value};
  inferred_window(api, context, kernel, &x->at(1), &y[1]);
  if (depthwise > 0) {
    const std::optional<InferredShape> v = inferred_input(api, context, depthwise);
    if (!v || v->size() != 4) return;
    const InferredSize between[2] = {y[1], y[2]};
    const int64_t filter[2] = {v->at(2).value, v->at(3).value};
    y[1] = y[2] = {};
    inferred_window(api, context, filter, between, &y[1], kDepthwisePrefix);
  }
  set_inferred_output(api, context, 0, type, y);
  set_inferred_output(api, context, 1, ort::kInt64, {x->at(0), {winners, ""}});
}

}  // namespace compress

#endif  // COMPRESS_FBS_ATTRIBUTES_H_
