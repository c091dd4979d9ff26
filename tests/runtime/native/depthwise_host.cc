// Drives DepthwiseConv, and FBSConv with one behind it, without ONNX Runtime: random layers with a fixed seed
// on every instruction set, held against plain loops in double precision; damaged layers; eight threads in
// one layer. Prints one line and exits with 0 when all is well.
//   compress_depthwise_host [random cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "depthwise.h"
#include "fbs_cases.h"
#include "fbs_conv.h"
#include "host_parts.h"
#include "isa.h"

namespace {

using compress::DepthwiseConv;
using compress::DepthwiseSpec;
using compress::Dims;
using compress::FbsConv;
using compress::Isa;
using compress::Parallel;
using compress::Tensor;
using host::expect;
using host::expect_near;
using host::FbsCase;
using host::Random;
using host::run_on_threads;

struct Filters {
  DepthwiseSpec spec;
  std::vector<float> w, b;

  // Vectors move when a case is copied.
  void point() { spec.weight.data = w.data(), spec.shift.data = b.data(); }
};

struct Case : Filters {
  std::vector<float> x;
  std::vector<int64_t> index;
  Dims x_dims, index_dims;

  Tensor<float> input() const { return {x.data(), x_dims}; }
  Tensor<int64_t> places() const { return {index.data(), index_dims}; }
};

// An FBSConv layer and the filters behind it.
struct FusedCase {
  FbsCase layer;
  Filters behind;

  int64_t winners() const { return layer.spec.winners; }
  Dims between() const {
    return {layer.x_dims[0], layer.spec.y().outputs(layer.x_dims[1]), layer.spec.x().outputs(layer.x_dims[2]),
            winners()};
  }
  Dims outputs() const {
    const Dims from = between();
    return {from[0], behind.spec.y().outputs(from[1]), behind.spec.x().outputs(from[2]), winners()};
  }
};

int64_t count(const Dims& dims) { return dims[0] * dims[1] * dims[2] * dims[3]; }

Filters random_filters(int64_t channels, Random& random) {
  Filters f;
  const int64_t kh = random.one_of({1, 3, 3, 3, 5}), kw = random.one_of({1, 3, 3, 3, 5, 7});
  f.spec.channels = channels;
  f.spec.strides = {random.integer(1, 3), random.integer(1, 3)};
  f.spec.dilations = {random.one_of({1, 1, 2}), random.one_of({1, 1, 3})};
  for (int64_t& pad : f.spec.pads) pad = random.integer(0, 3);
  f.spec.lower = random.chance(0.5) ? 0.0f : -std::numeric_limits<float>::max();
  f.spec.upper = random.chance(0.5) ? 1.5f : std::numeric_limits<float>::max();
  f.w = random.floats(channels * kh * kw, 1.0f / std::sqrt(static_cast<float>(kh * kw)));
  f.b = random.floats(channels);
  f.spec.weight.dims = {channels, 1, kh, kw};
  f.spec.shift.dims = {channels};
  f.point();
  return f;
}

Case random_case(Random& random) {
  const int64_t channels = random.one_of({1, 2, 7, 8, 15, 16, 17, 31, 33, 48, 70});
  Case c = {random_filters(channels, random), {}, {}, {}, {}};
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

// Of the winners, a multiple of `lanes`, every other vector lies together and those between do not.
void let_win_together(FbsCase* c, int64_t lanes, Random& random) {
  c->spec.winners = c->spec.outputs() / 3 / lanes * 2 * lanes;
  c->spec.winner_block = 1;
  c->spec.lower = -std::numeric_limits<float>::max();  // a clamp would hide how large the terms become
  c->spec.upper = std::numeric_limits<float>::max();
  for (int64_t first = 0; first < c->spec.outputs(); first += 3 * lanes) {
    std::vector<int64_t> winners = random.subset(lanes, 2 * lanes);
    for (int64_t i = 0; i < lanes; ++i) winners.push_back(2 * lanes + i);
    for (const int64_t o : winners) c->r[static_cast<size_t>(first + o)] += 100.0f;
  }
}

// Planes of under 512 pixels between the two, which are one band; larger ones; and such that few of their
// rows, or but one, are a band.
FusedCase random_fused_case(Random& random) {
  FusedCase c;
  compress::LayerSpec& spec = c.layer.spec;
  const int64_t plane = random.integer(0, 9);
  const bool together = plane < 3;  // of small planes and enough work for several threads
  const int64_t kernel = together ? 3 : random.one_of({1, 1, 3});
  const int64_t outputs =
      together ? 96 : random.one_of({1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, plane < 6 ? 48 : 2});
  spec.strides = {random.one_of({1, 1, 2}), random.one_of({1, 1, 2})};
  spec.dilations = {random.one_of({1, 1, 2}), random.one_of({1, 1, 2})};
  for (int64_t& pad : spec.pads) pad = random.integer(0, 3);
  const Dims planes = plane < 6   ? Dims{random.integer(1, 3), random.integer(1, 19), random.integer(1, 17)}
                      : plane < 9 ? Dims{random.integer(1, 2), random.integer(20, 44), random.integer(22, 36)}
                                  : Dims{1, random.integer(1, 6), random.integer(200, 1100)};
  const int64_t channels = together    ? random.one_of({17, 33})
                           : plane < 6 ? random.one_of({1, 4, 9, 16, 17, 33})
                                       : random.integer(1, 5);
  fill(c.layer, {outputs, channels, kernel, kernel}, planes, random);
  if (together) let_win_together(&c.layer, random.one_of({4, 8, 16}), random);
  c.behind = random_filters(outputs, random);
  return c;
}

// x as packed as `index` says, of which one row may serve all samples.
std::vector<double> plain_loops(const Filters& f, const std::vector<double>& x, const Dims& x_dims,
                                const std::vector<int64_t>& index) {
  const DepthwiseSpec& spec = f.spec;
  const int64_t height = x_dims[1], width = x_dims[2], live = x_dims[3];
  const int64_t kh = spec.weight.dims[2], kw = spec.weight.dims[3];
  const bool one_row = static_cast<int64_t>(index.size()) == live;
  std::vector<double> y;
  for (int64_t n = 0; n < x_dims[0]; ++n) {
    for (int64_t oy = 0; oy < spec.y().outputs(height); ++oy) {
      for (int64_t ox = 0; ox < spec.x().outputs(width); ++ox) {
        for (int64_t i = 0; i < live; ++i) {
          const int64_t channel = index[static_cast<size_t>((one_row ? 0 : n * live) + i)];
          const double shift = static_cast<double>(f.b[static_cast<size_t>(channel)]);
          double sum = shift;
          for (int64_t ky = 0; ky < kh; ++ky) {
            for (int64_t kx = 0; kx < kw; ++kx) {
              const int64_t iy = oy * spec.strides[0] - spec.pads[0] + ky * spec.dilations[0];
              const int64_t ix = ox * spec.strides[1] - spec.pads[1] + kx * spec.dilations[1];
              if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
              const int64_t at = ((n * height + iy) * width + ix) * live + i;
              sum += x[static_cast<size_t>(at)] *
                     static_cast<double>(f.w[static_cast<size_t>((channel * kh + ky) * kw + kx)]);
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

std::vector<double> plain_loops(const Case& c) {
  return plain_loops(c, {c.x.begin(), c.x.end()}, c.x_dims, c.index);
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

struct Result {
  std::vector<float> y;
  std::vector<int64_t> j;
  std::vector<float> means;
  bool operator==(const Result&) const = default;
};

Result run(const FbsConv& layer, const FusedCase& c, int threads) {
  Result result = {std::vector<float>(static_cast<size_t>(count(c.outputs())), NAN),
                   std::vector<int64_t>(static_cast<size_t>(c.layer.x_dims[0] * c.winners()), -1),
                   std::vector<float>(static_cast<size_t>(c.layer.x_dims[0] * c.winners()), NAN)};
  layer.run(c.layer.input(), c.layer.places(), result.y.data(), result.j.data(),
            threads == 1 ? Parallel() : Parallel(threads, run_on_threads, nullptr),
            {nullptr, result.means.data()});
  return result;
}

// What the first layer chose must be its largest saliencies, and y what comes of them.
void expect_right(const FusedCase& c, const Result& result, const std::string& name) {
  Dims between = c.between();
  const int64_t samples = between[0], winners = c.winners();
  between[0] = 1;
  for (int64_t n = 0; n < samples; ++n) {
    const std::vector<int64_t> won(result.j.begin() + n * winners, result.j.begin() + (n + 1) * winners);
    const std::vector<double> saliency = expected_saliency(c.layer, n);
    host::expect_winners(host::block_means(saliency, static_cast<size_t>(c.layer.spec.winner_block)), won,
                         name);
    const std::vector<double> t = expected_sample(c.layer, n, won, saliency);
    double largest = 1.0;
    for (const double value : t) largest = std::max(largest, std::abs(value));
    const std::vector<double> wanted = plain_loops(c.behind, t, between, won);
    const auto first = result.y.begin() + n * static_cast<int64_t>(wanted.size());
    expect_near({first, first + static_cast<int64_t>(wanted.size())}, wanted, name, largest);
    std::vector<double> left_out;
    for (const int64_t o : won) {
      const float shift = c.behind.spec.shift.data[o];
      left_out.push_back(static_cast<double>(std::clamp(shift, c.behind.spec.lower, c.behind.spec.upper)));
    }
    const auto means = result.means.begin() + n * winners;
    host::expect_means({means, means + winners}, &*first, c.outputs()[1] * c.outputs()[2], left_out, name);
  }
}

// Any number of threads, and whatever way is asked for, gives the same bits.
void run_fused_case(const FusedCase& c, const std::string& number, Random& random) {
  const Dims between = c.between(), outputs = c.outputs();
  const bool good = between[1] > 0 && between[2] > 0 && outputs[1] > 0 && outputs[2] > 0;
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    const std::string name = number + " on " + isa->name;
    const FbsConv layer(c.layer.spec, isa->kernels, compress::Way::kNone, &c.behind.spec);
    const std::string refusal = layer.check(c.layer.input(), c.layer.places());
    expect(refusal.empty() == good, name + ": wrongly refused or accepted: " + refusal);
    if (!good) return;
    expect(layer.y_dims(c.layer.x_dims) == outputs, name + ": wrong sizes");
    const Result alone = run(layer, c, 1);
    expect_right(c, alone, name);
    const FbsConv forced(c.layer.spec, isa->kernels,
                         random.chance(0.5) ? compress::Way::kAll : compress::Way::kPacked, &c.behind.spec);
    const auto threads = static_cast<int>(random.integer(2, 9));
    expect(run(random.chance(0.5) ? layer : forced, c, threads) == alone,
           name + ": other bits on " + std::to_string(threads) + " threads");
  }
}

void damage(Filters* f, Random& random) {
  switch (random.integer(0, 4)) {
    case 0:
      f->spec.channels += random.integer(-2, 2);
      break;
    case 1:
      f->spec.strides.resize(static_cast<size_t>(random.integer(0, 3)), random.integer(-1, 5));
      break;
    case 2:
      f->spec.pads[static_cast<size_t>(random.integer(0, 3))] = random.one_of({-1, 9, 5000});
      break;
    case 3:
      f->spec.weight.dims[static_cast<size_t>(random.integer(0, 3))] = random.one_of({-1, 0, 1, 2, 1 << 30});
      break;
    default:
      f->spec.shift.dims = {random.integer(0, 80)};
  }
}

// Whether filters may be used, and have as many weights as they say.
bool hold(const Filters& f) {
  const Dims& w = f.spec.weight.dims;
  return check_depthwise(f.spec).empty() && count(w) <= static_cast<int64_t>(f.w.size());
}

// Any change to a good layer must be refused or hold; under the sanitizers, nothing else can happen.
void run_damaged(Case c, Random& random) {
  if (random.chance(0.8)) {
    damage(&c, random);
  } else if (!c.index.empty()) {
    c.index[0] = random.one_of({-1, 0, 69, 70, int64_t{1} << 40});
  }
  c.point();
  if (!hold(c) || !check_depthwise_input(c.spec, c.input(), c.places()).empty()) return;
  run_case(c, "damaged case");
}

void run_damaged(FusedCase c, Random& random) {
  if (random.chance(0.5)) {
    damage(&c.behind, random);
  } else {
    damage(&c.layer, random);
  }
  c.behind.point();
  if (!check_layer(c.layer.spec).empty() || !hold(c.behind)) return;
  if (c.behind.spec.channels != c.layer.spec.outputs()) return;
  const FbsConv layer(c.layer.spec, compress::isas()->kernels, compress::Way::kNone, &c.behind.spec);
  if (!layer.check(c.layer.input(), c.layer.places()).empty()) return;
  if (count(c.between()) + count(c.outputs()) > 1 << 17) return;  // a pad of 4096: allowed, but slow here
  const Result alone = run(layer, c, 1);
  expect_right(c, alone, "damaged fused case");
  expect(run(layer, c, 3) == alone, "damaged fused case: other bits on 3 threads");
}

// Layers that follow each other ask for what the next one reads: the results stay.
void run_fused_in_turn(Random& random) {
  // So many weights that asking pays; never run.
  constexpr int64_t kInputs = 1100, kOutputs = 1024;
  const std::vector<float> zeros(static_cast<size_t>(kInputs * kOutputs));
  compress::LayerSpec large;
  large.winners = 1;
  large.weight = {zeros.data(), nullptr, {kOutputs, kInputs, 1, 1}};
  large.saliency_weight = {zeros.data(), nullptr, {kInputs, kOutputs}};
  large.shift = large.saliency_bias = {zeros.data(), {kOutputs}};
  const FbsConv large_layer(large, compress::isas()->kernels);
  FusedCase cases[2];
  do {  // until it reads enough weights itself for asking
    cases[0].layer = {};
    fill(cases[0].layer, {96, 90, 3, 3}, {1, 5, 6}, random);
  } while (cases[0].layer.x_dims[3] < 80);
  fill(cases[1].layer, {33, 96, 1, 1}, {1, 23, 24}, random);
  cases[0].layer.spec.winners = 70;
  for (FusedCase& c : cases) {
    c.layer.spec.pads = {1, 1, 1, 1};
    c.behind = random_filters(c.layer.spec.outputs(), random);
    c.behind.spec.pads = {6, 9, 6, 9};  // so that no filter is larger than the plane
  }
  for (const Isa* isa = compress::isas(); isa->name != nullptr; ++isa) {
    if (!isa->supported()) continue;
    std::vector<std::unique_ptr<FbsConv>> layers;
    std::vector<Result> wanted;
    for (const FusedCase& c : cases) {
      layers.push_back(
          std::make_unique<FbsConv>(c.layer.spec, isa->kernels, compress::Way::kNone, &c.behind.spec));
      wanted.push_back(run(*layers.back(), c, 1));
      expect_right(c, wanted.back(), std::string("in turn on ") + isa->name);
    }
    for (int turn = 0; turn < 12; ++turn) {
      const auto which = static_cast<size_t>(random.integer(0, 1));
      expect(run(*layers[which], cases[which], 1 + turn % 4) == wanted[which],
             std::string(isa->name) + ": a fused layer depends on those before it");
    }
  }
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

// The same where rows come in bands, of numbers of threads that divide them in other ways.
void run_fused_concurrently(Random& random) {
  FusedCase small;
  fill(small.layer, {33, 5, 3, 3}, {1, 9, 31}, random);
  small.layer.spec.pads = {1, 1, 1, 1};
  small.behind = random_filters(33, random);
  small.behind.spec.dilations = {1, 1};  // so that no filter is larger than the plane
  FusedCase large = small;
  Dims& dims = large.layer.x_dims;
  dims = {1, 40, 31, dims[3]};
  large.layer.x = random.floats(count(dims));
  const FusedCase* const cases[] = {&small, &large};
  const FbsConv layer(small.layer.spec, compress::isas()->kernels, compress::Way::kNone, &small.behind.spec);
  const Result wanted[] = {run(layer, small, 1), run(layer, large, 1)};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 6; ++i) {
        const size_t which = static_cast<size_t>(t + i) % 2;
        expect(run(layer, *cases[which], 1 + t % 4) == wanted[which], "eight threads disturb each other");
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
    const FusedCase fused = random_fused_case(random);
    run_fused_case(fused, "fused case " + std::to_string(i), random);
    for (int k = 0; k < 2; ++k) run_damaged(fused, random);
  }
  run_concurrently(random);
  run_fused_concurrently(random);
  run_fused_in_turn(random);
  std::printf("%d depthwise cases are right\n", cases);
  return 0;
}
