#include "matrix_plan.h"

#include <algorithm>
#include <cstring>

namespace compress {

namespace {

// Bytes of the parts that a thread has at a time, of the second cache level. (Where no place is laid out
// twice, a first level's took as long.)
constexpr int64_t kBandBytes = int64_t{1} << 19;

// From so many tiles on, kUnit of them are taken and added up together.
constexpr int32_t kManyTiles = 64;
constexpr int32_t kUnit = 4;

// Offsets are 32 bits.
constexpr int64_t kMostValues = int64_t{1} << 30;

// The phases of an axis, its inputs' places modulo the stride, that its taps read.
struct Phases {
  explicit Phases(const Axis& of) : axis(of) {
    for (int64_t tap = 0; tap < axis.kernel; ++tap) {
      const int64_t phase = tap * axis.dilation % axis.stride;
      if (std::find(used.begin(), used.end(), phase) == used.end()) used.push_back(phase);
    }
  }
  // Where a tap's phase is in `used`, and how far into it the tap reads.
  int64_t number(int64_t tap) const {
    return std::find(used.begin(), used.end(), tap * axis.dilation % axis.stride) - used.begin();
  }
  int64_t place(int64_t tap) const { return tap * axis.dilation / axis.stride; }
  int64_t reach() const { return place(axis.kernel - 1); }

  Axis axis;
  std::vector<int64_t> used;
};

}  // namespace

MatrixPlan::MatrixPlan(const Window& window, int64_t height, int64_t width, int32_t inputs, int32_t lanes)
    : input_height(height), input_width(width), channels(inputs), matrices(0) {
  const Phases y(window.y), x(window.x);
  const Axis& across = window.x;
  const int64_t output_height = window.y.outputs(height), output_width = across.outputs(width);

  // A row's taps side by side where they take fewer matrices, else each for itself.
  const int64_t even = divided_up(channels, 2) * 2, whole = divided_up(channels, kMatrixValues);
  const int64_t together = divided_up(across.kernel * even, kMatrixValues);
  const bool pointwise = across.kernel == 1 && across.stride == 1;  // its input is laid out as it lies
  const bool apart = !pointwise && (across.dilation > 1 || 8 * together > 7 * across.kernel * whole);
  pitch = static_cast<int32_t>(apart ? whole * kMatrixValues : even);
  place_pixels_ = static_cast<int32_t>(apart ? 1 : across.stride);
  place_stride = pitch * place_pixels_;
  // Behind taps side by side a matrix reads on.
  const int64_t reach_x = apart ? x.reach() : divided_up(together * kMatrixValues, place_stride) - 1;
  row_pixels = static_cast<int32_t>(output_width);
  row_places =
      static_cast<int32_t>(output_width + (apart ? x.reach() : divided_up(across.kernel, across.stride) - 1));
  places = static_cast<int32_t>((output_height - 1) * row_places + output_width);
  num_tiles = static_cast<int32_t>(divided_up(places, kMatrixPlaces));
  unit = num_tiles >= kManyTiles ? kUnit : 1;
  reach_ = y.reach() * row_places + reach_x;
  row_step_ = window.y.stride;
  column_step_ = apart ? across.stride : 1;

  const int64_t columns = apart ? static_cast<int64_t>(x.used.size()) : 1;
  for (const int64_t row : y.used) {
    for (int64_t px = 0; px < columns; ++px) {
      const int64_t column = apart ? x.used[static_cast<size_t>(px)] : 0;
      planes_.push_back({row - window.y.pad_begin, column - across.pad_begin});
    }
  }
  const auto num_planes = static_cast<int64_t>(planes_.size());
  const int64_t place_bytes =
      num_planes * place_stride * kFloatParts * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t room = kBandBytes / place_bytes - reach_;
  const int64_t least = divided_up(reach_ + 1, kMatrixPlaces);
  const int64_t tiles =
      std::clamp<int64_t>(room / kMatrixPlaces, std::min<int64_t>(least, num_tiles), num_tiles);
  band_places = static_cast<int32_t>(divided_up(tiles, unit) * unit * kMatrixPlaces);
  plane_stride_ = (band_places + reach_) * place_stride;
  // Not a multiple of what shares a set of the first cache level.
  part_stride = divided_up(num_planes * plane_stride_, 64) * 64 + 2 * kMatrixValues;
  fits = std::max(part_stride, output_height * row_places) < kMostValues;

  constexpr int32_t kPairs = kMatrixValues / 2;
  const auto add_run = [&](int64_t offset, int64_t values) {
    const auto count = static_cast<int32_t>(divided_up(values, kMatrixValues));
    runs.push_back({static_cast<int32_t>(offset), count});
    const int32_t first = matrices * kPairs + static_cast<int32_t>(values / 2);
    matrices += count;
    if (first < matrices * kPairs) unused_rows.push_back({first, matrices * kPairs});
  };
  for (int64_t ky = 0; ky < window.y.kernel; ++ky) {
    const int64_t row = y.number(ky) * columns * plane_stride_ + y.place(ky) * row_places * place_stride;
    for (int64_t kx = 0; kx < across.kernel; ++kx) {
      const int64_t before = apart ? 0 : kx * even / 2;
      first_rows.push_back(matrices * kPairs + static_cast<int32_t>(before));
      if (apart) add_run(row + x.number(kx) * plane_stride_ + x.place(kx) * pitch, even);
    }
    if (!apart) add_run(row, across.kernel * even);
  }
  vector_values = int64_t{matrices} * kMatrixValues * lanes;
}

int64_t MatrixPlan::values_of(int64_t tiles) const {
  return static_cast<int64_t>(planes_.size()) * (tiles * kMatrixPlaces + reach_) * place_stride;
}

void MatrixPlan::lay_out(const MatrixKernels& kernels, const float* x, int32_t first, int32_t last,
                         BFloat16* to) const {
  const int64_t begin = int64_t{first} * kMatrixPlaces, end = int64_t{last} * kMatrixPlaces + reach_;
  SplitTask task = {};
  task.channels = channels;
  task.pitch = pitch;
  task.part_stride = part_stride;
  task.from_step = column_step_ * channels;
  const auto clear = [&](BFloat16* from, int64_t pixels) {
    for (int32_t part = 0; part < kFloatParts && pixels > 0; ++part)
      std::memset(from + part * part_stride, 0, sizeof(BFloat16) * static_cast<size_t>(pixels * pitch));
  };
  for (const Plane& plane : planes_) {
    BFloat16* out = to;
    for (int64_t place = begin, next; place < end; place = next) {
      const int64_t row = place / row_places;
      next = std::min((row + 1) * row_places, end);
      const int64_t pixels = (next - place) * place_pixels_, input_row = row * row_step_ + plane.row;
      if (input_row < 0 || input_row >= input_height) {
        clear(out, pixels);
      } else {
        // Of the first pixel.
        const int64_t column = (place - row * row_places) * place_pixels_ * column_step_ + plane.column;
        const Inside inside(column, column_step_, input_width, pixels);
        clear(out, inside.first);
        clear(out + inside.last * pitch, pixels - inside.last);
        task.from = x + (input_row * input_width + column + inside.first * column_step_) * channels;
        task.pixels = static_cast<int32_t>(inside.last - inside.first);
        task.to = out + inside.first * pitch;
        if (task.pixels > 0) kernels.split(task);
      }
      out += pixels * pitch;
    }
    to += plane_stride_;
  }
}

std::shared_ptr<const MatrixPlan> LastMatrixPlan::get(const Window& window, int64_t input_height,
                                                      int64_t input_width, int32_t channels, int32_t lanes) {
  return last_.get(
      [&](const MatrixPlan& last) {
        return last.input_height == input_height && last.input_width == input_width &&
               last.channels == channels;
      },
      [&] { return MatrixPlan(window, input_height, input_width, channels, lanes); });
}

}  // namespace compress
