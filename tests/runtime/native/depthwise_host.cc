// Drives DepthwiseConv without ONNX Runtime: random layers with a fixed seed on every instruction set, held
// against plain loops in double precision; damaged layers; eight threads in one layer. Prints one line and
// exits with 0 when all is well.
//   compress_depthwise_host [random cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "depthwise.h"
#include "host_parts.h"
#include "isa.h"

namespace {

using compress::DepthwiseConv;
using compress::DepthwiseSpec;
using compress::Dims;
using compress::Isa;
using compress::Parallel;
using compress::Tensor;
using host::expect;
using host::expect_near;
using host::Random;
using host::run_on_threads;

struct Case {
  DepthwiseSpec spec;
  std::vector<float> w, b, x;
  std::vector<int64_t> index;
  Dims x_dims, index_dims;

  Tensor<float> input() const { return {x.data(), x_dims}; }
  Tensor<int64_t> places() const { return {index.data(), index_dims}; }
  // Vectors move when a case is copied.
  void point() { spec.weight.data = w.data(), spec.shift.data = b.data(); }
};

Case random_case(Random& random) {
  Case c;
  const int64_t channels = random.one_of({1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 70});
  const int64_t kh = random.one_of({1, 3, 3, 3, 5}), kw = random.one_of({1, 3, 3, 3, 5, 7});
  c.spec.channels = channels;
  c.spec.strides = {random.integer(1, 3), random.integer(1, 3)};
  c.spec.dilations = {random.one_of({1, 1, 2}), random.one_of({1, 1, 3})};
  for (int64_t& pad : c.spec.pads) pad = random.integer(0, 3);
  c.spec.lower = random.chance(0.5) ? 0.0f : -std::numeric_limits<float>::max();
  c.spec.upper = random.chance(0.5) ? 1.5f : std::numeric_limits<float>::max();
  c.w = random.floats(channels * kh * kw);
  c.b = random.floats(channels);
  c.spec.weight.dims = {channels, 1, kh, kw};
  c.spec.shift.dims = {channels};
  const int64_t live = random.chance(0.3) ? channels : random.integer(0, channels);
  c.x_dims = {random.integer(1, 4), random.integer(1, 19), random.integer(1, 17), live};
  c.x = random.floats(c.x_dims[0] * c.x_dims[1] * c.x_dims[2] * live);
  c.index_dims = {random.chance(0.3) ? 1 : c.x_dims[0], live};
  for (int64_t n = 0; n < c.index_dims[0]; ++n) {
    const std::vector<int64_t> row = random.subset(live, channels);
    c.index.insert(c.index.end(), row.begin(), row.end());
  }
  c.point();
  return c;
}

std::vector<double> plain_loops(const Case& c) {
  const DepthwiseSpec& spec = c.spec;
  const int64_t height = c.x_dims[1], width = c.x_dims[2], live = c.x_dims[3];
  const int64_t kh = spec.weight.dims[2], kw = spec.weight.dims[3];
  std::vector<double> y;
  for (int64_t n = 0; n < c.x_dims[0]; ++n) {
    for (int64_t oy = 0; oy < spec.y().outputs(height); ++oy) {
      for (int64_t ox = 0; ox < spec.x().outputs(width); ++ox) {
        for (int64_t i = 0; i < live; ++i) {
          const int64_t channel = c.index[static_cast<size_t>((c.index_dims[0] == 1 ? 0 : n * live) + i)];
          const double shift = static_cast<double>(c.b[static_cast<size_t>(channel)]);
          double sum = shift;
          for (int64_t ky = 0; ky < kh; ++ky) {
            for (int64_t kx = 0; kx < kw; ++kx) {
              const int64_t iy = oy * spec.strides[0] - spec.pads[0] + ky * spec.dilations[0];
              const int64_t ix = ox * spec.strides[1] - spec.pads[1] + kx * spec.dilations[1];
              if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
              const int64_t at = ((n * height + iy) * width + ix) * live + i;
              sum += static_cast<double>(c.x[static_cast<size_t>(at)]) *
                     static_cast<double>(c.w[static_cast<size_t>((channel * kh + ky) * kw + kx)]);
            }
          }
          const auto clamped = [&](double value) {
            return std::clamp(value, static_cast<double>(spec.lower), static_cast<double>(spec.upper));
          };
          y.push_back(clamped(sum) - clamped(shift));
        }
      }
    }
  }
  return y;
}

void run_case(const Case& c, const std::string& number) {
  const std::string refusal = check_depthwise_input(c.spec, c.input(), c.places());
  const int64_t height = c.spec.y().outputs(c.x_dims[1]), width = c.spec.x().outputs(c.x_dims[2]);
  expect(refusal.empty() == (height > 0 && width > 0), number + ": wrongly refused or accepted: " + refusal);
  if (!refusal.empty()) return;
  const std::vector<double> wanted = plain_loops(c);
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const DepthwiseConv layer(c.spec, isa->kernels);
    for (const bool threaded : {false, true}) {
      std::vector<float> y(wanted.size(), NAN);
      layer.run(c.input(), c.places(), y.data(),
                threaded ? Parallel(3, run_on_threads, nullptr) : Parallel());
      expect_near(y, wanted, number + " on " + isa->name);
    }
  }
}

// Any change to a good layer must be refused or hold; under the sanitizers, nothing else can happen.
void run_damaged(Case c, Random& random) {
  const int64_t weights = static_cast<int64_t>(c.w.size());
  switch (random.integer(0, 5)) {
    case 0:
      c.spec.channels += random.integer(-2, 2);
      break;
    case 1:
      c.spec.strides.resize(static_cast<size_t>(random.integer(0, 3)), random.integer(-1, 5));
      break;
    case 2:
      c.spec.pads[static_cast<size_t>(random.integer(0, 3))] = random.one_of({-1, 9, 5000});
      break;
    case 3:
      c.spec.weight.dims[static_cast<size_t>(random.integer(0, 3))] = random.one_of({-1, 0, 1, 2, 1 << 30});
      break;
    case 4:
      c.spec.shift.dims = {random.integer(0, 80)};
      break;
    default:
      if (!c.index.empty()) c.index[0] = random.one_of({-1, 0, 69, 70, int64_t{1} << 40});
  }
  c.point();
  const Dims& w = c.spec.weight.dims;
  if (!check_depthwise(c.spec).empty() || w[0] * w[2] * w[3] > weights) return;
  if (!check_depthwise_input(c.spec, c.input(), c.places()).empty()) return;
  run_case(c, "damaged case");
}

// Eight threads in one layer, with inputs of two sizes: what it remembers of a size changes under their
// hands.
void run_concurrently(Random& random) {
  Case first = random_case(random);
  while (!check_depthwise_input(first.spec, first.input(), first.places()).empty())
    first = random_case(random);
  Case second = first;
  second.x_dims = {second.x_dims[0], second.x_dims[1] + 3, second.x_dims[2] + 5, second.x_dims[3]};
  second.x = random.floats(second.x_dims[0] * second.x_dims[1] * second.x_dims[2] * second.x_dims[3]);
  first.point();
  const DepthwiseConv layer(first.spec, compress::isas()->kernels);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      const Case& c = t % 2 == 0 ? first : second;
      const std::vector<double> wanted = plain_loops(c);
      for (int i = 0; i < 10; ++i) {
        std::vector<float> y(wanted.size());
        layer.run(c.input(), c.places(), y.data(), Parallel());
        expect_near(y, wanted, "eight threads");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
  Random random(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1);
  for (int i = 0; i < cases; ++i) {
    const Case c = random_case(random);
    expect(check_depthwise(c.spec).empty(), "a good layer refused: " + check_depthwise(c.spec));
    run_case(c, "case " + std::to_string(i));
    for (int k = 0; k < 4; ++k) run_damaged(c, random);
  }
  run_concurrently(random);
  std::printf("%d depthwise cases are right\n", cases);
  return 0;
}
