// Random FBSConv layers, what must come of them by plain loops in double precision, and ways to damage them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "host_parts.h"
#include "layer.h"

namespace host {

using compress::Dims;
using compress::LayerSpec;
using compress::Tensor;

// One layer, one input, and what must come out.
struct FbsCase {
  LayerSpec spec;
  std::vector<float> w, b, a, r, d, e, x;
  std::vector<compress::Half> half_w, half_a;  // the same as w and a, or empty
  std::vector<int8_t> byte_w, byte_a;          // likewise, in steps
  std::vector<float> p, q;                     // the steps
  std::vector<int64_t> index;
  Dims x_dims, index_dims;

  Tensor<float> input() const { return {x.data(), x_dims}; }
  Tensor<int64_t> places() const { return {index.data(), index_dims}; }
};

// What a case may be told instead of leaving it to chance.
struct Shape {
  int64_t outputs, channels, height, width, kernel, stride, dilation;
};

// Random halves in place of `values`, which become the same numbers.
inline std::vector<compress::Half> halved(std::vector<float>& values, Random& random) {
  std::vector<compress::Half> halves = random.halves(static_cast<int64_t>(values.size()));
  std::transform(halves.begin(), halves.end(), values.begin(),
                 [](compress::Half half) { return compress::to_float(half); });
  return halves;
}

// Random bytes in place of `values` [outer][steps][inner], which become the same numbers, of about the size
// they had.
inline std::vector<int8_t> made_of_bytes(std::vector<float>& values, std::vector<float>& steps, int64_t outer,
                                         int64_t outputs, float size, Random& random) {
  const std::vector<int8_t> bytes = random.bytes(static_cast<int64_t>(values.size()));
  for (int64_t o = 0; o < outputs; ++o)
    steps.push_back(size / 70.0f * static_cast<float>(random.integer(1, 64)) / 32.0f);
  const size_t inner = values.size() / static_cast<size_t>(outer * outputs);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = steps[i / inner % static_cast<size_t>(outputs)] * static_cast<float>(bytes[i]);
  return bytes;
}

inline void fill(FbsCase& c, const Dims& weight, const Dims& plane, Random& random) {
  const int64_t outputs = weight[0], channels = weight[1];
  LayerSpec& spec = c.spec;
  spec.winners = random.chance(0.3) ? outputs : random.integer(1, outputs);
  spec.lower = random.chance(0.5) ? 0.0f : -std::numeric_limits<float>::max();
  spec.upper = random.chance(0.5) ? 6.0f : std::numeric_limits<float>::max();
  spec.saliency_slope = random.chance(0.5) ? 0.0f : 0.25f;
  spec.normalize = random.integer(0, 1);
  spec.winner_block = random.chance(0.7) ? 1 : random.integer(2, 20);
  // Sums of about 1, so that the clamp does not hide how large the terms were.
  const int64_t terms = channels * weight[2] * weight[3];
  const float weight_size = 1.0f / std::sqrt(static_cast<float>(terms));
  const float saliency_size = 1.0f / std::sqrt(static_cast<float>(channels));
  c.w = random.floats(outputs * terms, weight_size);
  c.b = random.floats(outputs);
  c.a = random.floats(channels * outputs, saliency_size);
  c.r = random.floats(outputs);
  for (float& value : c.r) value += 2.0f;  // a sum near 0 would let normalisation blow up the rounding
  if (random.chance(0.3)) {                // these win always, so that their vectors lie together
    for (int64_t o = 0; o < spec.winners; ++o) c.r[static_cast<size_t>(o)] += 8.0f;
  }
  c.d = random.floats(outputs);
  spec.weight = {c.w.data(), nullptr, weight};
  spec.shift = {c.b.data(), {outputs}};
  spec.saliency_weight = {c.a.data(), nullptr, {channels, outputs}};
  if (random.chance(0.3)) {
    c.half_w = halved(c.w, random);
    spec.weight = {nullptr, c.half_w.data(), weight};
  } else if (random.chance(0.4)) {
    c.byte_w = made_of_bytes(c.w, c.p, 1, outputs, weight_size, random);
    spec.weight = {nullptr, nullptr, weight, c.byte_w.data()};
    spec.weight_steps = Tensor<float>{c.p.data(), {outputs}};
  }
  if (random.chance(0.3)) {
    c.half_a = halved(c.a, random);
    spec.saliency_weight = {nullptr, c.half_a.data(), {channels, outputs}};
  } else if (random.chance(0.4)) {
    c.byte_a = made_of_bytes(c.a, c.q, channels, outputs, saliency_size, random);
    spec.saliency_weight = {nullptr, nullptr, {channels, outputs}, c.byte_a.data()};
    spec.saliency_steps = Tensor<float>{c.q.data(), {outputs}};
  }
  spec.saliency_bias = {c.r.data(), {outputs}};
  if (random.chance(0.3)) spec.post_shift = Tensor<float>{c.d.data(), {outputs}};
  c.e = random.floats(channels);
  if (random.chance(0.3)) spec.left_out = Tensor<float>{c.e.data(), {channels}};

  const int64_t live = random.chance(0.4) ? channels : random.integer(1, channels);
  c.x_dims = {plane[0], plane[1], plane[2], live};
  c.x = random.floats(plane[0] * plane[1] * plane[2] * live);
  c.index_dims = {random.chance(0.3) ? 1 : plane[0], live};
  for (int64_t n = 0; n < c.index_dims[0]; ++n) {
    const std::vector<int64_t> row = random.subset(live, channels);
    c.index.insert(c.index.end(), row.begin(), row.end());
  }
}

inline FbsCase shaped_case(const Shape& shape, Random& random) {
  FbsCase c;
  c.spec.strides = {shape.stride, shape.stride};
  c.spec.dilations = {shape.dilation, shape.dilation};
  c.spec.pads = std::vector<int64_t>(4, shape.dilation * (shape.kernel / 2));
  fill(c, {shape.outputs, shape.channels, shape.kernel, shape.kernel}, {1, shape.height, shape.width},
       random);
  return c;
}

// Plain loops over one sample; `saliency` comes from the kernels, whose choice of winners is checked apart.
inline std::vector<double> expected_sample(const FbsCase& c, int64_t n, const std::vector<int64_t>& winners,
                                           const std::vector<double>& saliency) {
  const LayerSpec& spec = c.spec;
  const int64_t height = c.x_dims[1], width = c.x_dims[2], live = c.x_dims[3];
  const int64_t channels = spec.inputs(), kh = spec.weight.dims[2], kw = spec.weight.dims[3];
  const float* x = c.x.data() + n * height * width * live;
  const int64_t* index = c.index.data() + (c.index_dims[0] == 1 ? 0 : n * live);
  std::vector<double> y;
  for (int64_t oy = 0; oy < spec.y().outputs(height); ++oy) {
    for (int64_t ox = 0; ox < spec.x().outputs(width); ++ox) {
      for (const int64_t o : winners) {
        double sum = c.b[static_cast<size_t>(o)];
        for (int64_t ky = 0; ky < kh; ++ky) {
          for (int64_t kx = 0; kx < kw; ++kx) {
            const int64_t iy = oy * spec.strides[0] - spec.pads[0] + ky * spec.dilations[0];
            const int64_t ix = ox * spec.strides[1] - spec.pads[1] + kx * spec.dilations[1];
            if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
            for (int64_t i = 0; i < live; ++i) {
              sum += static_cast<double>(x[(iy * width + ix) * live + i]) *
                     static_cast<double>(
                         c.w[static_cast<size_t>(((o * channels + index[i]) * kh + ky) * kw + kx)]);
            }
          }
        }
        sum *= saliency[static_cast<size_t>(o)];
        if (spec.post_shift) sum += static_cast<double>(c.d[static_cast<size_t>(o)]);
        y.push_back(std::clamp(sum, static_cast<double>(spec.lower), static_cast<double>(spec.upper)));
      }
    }
  }
  return y;
}

inline std::vector<double> expected_saliency(const FbsCase& c, int64_t n) {
  const int64_t pixels = c.x_dims[1] * c.x_dims[2], live = c.x_dims[3], outputs = c.spec.outputs();
  const float* x = c.x.data() + n * pixels * live;
  const int64_t* index = c.index.data() + (c.index_dims[0] == 1 ? 0 : n * live);
  std::vector<double> s(c.r.begin(), c.r.end());
  for (int64_t channel = 0, i = 0; channel < c.spec.inputs(); ++channel) {
    const bool exists = i < live && index[i] == channel;
    const double left_out = c.spec.left_out ? static_cast<double>(c.e[static_cast<size_t>(channel)]) : 0.0;
    double mean = exists ? 0.0 : std::abs(left_out);
    for (int64_t p = 0; exists && p < pixels; ++p) {
      mean += std::abs(static_cast<double>(x[p * live + i]) + left_out) / static_cast<double>(pixels);
    }
    i += exists ? 1 : 0;
    for (int64_t o = 0; o < outputs; ++o) {
      s[static_cast<size_t>(o)] +=
          mean * static_cast<double>(c.a[static_cast<size_t>(channel * outputs + o)]);
    }
  }
  double sum = 0;
  for (double& value : s) {
    if (value < 0) value *= static_cast<double>(c.spec.saliency_slope);
    sum += value;
  }
  if (c.spec.normalize != 0 && sum != 0) {
    for (double& value : s) value *= static_cast<double>(outputs) / sum;
  }
  return s;
}

// What outputs compete by: the mean saliency of their block.
inline std::vector<double> block_means(const std::vector<double>& saliency, size_t block) {
  std::vector<double> means(saliency.size());
  for (size_t o = 0; o < means.size(); ++o) {
    const auto first = saliency.begin() + static_cast<std::ptrdiff_t>(o / block * block);
    const auto last =
        saliency.begin() + static_cast<std::ptrdiff_t>(std::min(o / block * block + block, saliency.size()));
    means[o] = std::accumulate(first, last, 0.0) / static_cast<double>(last - first);
  }
  return means;
}

// The winners must be k of the largest saliencies, up to rounding.
inline void expect_winners(const std::vector<double>& saliency, const std::vector<int64_t>& winners,
                           const std::string& name) {
  double worst_winner = std::numeric_limits<double>::infinity(), best_loser = -worst_winner, largest = 1;
  for (size_t o = 0; o < saliency.size(); ++o) {
    const bool wins = std::binary_search(winners.begin(), winners.end(), static_cast<int64_t>(o));
    (wins ? worst_winner : best_loser) =
        wins ? std::min(worst_winner, saliency[o]) : std::max(best_loser, saliency[o]);
    largest = std::max(largest, std::abs(saliency[o]));
  }
  expect(worst_winner >= best_loser - kTolerance * largest,
         name + ": a loser was more salient than a winner");
}

// Changes something that a file or a caller decides freely: a tensor's data always has the size its shape
// says.
inline void damage(FbsCase* c, Random& random) {
  const std::vector<int64_t> odd = {0,
                                    1,
                                    -1,
                                    2,
                                    3,
                                    17,
                                    4096,
                                    4097,
                                    int64_t{1} << 31,
                                    int64_t{1} << 40,
                                    std::numeric_limits<int64_t>::max(),
                                    std::numeric_limits<int64_t>::min()};
  const auto change = [&](std::vector<int64_t>& values) {
    if (random.chance(0.2)) {
      random.chance(0.5) || values.empty() ? values.push_back(1) : values.pop_back();
    } else if (!values.empty()) {
      values[static_cast<size_t>(random.integer(0, static_cast<int64_t>(values.size()) - 1))] =
          random.one_of(odd);
    }
  };
  switch (random.integer(0, 5)) {
    case 0:
      c->spec.winners = random.one_of(odd);
      break;
    case 1:
      change(c->spec.strides);
      break;
    case 2:
      change(c->spec.pads);
      break;
    case 3:
      change(c->spec.dilations);
      break;
    case 4:
      change(c->index);
      c->index.resize(static_cast<size_t>(c->index_dims[0] * c->index_dims[1]));
      break;
    default:
      c->spec.normalize = random.one_of(odd);
  }
}

}  // namespace host
