// Where the parts of a plane lie before matrices of them are multiplied, on any processor: every product
// finds the input that it is for.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "host_parts.h"
#include "matrix_plan.h"

namespace host {

// MatrixKernels' split, value by value.
inline void split_plainly(const compress::SplitTask& task) {
  for (int64_t p = 0; p < task.pixels; ++p) {
    for (int64_t c = 0; c < task.pitch; ++c) {
      float value = c < task.channels ? task.from[p * task.from_step + c] : 0.0f;
      for (int64_t part = 0; part < compress::kFloatParts; ++part) {
        const uint32_t upper = std::bit_cast<uint32_t>(value) & 0xffff0000u;
        task.to[part * task.part_stride + p * task.pitch + c] = static_cast<uint16_t>(upper >> 16);
        value -= std::bit_cast<float>(upper);
      }
    }
  }
}

inline void check_matrix_plan(Random& random, const std::string& number) {
  const bool large = random.chance(0.1);  // of several bands
  const auto axis = [&] {
    return compress::Axis{large ? random.one_of({1, 3}) : random.integer(1, 5), random.integer(1, 3),
                          random.one_of({1, 1, 2, 3}), random.integer(0, 3), random.integer(0, 3)};
  };
  const compress::Window window = {axis(), axis()};
  const int64_t height = large ? 41 : random.integer(1, 15), width = large ? 38 : random.integer(1, 15);
  if (window.y.outputs(height) < 1 || window.x.outputs(width) < 1) return;
  const auto channels = static_cast<int32_t>(large ? random.integer(200, 300) : random.integer(1, 70));
  constexpr int32_t kLanes = 16, kPairs = compress::kMatrixValues / 2;
  const compress::MatrixPlan plan(window, height, width, channels, kLanes);
  expect(plan.fits, number + ": a small plane does not fit");

  // Every row of packed weights is a pair of one tap's channels, or unused; and reads two values somewhere.
  std::vector<int> uses(static_cast<size_t>(plan.matrices * kPairs));
  std::vector<int64_t> reads, unused;
  for (const int32_t first : plan.first_rows) {
    for (int32_t pair = 0; pair < (channels + 1) / 2; ++pair) ++uses[static_cast<size_t>(first + pair)];
  }
  for (const compress::MatrixPlan::Rows& rows : plan.unused_rows) {
    for (int32_t row = rows.first; row < rows.last; ++row) {
      ++uses[static_cast<size_t>(row)];
      unused.push_back(row);
    }
  }
  for (const compress::MatrixRun& run : plan.runs) {
    for (int32_t pair = 0; pair < run.matrices * kPairs; ++pair) reads.push_back(run.offset + 2 * pair);
  }
  expect(reads.size() == uses.size(), number + ": runs are not as long as the weights");
  expect(std::all_of(uses.begin(), uses.end(), [](int count) { return count == 1; }),
         number + ": a row of weights is not one pair's");

  const std::string not_finite = number + ": what 0 is multiplied with is not finite";
  const std::string other = number + ": a product's input is another";
  const std::vector<float> x = random.floats(height * width * channels);
  const compress::MatrixKernels kernels = {split_plainly, nullptr, nullptr};
  const int32_t band = plan.band_places / compress::kMatrixPlaces;
  std::vector<uint16_t> parts;
  const auto value = [&](int64_t at) {
    float sum = 0;
    for (int64_t part = compress::kFloatParts - 1; part >= 0; --part) {
      const auto bits = static_cast<uint32_t>(parts[static_cast<size_t>(part * plan.part_stride + at)]);
      sum += std::bit_cast<float>(bits << 16);
    }
    return sum;
  };
  for (int32_t first = 0; first < plan.num_tiles; first += band) {
    const int32_t last = std::min(first + band, plan.num_tiles);
    parts.assign(static_cast<size_t>(plan.values()), 0x7fc0);  // NaN where nothing is laid out
    plan.lay_out(kernels, x.data(), first, last, parts.data());
    const int64_t begin = int64_t{first} * compress::kMatrixPlaces;
    const int64_t end = std::min<int64_t>(int64_t{last} * compress::kMatrixPlaces, plan.places);
    for (int64_t place = begin; place < end; ++place) {
      const int64_t row = place / plan.row_places, column = place % plan.row_places;
      const int64_t at = (place - begin) * plan.place_stride;
      if (column >= plan.row_pixels) continue;
      for (const int64_t r : unused) {
        const int64_t read = at + reads[static_cast<size_t>(r)];
        expect(std::isfinite(value(read) + value(read + 1)), not_finite);
      }
      for (int64_t ky = 0, tap = 0; ky < window.y.kernel; ++ky) {
        for (int64_t kx = 0; kx < window.x.kernel; ++kx, ++tap) {
          const int64_t iy = row * window.y.stride - window.y.pad_begin + ky * window.y.dilation;
          const int64_t ix = column * window.x.stride - window.x.pad_begin + kx * window.x.dilation;
          const bool inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
          for (int64_t c = 0; c < channels + channels % 2; ++c) {
            const int64_t pair = plan.first_rows[static_cast<size_t>(tap)] + c / 2;
            const float got = value(at + reads[static_cast<size_t>(pair)] + c % 2);
            const bool there = inside && c < channels;
            const float wanted = there ? x[static_cast<size_t>((iy * width + ix) * channels + c)] : 0.0f;
            expect(c < channels ? got == wanted : std::isfinite(got), other);
          }
        }
      }
    }
  }
}

}  // namespace host
