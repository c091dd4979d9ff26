#include "bands.h"

#include <algorithm>

namespace compress {

namespace {

// Planes of fewer pixels are one band: threads divide their channels, and tiles may go on from row to row.
constexpr int64_t kBandedPixels = 512;

// A band's memory stays in the second cache level, beside weights and what is read and written.
constexpr int64_t kBandFloats = 32 << 10;

// Rows of the input that the outputs [first, last) of an axis need, within the input.
struct Needed {
  Needed(const Axis& axis, int64_t size, int64_t first, int64_t last)
      : begin(std::clamp<int64_t>(first * axis.stride - axis.pad_begin, 0, size)),
        end(std::clamp<int64_t>(
            (last - 1) * axis.stride - axis.pad_begin + (axis.kernel - 1) * axis.dilation + 1, begin, size)) {
  }
  int64_t begin, end;
};

}  // namespace

bool comes_in_bands(const Window& first, int64_t input_height, int64_t input_width) {
  return first.y.outputs(input_height) * first.x.outputs(input_width) >= kBandedPixels;
}

BandPlan make_plan(const BandShape& shape, int64_t input_height, int64_t input_width, int32_t stretches) {
  const Window &first = shape.first, &second = shape.second;
  BandPlan plan = {};
  plan.input_height = input_height;
  plan.input_width = input_width;
  plan.between_width = first.x.outputs(input_width);
  const int64_t between_height = first.y.outputs(input_height);
  const int64_t output_height = second.y.outputs(between_height);

  const bool banded = comes_in_bands(first, input_height, input_width);
  const Axis& y = second.y;
  const int64_t fitting = kBandFloats / (plan.between_width * shape.pitch);
  const int64_t rows = banded
                           ? std::max<int64_t>(1, (fitting - (y.kernel - 1) * y.dilation - 1) / y.stride + 1)
                           : output_height;
  plan.sum_rows = banded ? output_height : 1;
  for (int64_t s = 0; s < stretches; ++s) {
    plan.first_band.push_back(static_cast<int32_t>(plan.bands.size()));
    const int64_t end = output_height * (s + 1) / stretches;
    Needed before(y, 0, 0, 1);  // nothing
    for (int64_t row = output_height * s / stretches; row < end; row += rows) {
      const int64_t last = std::min(row + rows, end);
      const Needed needed(y, between_height, row, last);
      Band band = {};
      band.kept = std::clamp<int64_t>(before.end - needed.begin, 0, needed.end - needed.begin);
      band.kept_from = band.kept == 0 ? 0 : needed.begin - before.begin;
      band.made = make_geometry(first.y, first.x, input_height, input_width, shape.made_tile,
                                {needed.begin + band.kept, needed.end, needed.begin, 0, banded});
      band.read = make_geometry(second.y, second.x, between_height, plan.between_width, shape.read_tile,
                                {row, last, 0, needed.begin, banded});
      plan.most_rows = std::max(plan.most_rows, needed.end - needed.begin);
      plan.bands.push_back(std::move(band));
      before = needed;
    }
  }
  plan.first_band.push_back(static_cast<int32_t>(plan.bands.size()));
  return plan;
}

// A pair of vectors reads the inputs as often as one, and both sides of a cut between rows make those that
// both need.
Grid divide_bands(const BandShape& shape, int64_t input_height, int64_t input_width, int32_t vectors,
                  int32_t shares) {
  const Axis& y = shape.second.y;
  const int64_t rows = y.outputs(shape.first.y.outputs(input_height));
  const bool banded = comes_in_bands(shape.first, input_height, input_width);
  const int64_t twice = std::max<int64_t>(0, (y.kernel - 1) * y.dilation + 1 - y.stride);
  const auto most = static_cast<int32_t>(banded ? std::min<int64_t>(shares, rows) : 1);
  return cheapest_grid(shares, most, vectors, [&](int64_t stretches, int64_t of_part) {
    const int64_t made = (rows + stretches - 1) / stretches * y.stride + (stretches == 1 ? 0 : twice);
    return made * (5 * of_part + of_part % 2);
  });
}

void share_bands(const Grid& grid, int32_t vectors, const bool* kinds, const SharedWork& shared) {
  share_grid(
      grid, vectors, [&](int32_t v, int32_t end) { return segment_width(v, end, kinds); },
      [](int32_t stretch) { return stretch; }, shared);
}

std::shared_ptr<const BandPlan> LastPlan::get(const BandShape& shape, int64_t input_height,
                                              int64_t input_width, int32_t stretches) {
  return last_.get(
      [&](const BandPlan& last) {
        return last.input_height == input_height && last.input_width == input_width &&
               last.num_stretches() == stretches;
      },
      [&] { return make_plan(shape, input_height, input_width, stretches); });
}

}  // namespace compress
