// Drives FbsConvInt8, with and without a depthwise convolution behind it, and the residual sums of bytes
// without ONNX Runtime: ragged and random layers with a fixed seed, every instruction set and number of
// threads held bit for bit against the first, that against plain loops; damaged layers; eight threads in one
// layer. Built with sanitizers; every buffer has exactly the size it must have, so that a read or write
// beyond it is seen. Prints one line and exits with 0 when all is well.
//   compress_int8_host [random cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "fbs_cases.h"
#include "host_parts.h"
#include "int8_conv.h"
#include "int8_layer.h"
#include "isa.h"
#include "laid_plane.h"
#include "parallel.h"
#include "unpack.h"

namespace {

using compress::FbsConvInt8;
using compress::Int8Spec;
using compress::Isa;
using compress::Parallel;
using compress::Tensor;
using host::expect;
using host::kTolerance;
using host::Random;
using host::run_on_threads;

// One layer and one input, with the memory behind them.
struct Case {
  Int8Spec spec;
  std::vector<int8_t> w;
  std::vector<float> s, b, a, r, d;
  std::vector<compress::Half> half_a;  // the same as a, or empty
  std::vector<int8_t> byte_a;          // likewise, in steps
  std::vector<float> q;
  std::vector<int32_t> e;
  std::vector<int8_t> v;
  std::vector<float> g, f;
  std::vector<uint8_t> x;
  std::vector<int64_t> index;
  compress::Dims x_dims, index_dims;

  void point() {
    spec.weight.data = w.data();
    spec.weight_step.data = s.data();
    spec.layer.shift.data = b.data();
    compress::Weights& predictor = spec.layer.saliency_weight;
    predictor.halves = half_a.empty() ? nullptr : half_a.data();
    predictor.bytes = byte_a.empty() ? nullptr : byte_a.data();
    predictor.floats = half_a.empty() && byte_a.empty() ? a.data() : nullptr;
    if (spec.layer.saliency_steps) spec.layer.saliency_steps->data = q.data();
    if (spec.left_out) spec.left_out->data = e.data();
    if (spec.depthwise) {
      spec.depthwise->weight.data = v.data();
      spec.depthwise->weight_step.data = g.data();
      spec.depthwise->spec.shift.data = f.data();
    }
    spec.layer.saliency_bias.data = r.data();
    if (spec.layer.post_shift) spec.layer.post_shift->data = d.data();
  }
  Tensor<uint8_t> input() const { return {x.data(), x_dims}; }
  Tensor<int64_t> places() const { return {index.data(), index_dims}; }
  int64_t height() const { return spec.layer.y().outputs(x_dims[1]); }
  int64_t width() const { return spec.layer.x().outputs(x_dims[2]); }
  size_t results() const {
    const compress::Dims y = spec.y_dims(x_dims);
    return static_cast<size_t>(y[0] * y[1] * y[2] * y[3]);
  }
  // The layer without what is behind it.
  Case alone() const {
    Case c = *this;
    c.spec.y = spec.made();
    c.spec.depthwise.reset();
    c.point();
    return c;
  }
};

struct Result {
  std::vector<uint8_t> y;
  std::vector<int64_t> j;
  bool operator==(const Result&) const = default;
};

// Weights and inputs of both signs at their extremes too; whatever the sizes are, steps of y that use its
// range.
void fill(Case& c, int64_t outputs, int64_t channels, Random& random) {
  Int8Spec& spec = c.spec;
  const int64_t taps = spec.weight.dims[2] * spec.weight.dims[3];
  spec.weight.dims[0] = outputs;
  spec.weight.dims[1] = channels;
  spec.layer.weight.dims = spec.weight.dims;
  spec.layer.winners = random.chance(0.3) ? outputs : random.integer(1, outputs);
  spec.layer.lower = random.chance(0.7) ? 0.0f : -std::numeric_limits<float>::max();
  spec.layer.upper = random.chance(0.3) ? 6.0f : std::numeric_limits<float>::max();
  spec.layer.saliency_slope = random.chance(0.5) ? 0.0f : 0.25f;
  spec.layer.normalize = random.integer(0, 1);
  spec.layer.winner_block = random.chance(0.7) ? 1 : random.integer(2, 20);
  spec.x = {0.02f, random.chance(0.6) ? 0 : random.integer(0, 255)};
  spec.y = {0.04f, random.chance(0.6) ? 0 : random.integer(0, 255)};
  const bool extreme = random.chance(0.1);
  for (int64_t i = 0; i < outputs * channels * taps; ++i)
    c.w.push_back(
        static_cast<int8_t>(extreme ? (random.chance(0.5) ? -128 : 127) : random.integer(-128, 127)));
  for (int64_t o = 0; o < outputs; ++o)
    c.s.push_back(0.03f / std::sqrt(static_cast<float>(channels * taps)) *
                  static_cast<float>(random.integer(1, 4)));
  c.b = random.floats(outputs);
  c.a = random.floats(channels * outputs, 0.3f / std::sqrt(static_cast<float>(channels)));
  if (random.chance(0.3)) {
    c.half_a = random.halves(channels * outputs);
    for (size_t i = 0; i < c.a.size(); ++i) c.a[i] = compress::to_float(c.half_a[i]);
  } else if (random.chance(0.4)) {
    c.byte_a = host::made_of_bytes(c.a, c.q, channels, outputs, 1.0f, random);
    spec.layer.saliency_steps = Tensor<float>{nullptr, {outputs}};
  }
  if (random.chance(0.4)) {
    for (int64_t i = 0; i < channels; ++i) c.e.push_back(static_cast<int32_t>(random.integer(-300, 300)));
    if (extreme) c.e.front() = compress::kMostLeftOut;
    spec.left_out = Tensor<int32_t>{nullptr, {channels}};
  }
  c.r = random.floats(outputs);
  for (float& value : c.r) value += 2.0f;
  c.d = random.floats(outputs);
  spec.weight_step.dims = {outputs};
  spec.layer.shift.dims = {outputs};
  spec.layer.saliency_weight.dims = {channels, outputs};
  spec.layer.saliency_bias.dims = {outputs};
  if (random.chance(0.3)) spec.layer.post_shift = Tensor<float>{nullptr, {outputs}};

  const int64_t samples = c.x_dims[0], live = random.chance(0.4) ? channels : random.integer(1, channels);
  c.x_dims[3] = live;
  for (int64_t i = 0; i < samples * c.x_dims[1] * c.x_dims[2] * live; ++i)
    c.x.push_back(static_cast<uint8_t>(extreme ? (random.chance(0.8) ? 255 : 0) : random.integer(0, 255)));
  c.index_dims = {random.chance(0.3) ? 1 : samples, live};
  for (int64_t n = 0; n < c.index_dims[0]; ++n) {
    const std::vector<int64_t> row = random.subset(live, channels);
    c.index.insert(c.index.end(), row.begin(), row.end());
  }
  c.point();
}

Case random_case(Random& random) {
  const std::vector<int64_t> sizes = {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65, 130};
  Case c;
  do {
    const int64_t kernel = random.one_of({1, 3, 3, 5});
    c.spec.weight.dims = {1, 1, kernel, random.chance(0.8) ? kernel : random.one_of({1, 2, 3})};
    c.spec.layer.weight.dims = c.spec.weight.dims;
    c.spec.layer.strides = {random.integer(1, 3), random.integer(1, 3)};
    c.spec.layer.dilations = {random.one_of({1, 1, 2}), random.one_of({1, 1, 2})};
    for (int64_t& pad : c.spec.layer.pads) pad = random.integer(0, 3);
    c.x_dims = {random.integer(1, 3), random.integer(1, 15), random.integer(1, 17), 1};
  } while (c.height() < 1 || c.width() < 1);
  fill(c, random.one_of(sizes), random.one_of(sizes), random);
  return c;
}

// A depthwise convolution behind a layer, with sums from one end of its range to the other.
void put_behind(Case& c, Random& random) {
  compress::Int8Depthwise depthwise;
  compress::DepthwiseSpec& spec = depthwise.spec;
  const int64_t outputs = c.spec.layer.outputs();
  spec.channels = outputs;
  do {
    const int64_t kernel = random.one_of({1, 3, 3, 5});
    spec.weight.dims = {outputs, 1, kernel, random.chance(0.8) ? kernel : random.one_of({1, 2, 3})};
    spec.strides = {random.integer(1, 3), random.integer(1, 3)};
    spec.dilations = {random.one_of({1, 1, 2}), random.one_of({1, 1, 2})};
    for (int64_t& pad : spec.pads) pad = random.integer(0, 3);
  } while (spec.y().outputs(c.height()) < 1 || spec.x().outputs(c.width()) < 1);
  spec.lower = random.chance(0.7) ? 0.0f : -std::numeric_limits<float>::max();
  spec.upper = random.chance(0.5) ? 3.0f : std::numeric_limits<float>::max();
  spec.shift.dims = depthwise.weight_step.dims = {outputs};
  depthwise.weight.dims = spec.weight.dims;
  depthwise.between = c.spec.y;
  const int64_t taps = spec.weight.dims[2] * spec.weight.dims[3];
  const bool extreme = random.chance(0.1);
  for (int64_t i = 0; i < outputs * taps; ++i)
    c.v.push_back(static_cast<int8_t>(extreme ? -128 : random.integer(-128, 127)));
  for (int64_t o = 0; o < outputs; ++o)
    c.g.push_back(0.01f * static_cast<float>(random.integer(1, 4)) / std::sqrt(static_cast<float>(taps)));
  c.f = random.floats(outputs);
  c.spec.y = {0.03f, random.chance(0.3) ? 0 : random.integer(0, 255)};
  c.spec.depthwise = depthwise;
  c.point();
}

Case shaped_case(int64_t outputs, int64_t channels, int64_t kernel, int64_t size, Random& random) {
  Case c;
  c.spec.weight.dims = {1, 1, kernel, kernel};
  c.spec.layer.pads = std::vector<int64_t>(4, kernel / 2);
  c.x_dims = {1, size, size + 1, 1};
  fill(c, outputs, channels, random);
  return c;
}

Result run(const FbsConvInt8& layer, const Case& c, const Parallel& parallel) {
  Result result = {std::vector<uint8_t>(c.results(), 77),
                   std::vector<int64_t>(static_cast<size_t>(c.x_dims[0] * c.spec.layer.winners), -1)};
  layer.run(c.input(), c.places(), result.y.data(), result.j.data(), parallel);
  return result;
}

std::vector<double> expected_saliency(const Case& c, int64_t n) {
  const compress::LayerSpec& layer = c.spec.layer;
  const int64_t pixels = c.x_dims[1] * c.x_dims[2], live = c.x_dims[3], outputs = layer.outputs();
  const int64_t* index = c.index.data() + (c.index_dims[0] == 1 ? 0 : n * live);
  const auto left_out = [&](int64_t channel) { return c.e.empty() ? 0 : c.e[static_cast<size_t>(channel)]; };
  std::vector<double> means;  // in steps of X, of every channel
  for (int64_t channel = 0; channel < layer.inputs(); ++channel) means.push_back(std::abs(left_out(channel)));
  for (int64_t i = 0; i < live; ++i) {
    int64_t sum = 0;
    for (int64_t p = 0; p < pixels; ++p) {
      sum += std::abs(c.x[static_cast<size_t>((n * pixels + p) * live + i)] - c.spec.x.zero +
                      left_out(index[i]));
    }
    means[static_cast<size_t>(index[i])] = static_cast<double>(sum) / static_cast<double>(pixels);
  }
  std::vector<double> saliency(c.r.begin(), c.r.end());
  for (size_t i = 0; i < c.a.size(); ++i) {
    saliency[i % static_cast<size_t>(outputs)] += static_cast<double>(c.spec.x.step) *
                                                  means[i / static_cast<size_t>(outputs)] *
                                                  static_cast<double>(c.a[i]);
  }
  double total = 0.0;
  for (double& value : saliency) {
    if (value < 0.0) value *= static_cast<double>(layer.saliency_slope);
    total += value;
  }
  if (layer.normalize != 0 && total != 0.0) {
    for (double& value : saliency) value *= static_cast<double>(outputs) / total;
  }
  return saliency;
}

// Every byte is the nearest to what the definition gives in double precision, unless that lies halfway
// between two but for rounding.
void expect_bytes(const Case& c, const Result& result, const std::string& name) {
  const compress::LayerSpec& layer = c.spec.layer;
  const int64_t input_height = c.x_dims[1], input_width = c.x_dims[2], live = c.x_dims[3];
  const int64_t kh = c.spec.weight.dims[2], kw = c.spec.weight.dims[3], channels = layer.inputs();
  size_t at = 0;
  for (int64_t n = 0; n < c.x_dims[0]; ++n) {
    const std::vector<double> saliency = expected_saliency(c, n);
    const int64_t* index = c.index.data() + (c.index_dims[0] == 1 ? 0 : n * live);
    for (int64_t oy = 0; oy < c.height(); ++oy) {
      for (int64_t ox = 0; ox < c.width(); ++ox) {
        for (int64_t k = 0; k < layer.winners; ++k) {
          const int64_t o = result.j[static_cast<size_t>(n * layer.winners + k)];
          int64_t sum = 0;
          for (int64_t tap = 0; tap < kh * kw; ++tap) {
            const int64_t y = oy * layer.strides[0] - layer.pads[0] + tap / kw * layer.dilations[0];
            const int64_t x = ox * layer.strides[1] - layer.pads[1] + tap % kw * layer.dilations[1];
            if (y < 0 || y >= input_height || x < 0 || x >= input_width) continue;
            for (int64_t i = 0; i < live; ++i) {
              sum += (c.x[static_cast<size_t>(((n * input_height + y) * input_width + x) * live + i)] -
                      c.spec.x.zero) *
                     c.w[static_cast<size_t>((o * channels + index[i]) * kh * kw + tap)];
            }
          }
          const auto place = static_cast<size_t>(o);
          double value = static_cast<double>(sum) * static_cast<double>(c.s[place]) *
                             static_cast<double>(c.spec.x.step) +
                         static_cast<double>(c.b[place]);
          value *= saliency[place];
          if (layer.post_shift) value += static_cast<double>(c.d[place]);
          value = std::clamp(value, static_cast<double>(layer.lower), static_cast<double>(layer.upper));
          value = value / static_cast<double>(c.spec.y.step) + static_cast<double>(c.spec.y.zero);
          value = std::clamp(value, 0.0, 255.0);
          // As a fraction of the largest term: saliencies of both signs may cancel.
          const double slack = kTolerance * 255.0 * std::max(1.0, std::abs(saliency[place]));
          expect(std::abs(result.y[at] - value) <= 0.5 + slack, name + ": byte " + std::to_string(at) +
                                                                    " is " + std::to_string(result.y[at]) +
                                                                    ", not " + std::to_string(value));
          ++at;
        }
      }
    }
  }
}

// Likewise of a depthwise convolution, whose inputs are the bytes that the layer alone makes.
void expect_depthwise(const Case& c, const Result& result, const Result& between, const std::string& name) {
  const compress::Int8Depthwise& depthwise = *c.spec.depthwise;
  const compress::DepthwiseSpec& spec = depthwise.spec;
  const compress::Dims y_dims = c.spec.y_dims(c.x_dims);
  const int64_t kh = spec.weight.dims[2], kw = spec.weight.dims[3], winners = c.spec.layer.winners;
  expect(result.j == between.j, name + ": other winners than the layer alone");
  size_t at = 0;
  for (int64_t n = 0; n < y_dims[0]; ++n) {
    for (int64_t oy = 0; oy < y_dims[1]; ++oy) {
      for (int64_t ox = 0; ox < y_dims[2]; ++ox) {
        for (int64_t k = 0; k < winners; ++k) {
          const auto o = static_cast<size_t>(result.j[static_cast<size_t>(n * winners + k)]);
          int64_t sum = 0;
          for (int64_t tap = 0; tap < kh * kw; ++tap) {
            const int64_t y = oy * spec.strides[0] - spec.pads[0] + tap / kw * spec.dilations[0];
            const int64_t x = ox * spec.strides[1] - spec.pads[1] + tap % kw * spec.dilations[1];
            if (y < 0 || y >= c.height() || x < 0 || x >= c.width()) continue;
            const int64_t pixel = (n * c.height() + y) * c.width() + x;
            sum += (between.y[static_cast<size_t>(pixel * winners + k)] - depthwise.between.zero) *
                   c.v[o * static_cast<size_t>(kh * kw) + static_cast<size_t>(tap)];
          }
          const auto clamped = [&](double value) {
            return std::clamp(value, static_cast<double>(spec.lower), static_cast<double>(spec.upper));
          };
          const double shift = static_cast<double>(c.f[o]);
          double value = clamped(static_cast<double>(sum) * static_cast<double>(depthwise.between.step) *
                                     static_cast<double>(c.g[o]) +
                                 shift);
          value = (value - clamped(shift)) / static_cast<double>(c.spec.y.step);
          value = std::clamp(value + static_cast<double>(c.spec.y.zero), 0.0, 255.0);
          expect(std::abs(result.y[at] - value) <= 0.5 + kTolerance * 255.0,
                 name + ": byte " + std::to_string(at) + " is " + std::to_string(result.y[at]) + ", not " +
                     std::to_string(value));
          ++at;
        }
      }
    }
  }
}

void run_case(const Case& c, const std::string& number) {
  expect(check_int8_layer(c.spec).empty(), number + ": refused: " + check_int8_layer(c.spec));
  expect(check_int8_input(c.spec, c.input(), c.places()).empty(), number + ": input refused");
  Result first;
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const FbsConvInt8 layer(c.spec, isa->kernels);
    for (const bool threaded : {false, true}) {
      const std::string name = number + " " + isa->name + (threaded ? " threaded" : "");
      const Result result = run(layer, c, threaded ? Parallel(3, run_on_threads, nullptr) : Parallel());
      if (first.j.empty()) {
        first = result;
        if (c.spec.depthwise) {
          const Case alone = c.alone();
          expect_depthwise(c, first, run(FbsConvInt8(alone.spec, isa->kernels), alone, Parallel()), name);
        } else {
          expect_bytes(c, first, name);
        }
      }
      expect(result.j == first.j, name + ": other winners than the first run");
      expect(result.y == first.y, name + ": other bytes than the first run");
    }
  }
}

// Every field out of its range, one at a time.
void run_damaged(const Case& good) {
  const auto refuse = [&](const char* what, auto damage) {
    Case c = good;
    c.point();
    damage(c);
    expect(!check_int8_layer(c.spec).empty(), std::string("accepted: ") + what);
  };
  refuse("group 2", [](Case& c) { c.spec.layer.group = 2; });
  refuse("x_zero 256", [](Case& c) { c.spec.x.zero = 256; });
  refuse("y_zero -1", [](Case& c) { c.spec.y.zero = -1; });
  refuse("x_step 0", [](Case& c) { c.spec.x.step = 0.0f; });
  refuse("y_step NaN", [](Case& c) { c.spec.y.step = NAN; });
  refuse("a step of W of 0", [](Case& c) { c.s.back() = 0.0f; });
  refuse("an infinite step of W", [](Case& c) { c.s.back() = INFINITY; });
  refuse("too few steps of W", [](Case& c) { c.spec.weight_step.dims = {c.spec.layer.outputs() - 1}; });
  refuse("too many products", [](Case& c) {
    c.spec.weight.dims = c.spec.layer.weight.dims = {1, compress::kMostInt8Terms + 1, 1, 1};
    c.spec.layer.winners = 1;
    for (compress::Dims* dims :
         {&c.spec.layer.shift.dims, &c.spec.layer.saliency_bias.dims, &c.spec.weight_step.dims})
      *dims = {1};
    c.spec.layer.saliency_weight = {nullptr, nullptr, {compress::kMostInt8Terms + 1, 1}};
    c.spec.layer.post_shift.reset();
  });
  refuse("no winners", [](Case& c) { c.spec.layer.winners = 0; });
  refuse("steps of A where it has none", [](Case& c) {
    const bool bytes = c.spec.layer.saliency_steps.has_value();
    c.spec.layer.saliency_steps.reset();
    if (!bytes) c.spec.layer.saliency_steps = Tensor<float>{c.r.data(), {c.spec.layer.outputs()}};
  });
  if (good.spec.left_out) {
    refuse("too few of E", [](Case& c) { c.spec.left_out->dims = {c.spec.layer.inputs() + 1}; });
    refuse("too much left out", [](Case& c) { c.e.back() = -compress::kMostLeftOut - 1; });
  }
  if (!good.spec.depthwise) return;
  refuse("between_step 0", [](Case& c) { c.spec.depthwise->between.step = 0.0f; });
  refuse("between_zero 256", [](Case& c) { c.spec.depthwise->between.zero = 256; });
  refuse("a step of V of 0", [](Case& c) { c.g.back() = 0.0f; });
  refuse("too few steps of V",
         [](Case& c) { c.spec.depthwise->weight_step.dims = {c.spec.layer.outputs() + 1}; });
  refuse("too few biases", [](Case& c) { c.spec.depthwise->spec.shift.dims = {c.spec.layer.outputs() + 1}; });
  refuse("filters of another layer", [](Case& c) { c.spec.depthwise->spec.channels += 1; });
  refuse("filters too large", [](Case& c) {
    for (compress::Dims* dims : {&c.spec.depthwise->weight.dims, &c.spec.depthwise->spec.weight.dims})
      *dims = {c.spec.layer.outputs(), 1, 23, 23};
  });
}

// As many products as a sum holds, all of them the largest there are.
void run_unpack(Random& random, const std::string& number) {
  const int64_t channels = random.integer(1, random.chance(0.5) ? 20 : 140),
                live = random.integer(0, channels);
  const int64_t samples = random.integer(1, 3), height = random.integer(0, 9), width = random.integer(1, 9);
  const std::vector<int64_t> index = random.subset(live, channels);
  const int64_t pixels = samples * height * width;
  const auto bytes = [&](int64_t count) {
    std::vector<uint8_t> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<uint8_t>(random.integer(0, 255)));
    return values;
  };
  const auto scale = [&] {
    return compress::Int8Scale{static_cast<float>(random.integer(1, 40)) / 16, random.integer(0, 255)};
  };
  const std::vector<uint8_t> x = bytes(pixels * live), z = bytes(pixels * channels);
  const compress::ByteSum sum = {z.data(), scale(), scale(), scale(), random.chance(0.5) ? 0.0f : -1e9f};
  std::vector<uint8_t> unpacked(z.size(), static_cast<uint8_t>(sum.x_scale.zero)), expected(z.size());
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t i = 0; i < live; ++i) {
      unpacked[static_cast<size_t>(p * channels + index[static_cast<size_t>(i)])] =
          x[static_cast<size_t>(p * live + i)];
    }
  }
  const auto value = [](const compress::Int8Scale& s, uint8_t byte) {
    return static_cast<double>(s.step) * static_cast<double>(byte - s.zero);
  };
  const Tensor<uint8_t> input = {x.data(), {samples, height, width, live}};
  const Tensor<int64_t> places = {index.data(), {1, live}};
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const std::string who = number + " " + isa->name;
    const Parallel threads(3, run_on_threads, nullptr);
    std::vector<uint8_t> y(z.size());
    const compress::Int8Scale bytes_only = {1.0f, sum.x_scale.zero};
    compress::unpack_bytes(*isa->kernels, channels, input, places,
                           {nullptr, bytes_only, {}, bytes_only, -1e9f}, y.data(), threads);
    expect(y == unpacked, who + ": wrong bytes unpacked");
    compress::unpack_bytes(*isa->kernels, channels, input, places, sum, y.data(), threads);
    for (size_t i = 0; i < y.size(); ++i) {
      const double wanted = std::max(value(sum.x_scale, unpacked[i]) + value(sum.z_scale, z[i]),
                                     static_cast<double>(sum.lower));
      const double step = static_cast<double>(sum.y_scale.step);
      const double places_of_y =
          std::clamp(wanted / step + static_cast<double>(sum.y_scale.zero), 0.0, 255.0);
      expect(std::abs(places_of_y - y[i]) <= 0.5 + 1e-3, who + ": wrong sum of bytes");
    }
    if (isa == compress::isas()) expected = y;
    expect(y == expected, who + ": other bytes than " + compress::isas()->name);
    std::vector<uint8_t> in_place = z;
    compress::ByteSum onto = sum;
    onto.z = in_place.data();
    compress::unpack_bytes(*isa->kernels, channels, input, places, onto, in_place.data(), threads);
    expect(in_place == expected, who + ": another sum in place");
  }
}

void run_largest_sum() {
  Case c;
  Random random(1);
  c.spec.weight.dims = {1, 1, 1, 1};
  c.x_dims = {1, 1, 1, 1};
  fill(c, 2, compress::kMostInt8Terms, random);
  std::fill(c.w.begin(), c.w.end(), static_cast<int8_t>(-128));
  c.x.assign(static_cast<size_t>(compress::kMostInt8Terms), 255);
  c.x_dims[3] = compress::kMostInt8Terms;
  c.index = random.subset(compress::kMostInt8Terms, compress::kMostInt8Terms);
  c.index_dims = {1, compress::kMostInt8Terms};
  c.spec.layer.lower = -std::numeric_limits<float>::max();
  for (const int64_t zero : {0, 255}) {
    c.spec.x.zero = zero;
    c.spec.y.zero = 200;
    c.point();
    run_case(c, "largest sum, zero " + std::to_string(zero));
  }
}

void run_concurrently(Random& random) {
  Case large = shaped_case(65, 33, 3, 14, random);
  const Case small = shaped_case(17, 15, 1, 3, random);
  put_behind(large, random);
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const FbsConvInt8 layers[2] = {FbsConvInt8(large.spec, isa->kernels),
                                   FbsConvInt8(small.spec, isa->kernels)};
    const Case* const cases[2] = {&large, &small};
    const Result expected[2] = {run(layers[0], large, Parallel()), run(layers[1], small, Parallel())};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (int turn = 0; turn < 4; ++turn) {
          const int which = (t + turn) % 2;
          const Parallel parallel = t < 4 ? Parallel() : Parallel(3, run_on_threads, nullptr);
          expect(run(layers[which], *cases[which], parallel) == expected[which],
                 std::string(isa->name) + ": threads disturb each other");
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

// The plane that a convolution reads, place by place, and what is around it untouched; a convolution of it
// has the outputs that one of the input has.
void run_laid_plane(Random& random, const std::string& number) {
  const auto axis = [&] {
    return compress::Axis{random.integer(1, 4), random.integer(1, 3), random.integer(1, 2),
                          random.integer(0, 3), random.integer(0, 3)};
  };
  const compress::Window window = {axis(), axis()};
  const int64_t height = random.integer(1, 9), width = random.integer(1, 9);
  if (window.y.outputs(height) < 1 || window.x.outputs(width) < 1) return;
  const auto channels = static_cast<int32_t>(random.integer(1, 12));
  const auto zero = static_cast<uint8_t>(random.integer(0, 255));
  std::vector<uint8_t> input(static_cast<size_t>(height * width * channels));
  for (uint8_t& value : input) value = static_cast<uint8_t>(random.integer(0, 255));
  for (const bool even : {false, true}) {
    const compress::LaidPlane plane = laid_plane(window, height, width, channels, even);
    expect(plane.y.axis.outputs(plane.y.size) == window.y.outputs(height) &&
               plane.x.axis.outputs(plane.x.size) == window.x.outputs(width),
           number + ": other outputs");
    expect(!even || plane.y.axis.pad_begin + plane.y.axis.pad_end + plane.x.axis.pad_begin == 0,
           number + ": padding is left");
    std::vector<uint8_t> laid(static_cast<size_t>(plane.bytes()));
    const int64_t half = plane.y.size / 2;
    lay_out(plane, input.data(), zero, half, plane.y.size, laid.data());
    lay_out(plane, input.data(), zero, 0, half, laid.data());
    for (int64_t r = 0; r < plane.y.size; ++r) {
      for (int64_t p = 0; p < plane.x.size; ++p) {
        const int64_t y = r * plane.y.step - plane.y.pad, x = p * plane.x.step - plane.x.pad;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        for (int64_t c = 0; c < channels; ++c) {
          const uint8_t value = inside ? input[static_cast<size_t>((y * width + x) * channels + c)] : zero;
          expect(laid[static_cast<size_t>((r * plane.x.size + p) * plane.pitch() + c)] == value,
                 number + ": a place has another value");
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
  Random random(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1);
  for (const int64_t outputs : {1, 15, 16, 17, 33}) {
    for (const int64_t channels : {1, 15, 16, 17, 33}) {
      const std::string shape = std::to_string(outputs) + " of " + std::to_string(channels);
      run_case(shaped_case(outputs, channels, 3, 1, random), shape + ", one pixel");
      run_case(shaped_case(outputs, channels, 1, 7, random), shape + ", 1x1");
    }
  }
  for (const int64_t size : {13, 40}) {  // enough work for several threads
    Case c = shaped_case(130, 64, size < 20 ? 3 : 1, size, random);
    run_case(c, "large");
    put_behind(c, random);
    run_case(c, "large, something behind it");
  }
  for (int i = 0; i < cases; ++i) {
    Case c = random_case(random);
    if (random.chance(0.5)) put_behind(c, random);
    run_case(c, "case " + std::to_string(i));
    run_damaged(c);
    run_unpack(random, "unpack " + std::to_string(i));
    run_laid_plane(random, "plane " + std::to_string(i));
  }
  run_largest_sum();
  run_concurrently(random);
  std::printf("%d int8 cases are right\n", cases);
  return 0;
}
