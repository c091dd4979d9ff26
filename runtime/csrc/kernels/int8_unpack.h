// Packed channels of bytes back to their places, and residual sums of them; contract at Int8UnpackTask.
#ifndef COMPRESS_KERNELS_INT8_UNPACK_H_
#define COMPRESS_KERNELS_INT8_UNPACK_H_

#include "kernels/int8.h"
#include "kernels/int8_tasks.h"

namespace {

using compress::Int8UnpackTask;

// Pixels of one block of channels after the other, so few that they stay in the first cache level.
constexpr int64_t kUnpackedAtATime = 32;

// Block b of some pixels, whose x, z and y these are; `kWhole`: a vector may be read and written anywhere.
template <bool kSum, bool kWhole>
inline void unpack_int8_block(const Int8UnpackTask& task, const uint8_t* x, const uint8_t* z, uint8_t* y,
                              int64_t pixels, int b) {
  constexpr float kHighest = 255.0f;
  const Vec lower = broadcast(&task.lower), upper = broadcast(&kHighest);
  const Vec x_scale = broadcast(&task.x_scale), z_scale = broadcast(&task.z_scale);
  const Vec shift = broadcast(&task.shift), absent = broadcast(&task.x_zero);
  const Lanes places = load_lanes(task.spread + b * kLanes);
  const int c = b * kLanes, left = task.channels - c;
  x += task.starts[b];
  for (int64_t p = 0; p < pixels; ++p, x += task.k, y += task.channels) {
    const Lanes bytes = kWhole ? load_bytes(x) : load_first_bytes(x, task.x_end - x);
    Vec sum = mul(take(absent, to_floats(bytes), places), x_scale);
    if constexpr (kSum) {
      const Lanes other = kWhole ? load_bytes(z + c) : load_first_bytes(z + c, left);
      sum = add(sum, mul(to_floats(other), z_scale));
      z += task.channels;
    }
    const Lanes rounded = round_to_bytes(clamp(add(sum, shift), lower, upper));
    store_bytes(y + c, rounded, kWhole ? kLanes : left);
  }
}

template <bool kSum>
inline void unpack_int8_pixels(const Int8UnpackTask& task) {
  const int blocks = (task.channels + kLanes - 1) / kLanes;
  for (int64_t first = 0; first < task.pixels; first += kUnpackedAtATime) {
    const int64_t left = task.pixels - first, pixels = left < kUnpackedAtATime ? left : kUnpackedAtATime;
    const uint8_t* const x = task.x + first * task.k;
    const uint8_t* const z = kSum ? task.z + first * task.channels : nullptr;
    uint8_t* const y = task.y + first * task.channels;
    for (int b = 0; b < blocks; ++b) {
      const uint8_t* const last = x + (pixels - 1) * task.k + task.starts[b];
      if ((b + 1) * kLanes <= task.channels && task.x_end - last >= kLanes) {
        unpack_int8_block<kSum, true>(task, x, z, y, pixels, b);
      } else {
        unpack_int8_block<kSum, false>(task, x, z, y, pixels, b);
      }
    }
  }
}

void unpack_int8(const Int8UnpackTask& task) {
  if (task.z == nullptr) {
    unpack_int8_pixels<false>(task);
  } else {
    unpack_int8_pixels<true>(task);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_INT8_UNPACK_H_
