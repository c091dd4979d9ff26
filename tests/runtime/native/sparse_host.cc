// Drives SparseConv's checks, layer and kernels without ONNX Runtime: random layers with a fixed seed on
// every instruction set, held against plain loops in double precision; damaged layers; eight threads in one
// layer. Built with sanitizers; every buffer has exactly the size it must have, so that a read or write
// beyond it is seen. Prints one line and exits with 0 when all is well.
//   compress_sparse_host [random cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "host_parts.h"
#include "isa.h"
#include "parallel.h"
#include "sparse_conv.h"

namespace {

using compress::Dims;
using compress::Isa;
using compress::Parallel;
using compress::SparseConv;
using compress::SparseSpec;
using compress::Tensor;
using host::expect;
using host::expect_near;
using host::Random;
using host::run_on_threads;

// One layer with the memory behind it.
struct Case {
  SparseSpec spec;
  std::vector<float> weight, bias;
  std::vector<uint8_t> places;
  Dims x_dims;

  void point() {
    spec.weight.data = weight.data();
    spec.bias.data = bias.data();
    spec.places.data = places.data();
  }
  int64_t height() const { return spec.y().outputs(x_dims[2]); }
  int64_t width() const { return spec.x().outputs(x_dims[3]); }
  size_t inputs() const { return static_cast<size_t>(x_dims[0] * x_dims[1] * x_dims[2] * x_dims[3]); }
  size_t results() const { return static_cast<size_t>(x_dims[0] * spec.outputs() * height() * width()); }
};

Case random_case(Random& random) {
  Case c;
  for (;;) {
    c.spec.channels = random.integer(1, 20);
    c.spec.kernel_shape = {random.integer(1, 5), random.integer(1, 5)};
    c.spec.strides = {random.integer(1, 3), random.integer(1, 3)};
    c.spec.dilations = {random.integer(1, 2), random.integer(1, 2)};
    c.spec.pads = {random.integer(0, 3), random.integer(0, 20), random.integer(0, 3), random.integer(0, 3)};
    c.x_dims = {random.integer(1, 3), c.spec.channels, random.integer(1, 20), random.integer(1, 40)};
    if (c.height() > 0 && c.width() > 0) break;
  }
  c.spec.lower = random.integer(0, 1) == 0 ? 0.0f : -std::numeric_limits<float>::max();
  c.spec.upper = std::numeric_limits<float>::max();
  const int64_t all = c.spec.channels * c.spec.taps();
  const int64_t outputs = random.integer(1, 40);
  c.places.assign(static_cast<size_t>((all + 7) / 8), 0);
  int64_t rows = 0;
  for (int64_t i = 0; i < all; ++i) {
    if (i > 0 && random.integer(0, 1) == 0) continue;
    c.places[static_cast<size_t>(i / 8)] |= static_cast<uint8_t>(1 << (i % 8));
    ++rows;
  }
  c.weight = random.floats(outputs * rows);
  c.bias = random.floats(outputs);
  c.spec.weight.dims = {outputs, rows};
  c.spec.bias.dims = {outputs};
  c.spec.places.dims = {static_cast<int64_t>(c.places.size())};
  return c;
}

std::vector<double> plain_loops(const Case& c, const std::vector<float>& x) {
  const SparseSpec& spec = c.spec;
  std::vector<double> y(c.results());
  size_t at = 0;
  for (int64_t n = 0; n < c.x_dims[0]; ++n) {
    for (int64_t o = 0; o < spec.outputs(); ++o) {
      for (int64_t oy = 0; oy < c.height(); ++oy) {
        for (int64_t ox = 0; ox < c.width(); ++ox) {
          double sum = static_cast<double>(c.bias[static_cast<size_t>(o)]);
          int64_t row = -1;
          for (int64_t place = 0; place < spec.channels * spec.taps(); ++place) {
            if (!spec.has_row(place)) continue;
            ++row;
            const int64_t tap = place % spec.taps();
            const int64_t iy =
                oy * spec.strides[0] - spec.pads[0] + tap / spec.kernel_shape[1] * spec.dilations[0];
            const int64_t ix =
                ox * spec.strides[1] - spec.pads[1] + tap % spec.kernel_shape[1] * spec.dilations[1];
            if (iy < 0 || iy >= c.x_dims[2] || ix < 0 || ix >= c.x_dims[3]) continue;
            const int64_t from =
                ((n * spec.channels + place / spec.taps()) * c.x_dims[2] + iy) * c.x_dims[3] + ix;
            sum += static_cast<double>(x[static_cast<size_t>(from)]) *
                   static_cast<double>(c.weight[static_cast<size_t>(o * spec.num_rows() + row)]);
          }
          y[at++] = std::clamp(sum, static_cast<double>(spec.lower), static_cast<double>(spec.upper));
        }
      }
    }
  }
  return y;
}

void run_case(Case& c, Random& random, const std::string& number) {
  c.point();
  expect(compress::check_sparse(c.spec).empty(), number + ": " + compress::check_sparse(c.spec));
  expect(compress::check_sparse_input(c.spec, c.x_dims).empty(), number + ": input refused");
  const std::vector<float> x = random.floats(static_cast<int64_t>(c.inputs()));
  const std::vector<double> wanted = plain_loops(c, x);
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const SparseConv layer(c.spec, isa->kernels);
    for (const int threads : {1, 3}) {
      std::vector<float> y(c.results());
      layer.run({x.data(), c.x_dims}, y.data(),
                threads == 1 ? Parallel() : Parallel(3, run_on_threads, nullptr));
      expect_near(y, wanted, number + " on " + isa->name);
    }
  }
}

// Any change to a good layer must be refused or hold; under the sanitizers, nothing else can happen.
void run_damaged(Case c, Random& random) {
  switch (random.integer(0, 5)) {
    case 0:
      c.spec.channels += random.integer(-2, 2);
      break;
    case 1:
      c.spec.kernel_shape[static_cast<size_t>(random.integer(0, 1))] = random.integer(-1, 6);
      break;
    case 2:
      c.places[0] ^= static_cast<uint8_t>(1 << random.integer(0, 7));
      break;
    case 3:
      c.spec.strides.resize(static_cast<size_t>(random.integer(0, 3)), 1);
      break;
    case 4:
      c.spec.weight.dims = {random.integer(-1, 3), random.integer(-1, 3)};
      break;
    default:
      c.spec.pads[static_cast<size_t>(random.integer(0, 3))] =
          random.integer(0, 9) == 0 ? -1 : random.integer(0, 9);
  }
  c.point();
  const bool sizes_hold = c.spec.weight.dims.size() == 2 && c.weight.size() == [&] {
    const Dims& w = c.spec.weight.dims;
    return w[0] > 0 && w[1] > 0 ? static_cast<size_t>(w[0] * w[1]) : 0;
  }();
  if (!compress::check_sparse(c.spec).empty() || !sizes_hold) return;
  if (!compress::check_sparse_input(c.spec, c.x_dims).empty()) return;
  run_case(c, random, "damaged case");
}

// Eight threads in one layer, with inputs of two sizes: the plan it remembers changes under their hands.
void run_concurrently(Random& random) {
  Case first = random_case(random);
  first.point();
  Case second = first;
  second.x_dims = {2, first.spec.channels, first.x_dims[2] + 3, first.x_dims[3] + 5};
  const std::vector<float> x = random.floats(static_cast<int64_t>(second.inputs()));
  const SparseConv layer(first.spec, compress::isas()->kernels);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      const Case& c = t % 2 == 0 ? first : second;
      const std::vector<double> wanted = plain_loops(c, x);
      for (int i = 0; i < 10; ++i) {
        std::vector<float> y(c.results());
        layer.run({x.data(), c.x_dims}, y.data(), Parallel());
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
    Case c = random_case(random);
    run_case(c, random, "case " + std::to_string(i));
    for (int k = 0; k < 4; ++k) run_damaged(c, random);
  }
  run_concurrently(random);
  std::printf("%d sparse cases are right\n", cases);
  return 0;
}
