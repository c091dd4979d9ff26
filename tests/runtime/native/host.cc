// Drives checks, layers and kernels without ONNX Runtime: ragged shapes and random layers with a fixed seed
// on every instruction set, held against plain loops in double precision; NaN inputs; one layer in eight
// threads. Built with sanitizers; every buffer has exactly the size it must have, so that a read or write
// beyond it is seen. Prints one line and exits with 0 when all is well.
//   compress_host [random cases] [seed]
//   compress_host threads    only what several threads do at a time
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "caches.h"
#include "fbs_conv.h"
#include "file_pages.h"
#include "host_parts.h"
#include "isa.h"
#include "layer.h"
#include "linear.h"
#include "max_pool.h"
#include "parallel.h"
#include "select.h"
#include "shares.h"
#include "unpack.h"

namespace {

using compress::Dims;
using compress::drop_file_pages;
using compress::FbsConv;
using compress::Isa;
using compress::LayerSpec;
using compress::Parallel;
using compress::Tensor;
using host::expect;
using host::kTolerance;
using host::Random;
using host::run_on_threads;

// One layer, one input, and what must come out.
struct Case {
  LayerSpec spec;
  std::vector<float> w, b, a, r, d, e, x;
  std::vector<compress::Half> half_w, half_a;  // the same as w and a, or empty
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
std::vector<compress::Half> halved(std::vector<float>& values, Random& random) {
  std::vector<compress::Half> halves = random.halves(static_cast<int64_t>(values.size()));
  std::transform(halves.begin(), halves.end(), values.begin(),
                 [](compress::Half half) { return compress::to_float(half); });
  return halves;
}

void fill(Case& c, const Dims& weight, const Dims& plane, Random& random) {
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
  c.w = random.floats(outputs * terms, 1.0f / std::sqrt(static_cast<float>(terms)));
  c.b = random.floats(outputs);
  c.a = random.floats(channels * outputs, 1.0f / std::sqrt(static_cast<float>(channels)));
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
  }
  if (random.chance(0.3)) {
    c.half_a = halved(c.a, random);
    spec.saliency_weight = {nullptr, c.half_a.data(), {channels, outputs}};
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

Case random_case(Random& random) {
  Case c;
  const std::vector<int64_t> sizes = {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65};
  const int64_t outputs = random.one_of(sizes);
  const int64_t channels = random.one_of(sizes);
  const int64_t kh = random.one_of({1, 3, 3, 3, 5, 7});
  const int64_t kw = random.chance(0.8) ? kh : random.one_of({1, 2, 3, 5});
  c.spec.strides = {random.integer(1, 3), random.integer(1, 3)};
  c.spec.dilations = {random.one_of({1, 1, 2, 3}), random.one_of({1, 1, 2, 3})};
  for (int64_t& pad : c.spec.pads) pad = random.integer(0, 4);
  fill(c, {outputs, channels, kh, kw}, {random.integer(1, 4), random.integer(1, 19), random.integer(1, 17)},
       random);
  return c;
}

Case shaped_case(const Shape& shape, Random& random) {
  Case c;
  c.spec.strides = {shape.stride, shape.stride};
  c.spec.dilations = {shape.dilation, shape.dilation};
  c.spec.pads = std::vector<int64_t>(4, shape.dilation * (shape.kernel / 2));
  fill(c, {shape.outputs, shape.channels, shape.kernel, shape.kernel}, {1, shape.height, shape.width},
       random);
  return c;
}

// Around whole vectors, from one pixel to many tiles.
std::vector<Shape> ragged_shapes() {
  const std::vector<int64_t> ragged = {1, 15, 16, 17, 33};
  std::vector<Shape> shapes;
  for (const int64_t outputs : ragged) {
    for (const int64_t channels : ragged) {
      shapes.push_back({outputs, channels, 1, 1, 3, 1, 1});
      shapes.push_back({outputs, channels, 5, 7, 1, 1, 1});
    }
    for (const int64_t stride : {1, 2}) {
      for (const int64_t dilation : {1, 2}) {
        shapes.push_back({outputs, 3, 1, 61, 3, stride, dilation});
        shapes.push_back({outputs, 3, 57, 1, 3, stride, dilation});
        shapes.push_back({outputs, 2, 14, 15, 3, stride, dilation});
      }
    }
    shapes.push_back({outputs, 2, 57, 61, 3, 1, 1});
  }
  // Pixels whose values share a set of the first cache level, where all inputs are live: four of ten times.
  for (int i = 0; i < 6; ++i) {
    shapes.push_back({33, 1024, 5, 7, 1, 1, 1});
    shapes.push_back({17, 512, 7, 9, 1, 2, 1});
    shapes.push_back({16, 1024, 3, 4, 3, 1, 1});
  }
  shapes.push_back({33, 3, 57, 61, 7, 2, 1});
  shapes.push_back({17, 15, 57, 61, 1, 1, 1});
  return shapes;
}

// Plain loops over one sample; `saliency` comes from the kernels, whose choice of winners is checked apart.
std::vector<double> expected_sample(const Case& c, int64_t n, const std::vector<int64_t>& winners,
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

std::vector<double> expected_saliency(const Case& c, int64_t n) {
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
std::vector<double> block_means(const std::vector<double>& saliency, size_t block) {
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
void expect_winners(const std::vector<double>& saliency, const std::vector<int64_t>& winners,
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

void run_case(const Case& c, const std::string& number, Random& random) {
  compress::assume_first_level_ways(random.chance(0.5) ? 8 : 12);  // kernels that only one of them takes
  expect(check_layer(c.spec).empty(), number + ": refused: " + check_layer(c.spec));
  const std::string refusal = check_input(c.spec, c.input(), c.places());
  const int64_t height = c.spec.y().outputs(c.x_dims[1]), width = c.spec.x().outputs(c.x_dims[2]);
  expect(refusal.empty() == (height > 0 && width > 0), number + ": wrongly refused or accepted: " + refusal);
  if (!refusal.empty()) return;

  const int64_t samples = c.x_dims[0], winners = c.spec.winners;
  std::vector<int64_t> first_j;
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const FbsConv layer(c.spec, isa->kernels);
    for (const bool threaded : {false, true}) {
      const std::string name = number + " " + isa->name + (threaded ? " threaded" : "");
      std::vector<float> y(static_cast<size_t>(samples * height * width * winners), NAN);
      std::vector<int64_t> j(static_cast<size_t>(samples * winners), -1);
      layer.run(c.input(), c.places(), y.data(), j.data(),
                threaded ? Parallel(3, run_on_threads, nullptr) : Parallel());
      if (first_j.empty()) first_j = j;
      expect(j == first_j, name + ": other winners than the first run");
      for (int64_t n = 0; n < samples; ++n) {
        const std::vector<int64_t> won(j.begin() + n * winners, j.begin() + (n + 1) * winners);
        const std::vector<double> saliency = expected_saliency(c, n);
        expect_winners(block_means(saliency, static_cast<size_t>(c.spec.winner_block)), won, name);
        const std::vector<double> expected = expected_sample(c, n, won, saliency);
        double largest = 1;
        for (const double value : expected) largest = std::max(largest, std::abs(value));
        for (size_t i = 0; i < expected.size(); ++i) {
          const double got = static_cast<double>(y[static_cast<size_t>(n) * expected.size() + i]);
          expect(std::abs(got - expected[i]) <= kTolerance * largest,
                 name + ": output " + std::to_string(i) + " is " + std::to_string(got) + ", not " +
                     std::to_string(expected[i]));
        }
      }
    }
  }
}

// NaN and infinity anywhere in the input: every instruction set picks the same winners, each of them once.
void run_not_finite(Case c, Random& random, const std::string& number) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (int i = 0; i < 3; ++i) {
    const auto at = static_cast<size_t>(random.integer(0, static_cast<int64_t>(c.x.size()) - 1));
    c.x[at] = random.chance(0.6) ? NAN : random.chance(0.5) ? infinity : -infinity;
  }
  if (!check_input(c.spec, c.input(), c.places()).empty()) return;
  const int64_t height = c.spec.y().outputs(c.x_dims[1]), width = c.spec.x().outputs(c.x_dims[2]);
  const int64_t samples = c.x_dims[0], winners = c.spec.winners;
  std::vector<int64_t> first_j;
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const std::string name = number + " not finite " + isa->name;
    std::vector<float> y(static_cast<size_t>(samples * height * width * winners));
    std::vector<int64_t> j(static_cast<size_t>(samples * winners), -1);
    FbsConv(c.spec, isa->kernels).run(c.input(), c.places(), y.data(), j.data(), Parallel());
    if (first_j.empty()) first_j = j;
    expect(j == first_j, name + ": other winners");
    for (size_t i = 0; i < j.size(); ++i) {
      const int64_t least = i % static_cast<size_t>(winners) == 0 ? 0 : j[i - 1] + 1;
      expect(j[i] >= least && j[i] < c.spec.outputs(), name + ": not an ascending list of channels");
    }
  }
}

// Layers that follow each other ask for what the next one reads: whoever that was last time, gone or not, the
// results stay.
void run_in_turn(Random& random) {
  const std::vector<Shape> shapes = {
      {33, 17, 14, 15, 3, 1, 1}, {65, 33, 9, 9, 3, 1, 1}, {48, 65, 5, 7, 1, 1, 1}};
  // So many weights that asking pays; never run.
  const Case large = shaped_case({1024, 1100, 1, 1, 1, 1, 1}, random);
  std::vector<Case> cases;
  for (const Shape& shape : shapes) cases.push_back(shaped_case(shape, random));
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const auto result = [&](const FbsConv& layer, const Case& c, bool threaded) {
      const int64_t pixels = c.x_dims[1] * c.x_dims[2];
      std::vector<float> y(static_cast<size_t>(pixels * c.spec.winners));
      std::vector<int64_t> j(static_cast<size_t>(c.spec.winners));
      layer.run(c.input(), c.places(), y.data(), j.data(),
                threaded ? Parallel(3, run_on_threads, nullptr) : Parallel());
      return y;
    };
    const FbsConv large_layer(large.spec, isa->kernels);
    std::vector<std::vector<float>> expected;
    std::vector<std::unique_ptr<FbsConv>> layers;
    for (const Case& c : cases) {
      expected.push_back(result(FbsConv(c.spec, isa->kernels), c, false));
      layers.push_back(std::make_unique<FbsConv>(c.spec, isa->kernels));
    }
    for (int turn = 0; turn < 40; ++turn) {
      const auto which = static_cast<size_t>(random.integer(0, 2));
      if (random.chance(0.2)) layers[which] = std::make_unique<FbsConv>(cases[which].spec, isa->kernels);
      expect(result(*layers[which], cases[which], random.chance(0.5)) == expected[which],
             std::string(isa->name) + ": a layer depends on those before it");
    }
  }
}

// Shares cover every vector on every tile once, in segments of up to two vectors, and are of about equal
// work.
void check_division(Random& random, const std::string& number) {
  const auto axis = [&] {
    return compress::Axis{random.integer(1, 5), random.integer(1, 2), 1, random.integer(0, 2),
                          random.integer(0, 2)};
  };
  const compress::Geometry geometry =
      make_geometry(axis(), axis(), random.integer(5, 40), random.integer(5, 40),
                    static_cast<int32_t>(random.one_of({6, 14})));
  compress::Division division = {&geometry, static_cast<int32_t>(random.integer(1, 20)),
                                 static_cast<int32_t>(random.integer(1, 9)), random.chance(0.5),
                                 random.chance(0.3) ? 0 : random.integer(0, geometry.tap_pixels)};
  std::vector<compress::Share> shares(static_cast<size_t>(division.shares));
  std::vector<compress::Segment> segments(
      static_cast<size_t>(compress::max_segments(division.vectors, division.shares)));
  divide(division, shares.data(), segments.data());
  std::vector<int> covered(static_cast<size_t>(division.vectors * geometry.num_tiles));
  int64_t largest_tile = 0;
  for (size_t t = 0; t + 1 < geometry.tile_work.size(); ++t) {
    largest_tile = std::max(largest_tile, geometry.tile_work[t + 1] - geometry.tile_work[t]);
  }
  int32_t end = 0;
  for (const compress::Share& share : shares) {
    expect(share.first == end && share.next == end && share.open == 0, number + ": shares leave a gap");
    end = share.last;
    int64_t work = 0;
    for (int32_t s = share.first; s < share.last; ++s) {
      const compress::Segment& segment = segments[static_cast<size_t>(s)];
      expect(segment.width == 1 || segment.width == 2, number + ": a segment of other than 1 or 2 vectors");
      for (int32_t v = segment.vector; v < segment.vector + segment.width; ++v) {
        for (int32_t t = segment.first_tile; t < segment.last_tile; ++t) {
          ++covered.at(static_cast<size_t>(v * geometry.num_tiles + t));
          work += geometry.tile_work[static_cast<size_t>(t) + 1] - geometry.tile_work[static_cast<size_t>(t)];
        }
      }
      if (s + 1 == share.last) expect(share.next_tile == segment.first_tile, number + ": wrong first tile");
    }
    const int64_t margin = division.by_outputs
                               ? 2 * std::min(division.pack_pixels, geometry.tap_pixels) + 4 * largest_tile
                               : division.vectors * largest_tile;
    expect(work <= division.vectors * geometry.tap_pixels / division.shares + margin + 1,
           number + ": a share is too large");
  }
  expect(std::all_of(covered.begin(), covered.end(), [](int count) { return count == 1; }),
         number + ": shares do not cover the work once");
}

// Eight threads in one layer at a time, with inputs of two sizes: what the layer remembers of a size changes
// under their hands.
void run_concurrently(const Shape& shape, Random& random) {
  constexpr size_t kThreads = 8;
  constexpr int kRounds = 6;
  const Case large = shaped_case(shape, random);
  Case small = large;  // its left half; the layer's weights stay those of `large`
  small.x_dims[2] = shape.width / 2;
  small.x.resize(static_cast<size_t>(shape.height * small.x_dims[2] * small.x_dims[3]));
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const FbsConv layer(large.spec, isa->kernels);
    const auto result = [&](const Case& c, bool threaded) {
      std::vector<float> y(static_cast<size_t>(shape.height * c.x_dims[2] * c.spec.winners));
      std::vector<int64_t> j(static_cast<size_t>(c.spec.winners));
      layer.run(c.input(), c.places(), y.data(), j.data(),
                threaded ? Parallel(3, run_on_threads, nullptr) : Parallel());
      return y;
    };
    const std::vector<float> expected[] = {result(large, false), result(small, false)};
    std::vector<std::thread> threads;
    std::vector<char> good(kThreads, 1);
    for (size_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int round = 0; round < kRounds; ++round) {
          const size_t which = (t + static_cast<size_t>(round)) % 2;
          if (result(which == 0 ? large : small, t == 0) != expected[which]) good[t] = 0;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const char one : good) expect(one != 0, std::string(isa->name) + ": threads disturb each other");
  }
}

// Any change to a good case must be refused or run; under the sanitizers, nothing else can happen.
void run_damaged(Case c, Random& random) {
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
  const auto damage = [&](std::vector<int64_t>& values) {
    if (random.chance(0.2)) {
      random.chance(0.5) || values.empty() ? values.push_back(1) : values.pop_back();
    } else if (!values.empty()) {
      values[static_cast<size_t>(random.integer(0, static_cast<int64_t>(values.size()) - 1))] =
          random.one_of(odd);
    }
  };
  // Only what a file or a caller decides freely: a tensor's data always has the size its shape says.
  switch (random.integer(0, 5)) {
    case 0:
      c.spec.winners = random.one_of(odd);
      break;
    case 1:
      damage(c.spec.strides);
      break;
    case 2:
      damage(c.spec.pads);
      break;
    case 3:
      damage(c.spec.dilations);
      break;
    case 4:
      damage(c.index);
      c.index.resize(static_cast<size_t>(c.index_dims[0] * c.index_dims[1]));
      break;
    default:
      c.spec.normalize = random.one_of(odd);
  }
  if (!check_layer(c.spec).empty() || !check_input(c.spec, c.input(), c.places()).empty()) return;
  const int64_t height = c.spec.y().outputs(c.x_dims[1]), width = c.spec.x().outputs(c.x_dims[2]);
  const int64_t values = c.x_dims[0] * height * width * c.spec.winners;
  if (values > 1 << 22) return;  // a pad of 4096: allowed, but slow here
  std::vector<float> y(static_cast<size_t>(values));
  std::vector<int64_t> j(static_cast<size_t>(c.x_dims[0] * c.spec.winners));
  FbsConv(c.spec, compress::isas()->kernels).run(c.input(), c.places(), y.data(), j.data(), Parallel());
}

void run_unpack(Random& random, const std::string& number) {
  const bool large = random.chance(0.2);  // so that threads divide it
  const int64_t channels = large ? random.integer(100, 300) : random.integer(1, 70);
  const int64_t live = random.integer(0, channels);
  const int64_t samples = random.integer(1, 3), width = random.integer(1, 9);
  const int64_t height = large ? random.integer(20, 40) : random.integer(0, 9);
  const int64_t rows = random.chance(0.5) ? 1 : samples;
  const std::vector<float> x = random.floats(samples * height * width * live);
  std::vector<int64_t> index;
  for (int64_t n = 0; n < rows; ++n) {
    const std::vector<int64_t> row = random.subset(live, channels);
    index.insert(index.end(), row.begin(), row.end());
  }
  const Tensor<float> input = {x.data(), {samples, height, width, live}};
  const Tensor<int64_t> places = {index.data(), {rows, live}};
  expect(check_unpack(channels, input.dims, places).empty(), number + ": unpack refused");
  std::vector<float> expected(static_cast<size_t>(samples * height * width * channels));
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t p = n * height * width; p < (n + 1) * height * width; ++p) {
      for (int64_t i = 0; i < live; ++i) {
        const int64_t c = index[static_cast<size_t>((rows == 1 ? 0 : n * live) + i)];
        expected[static_cast<size_t>(p * channels + c)] = x[static_cast<size_t>(p * live + i)];
      }
    }
  }
  const std::vector<float> z = random.floats(static_cast<int64_t>(expected.size()));
  const float lower = random.chance(0.5) ? 0.0f : -std::numeric_limits<float>::max();
  const Tensor<float> summand = {z.data(), {samples, height, width, channels}};
  expect(check_sum(channels, input.dims, summand.dims).empty(), number + ": sum refused");
  expect(!check_sum(channels + 1, input.dims, summand.dims).empty(),
         number + ": sum of other planes accepted");
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    std::vector<float> y(expected.size(), NAN);
    const Parallel threads(3, run_on_threads, nullptr);
    compress::unpack(*isa->kernels, channels, input, places, {nullptr, 0.0f}, y.data(), threads);
    expect(y == expected, number + " " + isa->name + ": wrong unpack");
    compress::unpack(*isa->kernels, channels, input, places, {z.data(), lower}, y.data(), threads);
    for (size_t i = 0; i < y.size(); ++i) {
      expect(y[i] == std::max(expected[i] + z[i], lower), number + " " + isa->name + ": wrong sum");
    }
  }
}

void run_max_pool(Random& random, const std::string& number) {
  compress::MaxPoolSpec spec;
  spec.kernel = {random.integer(1, 4), random.integer(1, 4)};
  spec.strides = {random.integer(1, 3), random.integer(1, 3)};
  spec.dilations = {random.one_of({1, 1, 1, 2}), random.one_of({1, 1, 1, 3})};
  for (int64_t& pad : spec.pads) pad = random.integer(0, 3);
  if (!check_max_pool(spec).empty()) return;
  const bool large = random.chance(0.2);  // so that threads divide it
  const Dims dims = {random.integer(1, 3), random.integer(1, large ? 40 : 9),
                     random.integer(1, large ? 40 : 9), random.integer(1, 40)};
  if (!check_max_pool_input(spec, dims).empty()) return;
  const int64_t channels = dims[3], height = spec.y().outputs(dims[1]), width = spec.x().outputs(dims[2]);
  const std::vector<float> x = random.floats(dims[0] * dims[1] * dims[2] * channels);
  std::vector<float> expected;
  for (int64_t i = 0; i < dims[0] * height * width * channels; ++i) {
    const int64_t c = i % channels, ox = i / channels % width, oy = i / channels / width % height;
    const float* const plane = x.data() + i / channels / width / height * dims[1] * dims[2] * channels + c;
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t ky = 0; ky < spec.kernel[0]; ++ky) {
      for (int64_t kx = 0; kx < spec.kernel[1]; ++kx) {
        const int64_t iy = oy * spec.strides[0] - spec.pads[0] + ky * spec.dilations[0];
        const int64_t ix = ox * spec.strides[1] - spec.pads[1] + kx * spec.dilations[1];
        if (iy < 0 || iy >= dims[1] || ix < 0 || ix >= dims[2]) continue;
        largest = std::max(largest, plane[(iy * dims[2] + ix) * channels]);
      }
    }
    expected.push_back(largest);
  }
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    std::vector<float> y(expected.size(), NAN);
    const compress::MaxPool pool(spec, isa->kernels);
    pool.run({x.data(), dims}, y.data(), Parallel(3, run_on_threads, nullptr));
    expect(y == expected, number + " " + isa->name + ": wrong max pool");
  }
}

void run_linear(Random& random, const std::string& number) {
  const int64_t channels = random.integer(1, 70), live = random.integer(0, channels);
  const int64_t samples = random.integer(1, 4), height = random.integer(1, 5), width = random.integer(1, 5);
  const int64_t outputs = random.chance(0.5) ? random.one_of({16, 64, 512}) : random.integer(1, 70);
  const int64_t rows = random.chance(0.5) ? 1 : samples, pixels = height * width;
  const std::vector<float> x = random.floats(samples * pixels * live);
  std::vector<int64_t> index;
  for (int64_t n = 0; n < rows; ++n) {
    const std::vector<int64_t> row = random.subset(live, channels);
    index.insert(index.end(), row.begin(), row.end());
  }
  std::vector<float> w = random.floats(channels * pixels * outputs);
  const std::vector<float> b = random.floats(outputs);
  const bool is_half = random.chance(0.5);
  const std::vector<compress::Half> halves = is_half ? halved(w, random) : std::vector<compress::Half>();
  const float lower = random.chance(0.5) ? 0.0f : -std::numeric_limits<float>::max();
  const compress::LinearSpec spec = {channels, lower, {channels * pixels, outputs}, {outputs}};
  const Tensor<float> input = {x.data(), {samples, height, width, live}};
  const Tensor<int64_t> places = {index.data(), {rows, live}};
  expect(check_linear(spec).empty() && check_linear_input(spec, input, places).empty(),
         number + ": linear refused");
  const compress::Weights weight = {is_half ? nullptr : w.data(), is_half ? halves.data() : nullptr,
                                    spec.weight};
  const Tensor<float> taller = {x.data(), {samples, height + 1, width, live}};
  expect(!check_linear_input(spec, taller, places).empty(), number + ": linear of other planes accepted");

  std::vector<double> expected(static_cast<size_t>(samples * outputs));
  double largest = 1.0;
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = static_cast<double>(b[static_cast<size_t>(o)]);
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t i = 0; i < live; ++i) {
          const int64_t c = index[static_cast<size_t>((rows == 1 ? 0 : n * live) + i)];
          sum += static_cast<double>(x[static_cast<size_t>((n * pixels + p) * live + i)]) *
                 static_cast<double>(w[static_cast<size_t>((c * pixels + p) * outputs + o)]);
        }
      }
      largest = std::max(largest, std::abs(sum));
      expected[static_cast<size_t>(n * outputs + o)] = std::max(sum, static_cast<double>(lower));
    }
  }
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const compress::Linear layer(spec, weight, b.data(), isa->kernels);
    std::vector<float> y(expected.size(), NAN);
    layer.run(input, places, weight, y.data(), Parallel(3, run_on_threads, nullptr));
    for (size_t i = 0; i < y.size(); ++i) {
      expect(std::abs(static_cast<double>(y[i]) - expected[i]) <= kTolerance * largest,
             number + " " + isa->name + ": wrong linear layer");
    }
  }
}

// More outputs than pixels, which threads divide by outputs, and the other way round.
constexpr Shape kConcurrent[] = {{33, 17, 14, 15, 3, 1, 1}, {17, 5, 40, 30, 3, 1, 1}};

// " avx2 generic"
std::string isa_names() {
  std::string names;
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (isa->supported()) names += std::string(" ") + isa->name;
  }
  return names;
}

// Whatever memory it is, and whoever has written to it: its bytes stay.
void check_file_pages(Random& random) {
  constexpr size_t kBytes = size_t{1} << 18;
  std::FILE* const file = std::tmpfile();
  expect(file != nullptr, "no temporary file");
  std::vector<unsigned char> right(kBytes);
  for (unsigned char& byte : right) byte = static_cast<unsigned char>(random.integer(0, 255));
  expect(std::fwrite(right.data(), 1, kBytes, file) == kBytes && std::fflush(file) == 0,
         "the file is not written");
  void* const mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(file), 0);
  expect(mapped != MAP_FAILED, "the file is not mapped");
  std::vector<unsigned char> heap = right;
  auto* const pages = static_cast<unsigned char*>(mapped);
  for (int turn = 0; turn < 20; ++turn) {
    const auto changed = static_cast<size_t>(random.integer(0, kBytes - 1));  // makes its page one of our own
    right[changed] = heap[changed] = pages[changed] = static_cast<unsigned char>(random.integer(0, 255));
    const auto begin = static_cast<size_t>(random.integer(0, kBytes));
    const auto end = static_cast<size_t>(random.integer(static_cast<int64_t>(begin), kBytes));
    for (const unsigned char* memory : {heap.data(), pages}) {
      drop_file_pages(memory + begin, end - begin);
      expect(std::equal(right.begin(), right.end(), memory), "dropping pages of a file changed bytes");
    }
  }
  munmap(mapped, kBytes);
  std::fclose(file);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "threads") {
    Random random(1);
    for (const Shape& shape : kConcurrent) run_concurrently(shape, random);
    std::printf("threads are right:%s\n", isa_names().c_str());
    return 0;
  }
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1);
  const std::vector<Shape> shapes = ragged_shapes();
  for (size_t i = 0; i < shapes.size(); ++i) {
    run_case(shaped_case(shapes[i], random), "shape " + std::to_string(i), random);
  }
  run_in_turn(random);
  check_file_pages(random);
  for (const Shape& shape : kConcurrent) run_concurrently(shape, random);
  for (int i = 0; i < cases; ++i) {
    const std::string number = "case " + std::to_string(i);
    const Case c = random_case(random);
    run_case(c, number, random);
    run_not_finite(c, random, number);
    for (int k = 0; k < 4; ++k) run_damaged(c, random);
    run_unpack(random, number);
    run_max_pool(random, number);
    run_linear(random, number);
    for (int k = 0; k < 10; ++k) check_division(random, number);
  }
  std::printf("%zu shapes and %d random cases are right:%s\n", shapes.size(), cases, isa_names().c_str());
  return 0;
}
