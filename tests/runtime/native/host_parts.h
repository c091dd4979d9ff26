// What the hosts share: random layers with a fixed seed, threads of their own, and how they fail.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "half.h"
#include "parallel.h"

namespace host {

inline constexpr double kTolerance = 2e-5;  // of the largest output: float32 sums in another order

inline void expect(bool good, const std::string& message) {
  if (good) return;
  std::fprintf(stderr, "%s\n", message.c_str());
  std::exit(1);
}

// As close as float32 sums in another order are; `largest`: of what they are the sums.
inline void expect_near(const std::vector<float>& got, const std::vector<double>& wanted,
                        const std::string& where, double largest = 1.0) {
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < wanted.size(); ++i) {
    expect(std::abs(static_cast<double>(got[i]) - wanted[i]) <= kTolerance * largest,
           where + ": output " + std::to_string(i) + " is " + std::to_string(got[i]) + ", not " +
               std::to_string(wanted[i]));
  }
}

// means[c] = mean over the pixels of |y[p][c] + shift[c]|, `shift` empty: 0.
inline void expect_means(const std::vector<float>& means, const float* y, int64_t pixels,
                         const std::vector<double>& shift, const std::string& where) {
  const size_t channels = means.size();
  for (size_t c = 0; c < channels; ++c) {
    double size = 0.0, terms = 0.0;
    const double moved = shift.empty() ? 0.0 : shift[c];
    for (int64_t p = 0; p < pixels; ++p) {
      const auto value = static_cast<double>(y[static_cast<size_t>(p) * channels + c]);
      size += std::abs(value + moved);
      terms += std::abs(value) + std::abs(moved);
    }
    const auto count = static_cast<double>(pixels);
    expect(std::abs(size / count - static_cast<double>(means[c])) <= 1e-5 * terms / count,
           where + ": mean " + std::to_string(c) + " is " + std::to_string(means[c]) + ", not " +
               std::to_string(size / count));
  }
}

// Threads of the host's own: item i runs on thread i % 3.
inline void run_on_threads(void*, compress::Parallel::Body body, size_t total, void* data) {
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
  // Of every size below 1, the smallest and 0 among them.
  std::vector<compress::Half> halves(int64_t count) {
    std::vector<compress::Half> values(static_cast<size_t>(count));
    for (compress::Half& value : values) {
      const int64_t bits = integer(0, 1) << 15 | integer(0, 14) << 10 | integer(0, 1023);
      value.bits = static_cast<uint16_t>(bits);
    }
    return values;
  }
  std::vector<int8_t> bytes(int64_t count) {
    std::vector<int8_t> values(static_cast<size_t>(count));
    for (int8_t& value : values) value = static_cast<int8_t>(integer(-128, 127));
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

}  // namespace host
