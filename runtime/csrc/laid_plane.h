// The plane that a convolution of bytes reads: the input, or a copy of it in which every pixel has whole
// groups of channels and, for kernels that want pixels evenly apart, the padding is there and pixels that no
// output reads are not.
#ifndef COMPRESS_LAID_PLANE_H_
#define COMPRESS_LAID_PLANE_H_

#include <cstdint>

#include "geometry.h"
#include "kernels/table.h"

namespace compress {

inline int32_t groups_of(int32_t channels) { return (channels + kGroup - 1) / kGroup; }

// One axis of it: place p is the input's step * p - pad.
struct LaidAxis {
  Axis axis;  // of the convolution on it
  int64_t size, step = 1, pad = 0;
};

struct LaidPlane {
  LaidAxis y, x;
  int64_t input_height, input_width;
  int32_t channels;

  // True where it is the input itself.
  bool is_input() const;
  // Bytes of a pixel, and of all.
  int64_t pitch() const { return int64_t{groups_of(channels)} * kGroup; }
  int64_t bytes() const { return y.size * x.size * pitch(); }
};

// `even`: for kernels that want pixels evenly apart.
LaidPlane laid_plane(const Window& window, int64_t input_height, int64_t input_width, int32_t channels,
                     bool even);

// Writes rows [first, last) of its y.size to where they belong in `to`, plane.bytes() all together; `zero` as
// the padding. Behind a pixel's channels stands anything.
void lay_out(const LaidPlane& plane, const uint8_t* input, uint8_t zero, int64_t first, int64_t last,
             uint8_t* to);

}  // namespace compress

#endif  // COMPRESS_LAID_PLANE_H_
