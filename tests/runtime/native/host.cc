// Drives checks, layers and kernels without ONNX Runtime: random layers with a fixed seed on every
// instruction set, held against plain loops in double precision. Built with sanitizers; every buffer has
// exactly the size it must have, so that a read or write beyond it is seen. Prints one line and exits with 0
// when all is well.
//   compress_host [cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fbs_conv.h"
#include "isa.h"
#include "layer.h"
#include "parallel.h"
#include "select.h"
#include "unpack.h"

namespace {

using compress::FbsConv;
using compress::Isa;
using compress::LayerSpec;
using compress::Parallel;
using compress::Tensor;

constexpr double kTolerance = 2e-5;  // of the largest output: float32 sums in another order

[[noreturn]] void fail(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit(1);
}

void expect(bool good, const std::string& message) {
  if (!good) fail(message);
}

// Threads of the host's own: item i runs on thread i % 3.
void run_on_threads(void*, Parallel::Body body, size_t total, void* data) {
  constexpr size_t kThreads = 3;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < std::min(kThreads, total); ++t) {
    threads.emplace_back([=] {
      for (size_t item = t; item < total; item += kThreads) body(data, item);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}

  int64_t integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  bool chance(double p) { return std::bernoulli_distribution(p)(engine_); }
  int64_t one_of(const std::vector<int64_t>& values) {
    return values[static_cast<size_t>(integer(0, static_cast<int64_t>(values.size()) - 1))];
  }
  std::vector<float> floats(int64_t count, float deviation = 1.0f) {
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal(engine_);
    return values;
  }
  // `count` of 0 … of - 1, ascending.
  std::vector<int64_t> subset(int64_t count, int64_t of) {
    std::vector<int64_t> all(static_cast<size_t>(of));
    for (int64_t i = 0; i < of; ++i) all[static_cast<size_t>(i)] = i;
    std::shuffle(all.begin(), all.end(), engine_);
    all.resize(static_cast<size_t>(count));
    std::sort(all.begin(), all.end());
    return all;
  }

 private:
  std::mt19937 engine_;
};

// One layer, one input, and what must come out.
struct Case {
  LayerSpec spec;
  std::vector<float> w, b, a, r, d, x;
  std::vector<int64_t> index;
  std::vector<int64_t> x_dims, index_dims;

  Tensor<float> input() const { return {x.data(), x_dims}; }
  Tensor<int64_t> places() const { return {index.data(), index_dims}; }
};

Case random_case(Random& random) {
  Case c;
  const std::vector<int64_t> sizes = {1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65};
  const int64_t outputs = random.one_of(sizes);
  const int64_t channels = random.one_of(sizes);
  const int64_t kh = random.one_of({1, 3, 3, 3, 5, 7});
  const int64_t kw = random.chance(0.8) ? kh : random.one_of({1, 2, 3, 5});
  LayerSpec& spec = c.spec;
  spec.winners = random.chance(0.3) ? outputs : random.integer(1, outputs);
  spec.strides = {random.integer(1, 3), random.integer(1, 3)};
  spec.dilations = {random.one_of({1, 1, 2, 3}), random.one_of({1, 1, 2, 3})};
  for (int64_t& pad : spec.pads) pad = random.integer(0, 4);
  spec.lower = random.chance(0.5) ? 0.0f : -std::numeric_limits<float>::max();
  spec.upper = random.chance(0.5) ? 6.0f : std::numeric_limits<float>::max();
  spec.saliency_slope = random.chance(0.5) ? 0.0f : 0.25f;
  spec.normalize = random.integer(0, 1);
  // Sums of about 1, so that the clamp does not hide how large the terms were.
  c.w = random.floats(outputs * channels * kh * kw, 1.0f / std::sqrt(static_cast<float>(channels * kh * kw)));
  c.b = random.floats(outputs);
  c.a = random.floats(channels * outputs, 1.0f / std::sqrt(static_cast<float>(channels)));
  c.r = random.floats(outputs);
  for (float& value : c.r) value += 2.0f;  // a sum near 0 would let normalisation blow up the rounding
  c.d = random.floats(outputs);
  spec.weight = {c.w.data(), {outputs, channels, kh, kw}};
  spec.shift = {c.b.data(), {outputs}};
  spec.saliency_weight = {c.a.data(), {channels, outputs}};
  spec.saliency_bias = {c.r.data(), {outputs}};
  if (random.chance(0.3)) spec.post_shift = Tensor<float>{c.d.data(), {outputs}};

  const int64_t samples = random.integer(1, 4);
  const int64_t live = random.chance(0.4) ? channels : random.integer(1, channels);
  c.x_dims = {samples, random.integer(1, 19), random.integer(1, 17), live};
  c.x = random.floats(samples * c.x_dims[1] * c.x_dims[2] * live);
  c.index_dims = {random.chance(0.3) ? 1 : samples, live};
  for (int64_t n = 0; n < c.index_dims[0]; ++n) {
    const std::vector<int64_t> row = random.subset(live, channels);
    c.index.insert(c.index.end(), row.begin(), row.end());
  }
  return c;
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
  for (int64_t i = 0; i < live; ++i) {
    double mean = 0;
    for (int64_t p = 0; p < pixels; ++p) mean += std::abs(static_cast<double>(x[p * live + i]));
    mean /= static_cast<double>(pixels);
    for (int64_t o = 0; o < outputs; ++o) {
      s[static_cast<size_t>(o)] +=
          mean * static_cast<double>(c.a[static_cast<size_t>(index[i] * outputs + o)]);
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

void run_case(const Case& c, const std::string& number) {
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
        expect_winners(saliency, won, name);
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
  const int64_t channels = random.integer(1, 70), live = random.integer(0, channels);
  const int64_t samples = random.integer(1, 3), height = random.integer(0, 9), width = random.integer(1, 9);
  const int64_t rows = random.chance(0.5) ? 1 : samples;
  const std::vector<float> x = random.floats(samples * height * width * live);
  std::vector<int64_t> index;
  for (int64_t n = 0; n < rows; ++n) {
    const std::vector<int64_t> row = random.subset(live, channels);
    index.insert(index.end(), row.begin(), row.end());
  }
  const Tensor<float> input = {x.data(), {samples, height, width, live}};
  const Tensor<int64_t> places = {index.data(), {rows, live}};
  expect(check_unpack(channels, input, places).empty(), number + ": unpack refused");
  std::vector<float> expected(static_cast<size_t>(samples * height * width * channels));
  for (int64_t n = 0; n < samples; ++n) {
    for (int64_t p = n * height * width; p < (n + 1) * height * width; ++p) {
      for (int64_t i = 0; i < live; ++i) {
        const int64_t c = index[static_cast<size_t>((rows == 1 ? 0 : n * live) + i)];
        expected[static_cast<size_t>(p * channels + c)] = x[static_cast<size_t>(p * live + i)];
      }
    }
  }
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    std::vector<float> y(expected.size(), NAN);
    compress::unpack(*isa->kernels, channels, input, places, y.data(), Parallel(3, run_on_threads, nullptr));
    expect(y == expected, number + " " + isa->name + ": wrong unpack");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random(argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1);
  for (int i = 0; i < cases; ++i) {
    const std::string number = "case " + std::to_string(i);
    const Case c = random_case(random);
    run_case(c, number);
    for (int k = 0; k < 4; ++k) run_damaged(c, random);
    run_unpack(random, number);
  }
  std::printf("%d cases are right\n", cases);
  return 0;
}
