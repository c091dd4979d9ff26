// Drives checks, layers and kernels without ONNX Runtime: ragged shapes and random layers with a fixed seed
// on every instruction set, held against plain loops in double precision; NaN inputs; one layer in eight
// threads. Built with sanitizers; every buffer has exactly the size it must have, so that a read or write
// beyond it is seen. Prints one line and exits with 0 when all is well.
//   compress_host [random cases] [seed]
//   compress_host threads    only what several threads do at a time
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "caches.h"
#include "fbs_cases.h"
#include "fbs_conv.h"
#include "file_pages.h"
#include "host_parts.h"
#include "isa.h"
#include "layer.h"
#include "linear.h"
#include "matrix_cases.h"
#include "max_pool.h"
#include "parallel.h"
#include "scratch.h"
#include "select.h"
#include "shares.h"
#include "unpack.h"

namespace {

using compress::Dims;
using compress::drop_file_pages;
using compress::FbsConv;
using compress::Isa;
using compress::Parallel;
using compress::Tensor;
using compress::Way;
using host::block_means;
using host::expect;
using host::expect_winners;
using host::kTolerance;
using host::Random;
using host::run_on_threads;
using host::Shape;
using Case = host::FbsCase;

Case random_case(Random& random) {
  Case c;
  const std::vector<int64_t> sizes = {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65};
  const int64_t outputs = random.one_of(sizes);
  const int64_t channels = random.one_of(sizes);
  const int64_t kh = random.one_of({1, 3, 3, 3, 5, 7});
  const int64_t kw = random.chance(0.8) ? kh : random.one_of({1, 2, 3, 5});
  c.spec.strides = {random.integer(1, 3), random.integer(1, 3)};
  c.spec.dilations = {random.one_of({1, 1, 2, 3}), random.one_of({1, 1, 2, 3})};
  if (random.chance(0.3)) c.spec.strides = c.spec.dilations = {1, 1};
  for (int64_t& pad : c.spec.pads) pad = random.integer(0, 4);
  fill(c, {outputs, channels, kh, kw}, {random.integer(1, 4), random.integer(1, 19), random.integer(1, 17)},
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
  shapes.push_back({33, 60, 57, 61, 1, 1, 1});      // a plane from far away
  for (const int64_t channels : {1, 15, 16, 33}) {  // whole and half tiles of two outputs by two
    for (const int64_t height : {1, 2, 7, 14}) shapes.push_back({33, channels, height, 9, 3, 1, 1});
  }
  shapes.push_back({65, 65, 28, 29, 3, 1, 1});
  return shapes;
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
    // Ways that small layers would not take, where they may be taken.
    const Way forced =
        std::array{Way::kNone, Way::kWinograd, Way::kMatrix}[static_cast<size_t>(random.integer(0, 2))];
    const FbsConv layer(c.spec, isa->kernels, forced);
    std::vector<float> alone_means;
    for (const bool threaded : {false, true}) {
      const std::string name =
          number + " " + isa->name + (threaded ? " threaded " : " ") + compress::text(forced);
      std::vector<float> y(static_cast<size_t>(samples * height * width * winners), NAN);
      std::vector<int64_t> j(static_cast<size_t>(samples * winners), -1);
      std::vector<float> means(j.size(), NAN), same_y = y;
      const Parallel parallel = threaded ? Parallel(3, run_on_threads, nullptr) : Parallel();
      layer.run(c.input(), c.places(), y.data(), j.data(), parallel, {nullptr, means.data()});
      layer.run(c.input(), c.places(), same_y.data(), j.data(), parallel);
      expect(same_y == y, name + ": means change the outputs");
      if (!threaded) alone_means = means;
      expect(means == alone_means, name + ": other means");
      if (first_j.empty()) first_j = j;
      expect(j == first_j, name + ": other winners than the first run");
      for (int64_t n = 0; n < samples; ++n) {
        const std::vector<int64_t> won(j.begin() + n * winners, j.begin() + (n + 1) * winners);
        const std::vector<double> saliency = expected_saliency(c, n);
        expect_winners(block_means(saliency, static_cast<size_t>(c.spec.winner_block)), won, name);
        const std::vector<double> expected = expected_sample(c, n, won, saliency);
        const auto of_sample = means.begin() + n * winners;
        host::expect_means({of_sample, of_sample + winners},
                           y.data() + static_cast<size_t>(n) * expected.size(), height * width, {}, name);
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
                    {static_cast<int32_t>(random.one_of({6, 14, 32})), random.chance(0.5)});
  compress::Division division = {&geometry, static_cast<int32_t>(random.integer(1, 20)),
                                 static_cast<int32_t>(random.integer(1, 9)), random.chance(0.5),
                                 random.chance(0.3) ? 0 : random.integer(0, geometry.tap_pixels)};
  division.head_start = random.chance(0.5) ? 0 : random.integer(0, 2 * geometry.tap_pixels);
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
    const int64_t equal = division.vectors * geometry.tap_pixels / division.shares;
    const int64_t ahead = &share == shares.data() ? std::min(division.head_start, equal) : 0;
    expect(work <= equal + ahead + margin + 1, number + ": a share is too large");
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
  damage(&c, random);
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
  std::vector<float> expected_means;
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
    const std::vector<float> same_sum = y;
    std::vector<float> means(static_cast<size_t>(samples * channels), 7.0f);
    compress::unpack(*isa->kernels, channels, input, places, {z.data(), lower, means.data()}, y.data(),
                     threads);
    expect(y == same_sum, number + " " + isa->name + ": means change the sum");
    const std::vector<float> packed_z = random.floats(samples * height * width * live);
    std::vector<float> dense_z(expected.size()), packed_y(expected.size(), NAN),
        dense_y(expected.size(), NAN);
    const Tensor<float> packed = {packed_z.data(), input.dims};
    compress::unpack(*isa->kernels, channels, packed, places, {nullptr, 0.0f}, dense_z.data(), threads);
    compress::unpack(*isa->kernels, channels, input, places, {dense_z.data(), lower}, dense_y.data(),
                     threads);
    expect(compress::check_packed_sum(channels, input.dims, packed.dims, places).empty(),
           number + ": packed sum refused");
    compress::unpack(*isa->kernels, channels, input, places, {packed_z.data(), lower, nullptr, &places},
                     packed_y.data(), threads);
    expect(packed_y == dense_y, number + " " + isa->name + ": wrong sum of a packed summand");
    const std::vector<int64_t> none(1);
    const Tensor<int64_t> no_places = {none.data(), {1, 0}};
    compress::unpack(*isa->kernels, channels, input, places, {nullptr, lower, nullptr, &no_places},
                     packed_y.data(), threads);
    for (size_t i = 0; i < y.size(); ++i) {
      expect(packed_y[i] == std::max(expected[i], lower),
             number + " " + isa->name + ": wrong sum of nothing");
    }
    if (expected_means.empty()) expected_means = means;
    expect(height == 0 || means == expected_means, number + " " + isa->name + ": other means");
    for (int64_t i = 0; i < samples * channels; ++i) {
      double size = 0.0;
      for (int64_t p = 0; p < height * width; ++p) {
        const int64_t at = (i / channels * height * width + p) * channels + i % channels;
        size += std::abs(static_cast<double>(y[static_cast<size_t>(at)]));
      }
      size /= static_cast<double>(height * width);
      expect(
          height == 0 || std::abs(size - static_cast<double>(means[static_cast<size_t>(i)])) <= 1e-5 * size,
          number + " " + isa->name + ": wrong mean");
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
  const bool average = random.chance(0.3);
  const int64_t weighed = average ? 1 : pixels;  // of a plane
  std::vector<float> w = random.floats(channels * weighed * outputs);
  const std::vector<float> b = random.floats(outputs);
  const bool is_half = random.chance(0.5);
  const std::vector<compress::Half> halves = is_half ? halved(w, random) : std::vector<compress::Half>();
  const bool is_byte = !is_half && random.chance(0.5);
  std::vector<float> steps;
  const std::vector<int8_t> bytes =
      is_byte ? made_of_bytes(w, steps, channels * weighed, outputs, 1.0f, random) : std::vector<int8_t>();
  const float lower = random.chance(0.5) ? 0.0f : -std::numeric_limits<float>::max();
  const compress::LinearSpec spec = {channels, lower, average, {channels * weighed, outputs}, {outputs}};
  const Tensor<float> input = {x.data(), {samples, height, width, live}};
  const Tensor<int64_t> places = {index.data(), {rows, live}};
  expect(check_linear(spec).empty() && check_linear_input(spec, input, places).empty(),
         number + ": linear refused");
  const compress::Weights weight = {is_half || is_byte ? nullptr : w.data(),
                                    is_half ? halves.data() : nullptr, spec.weight,
                                    is_byte ? bytes.data() : nullptr};
  const Tensor<float> taller = {x.data(), {samples, height + 1, width, live}};
  expect(check_linear_input(spec, taller, places).empty() == average,
         number + ": linear of other planes wrongly refused or accepted");

  std::vector<double> expected(static_cast<size_t>(samples * outputs));
  double largest = 1.0;
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = static_cast<double>(b[static_cast<size_t>(o)]);
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t i = 0; i < live; ++i) {
          const int64_t c = index[static_cast<size_t>((rows == 1 ? 0 : n * live) + i)];
          const int64_t row = average ? c : c * pixels + p;
          sum += static_cast<double>(x[static_cast<size_t>((n * pixels + p) * live + i)]) *
                 static_cast<double>(w[static_cast<size_t>(row * outputs + o)]) /
                 static_cast<double>(average ? pixels : 1);
        }
      }
      largest = std::max(largest, std::abs(sum));
      expected[static_cast<size_t>(n * outputs + o)] = std::max(sum, static_cast<double>(lower));
    }
  }
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const compress::Linear layer(spec, weight, b.data(), is_byte ? steps.data() : nullptr, isa->kernels);
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

// Buffers of any size that come and go, far more than a huge page of them: each keeps its own bytes.
void check_buffers() {
  Random random(1);
  struct Held {
    compress::Buffer buffer;
    unsigned char byte;
  };
  std::vector<Held> held;
  const auto expect_whole = [](const Held& one) {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(one.buffer.data());
    expect(std::count(bytes, bytes + one.buffer.bytes(), one.byte) ==
               static_cast<std::ptrdiff_t>(one.buffer.bytes()),
           "a buffer's bytes changed");
  };
  for (int turn = 0; turn < 400; ++turn) {
    const bool drains = turn >= 300;
    if (!held.empty() && (drains || random.chance(0.3))) {
      const auto which = static_cast<size_t>(random.integer(0, static_cast<int64_t>(held.size()) - 1));
      expect_whole(held[which]);
      std::swap(held[which], held.back());
      held.pop_back();
      if (drains) continue;
    }
    const int64_t most = random.one_of({100, 10000, 1000000, 5000000});
    const auto bytes = static_cast<size_t>(random.integer(0, most));
    held.push_back({compress::Buffer(bytes), static_cast<unsigned char>(random.integer(0, 255))});
    const compress::Buffer& made = held.back().buffer;
    expect(made.bytes() >= bytes && reinterpret_cast<uintptr_t>(made.data()) % 64 == 0,
           "a buffer is not as asked");
    if (bytes > 0) std::memset(made.data(), held.back().byte, made.bytes());
  }
  for (const Held& one : held) expect_whole(one);
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
  check_buffers();
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
    host::check_matrix_plan(random, number);
  }
  std::printf("%zu shapes and %d random cases are right:%s\n", shapes.size(), cases, isa_names().c_str());
  return 0;
}
