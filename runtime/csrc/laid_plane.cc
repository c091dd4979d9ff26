#include "laid_plane.h"

#include <algorithm>
#include <cstring>

namespace compress {

namespace {

LaidAxis laid_axis(const Axis& axis, int64_t size, bool even) {
  if (!even) return {axis, size};
  if (axis.kernel == 1 && axis.stride > 1)
    return {{1, 1, 1, 0, 0}, axis.outputs(size), axis.stride, axis.pad_begin};
  Axis padded = axis;
  padded.pad_begin = padded.pad_end = 0;
  return {padded, size + axis.pad_begin + axis.pad_end, 1, axis.pad_begin};
}

// Copies pixels, each `from_step` bytes behind the last one, so that each has whole groups of channels. What
// follows a pixel's channels is multiplied by weights of 0, so it may be the next pixel's, up to `end`.
void copy_pixels(const uint8_t* from, int64_t from_step, const uint8_t* end, int64_t pixels, int64_t channels,
                 int64_t pitch, uint8_t* to) {
  if (channels == pitch && from_step == pitch) {
    std::memcpy(to, from, static_cast<size_t>(pixels * pitch));
    return;
  }
  int64_t p = 0;
  if (pitch == kGroup) {
    for (; p < pixels && end - from >= kGroup; ++p, from += from_step, to += pitch)
      std::memcpy(to, from, kGroup);
  } else {
    for (; p < pixels && end - from >= pitch; ++p, from += from_step, to += pitch)
      std::memcpy(to, from, static_cast<size_t>(pitch));
  }
  for (; p < pixels; ++p, from += from_step, to += pitch) {
    std::memset(to + pitch - kGroup, 0, kGroup);
    std::memcpy(to, from, static_cast<size_t>(channels));
  }
}

}  // namespace

bool LaidPlane::is_input() const {
  const auto same = [](const LaidAxis& axis, int64_t size) {
    return axis.step == 1 && axis.pad == 0 && axis.size == size;
  };
  return channels % kGroup == 0 && same(y, input_height) && same(x, input_width);
}

LaidPlane laid_plane(const Window& window, int64_t input_height, int64_t input_width, int32_t channels,
                     bool even) {
  return {laid_axis(window.y, input_height, even), laid_axis(window.x, input_width, even), input_height,
          input_width, channels};
}

void lay_out(const LaidPlane& plane, const uint8_t* input, uint8_t zero, int64_t first, int64_t last,
             uint8_t* to) {
  const auto inside = [](const LaidAxis& axis, int64_t inputs) {
    return Inside(-axis.pad, axis.step, inputs, axis.size);
  };
  const Inside rows = inside(plane.y, plane.input_height), columns = inside(plane.x, plane.input_width);
  const int64_t pitch = plane.pitch(), row_bytes = plane.x.size * pitch;
  const uint8_t* const end = input + plane.input_height * plane.input_width * plane.channels;
  const auto fill = [&](uint8_t* from, const uint8_t* behind) {
    std::memset(from, zero, static_cast<size_t>(behind - from));
  };
  for (int64_t r = first; r < last; ++r) {
    uint8_t* const row = to + r * row_bytes;
    if (r < rows.first || r >= rows.last || columns.first == columns.last) {
      fill(row, row + row_bytes);
      continue;
    }
    const int64_t y = r * plane.y.step - plane.y.pad, x = columns.first * plane.x.step - plane.x.pad;
    fill(row, row + columns.first * pitch);
    copy_pixels(input + (y * plane.input_width + x) * plane.channels, plane.x.step * plane.channels, end,
                columns.last - columns.first, plane.channels, pitch, row + columns.first * pitch);
    fill(row + columns.last * pitch, row + row_bytes);
  }
}

}  // namespace compress
