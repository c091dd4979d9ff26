// Packed channels of bytes back to their places, and residual sums of them; contract at Int8UnpackTask.
#ifndef COMPRESS_KERNELS_INT8_UNPACK_H_
#define COMPRESS_KERNELS_INT8_UNPACK_H_

#include "kernels/int8.h"
#include "kernels/int8_tasks.h"

namespace {

using compress::Int8UnpackTask;

template <bool kSum>
inline void unpack_int8_pixels(const Int8UnpackTask& task) {
  constexpr float kHighest = 255.0f;
  const Vec lower = broadcast(&task.lower), upper = broadcast(&kHighest);
  const float minus_x_zero = -task.x_zero, minus_z_zero = -task.z_zero;
  const Vec x_shift = broadcast(&minus_x_zero), x_scale = broadcast(&task.x_scale);
  const Vec z_shift = broadcast(&minus_z_zero), z_scale = broadcast(&task.z_scale);
  const Vec y_zero = broadcast(&task.y_zero);
  const uint8_t* x = task.x;
  const uint8_t* z = task.z;
  uint8_t* y = task.y;
  for (int64_t p = 0; p < task.pixels; ++p, x += task.k, y += task.channels) {
    for (int b = 0, c = 0; c < task.channels; ++b, c += kLanes) {
      const uint8_t* const from = x + task.starts[b];
      const Vec value = mul(add(to_floats(load_first_bytes(from, task.x_end - from)), x_shift), x_scale);
      Vec sum = take(zero(), value, load_lanes(task.spread + b * kLanes));
      if constexpr (kSum) {
        const Vec other = to_floats(load_first_bytes(z + c, task.channels - c));
        sum = add(sum, mul(add(other, z_shift), z_scale));
      }
      store_bytes(y + c, round_to_bytes(clamp(add(sum, y_zero), lower, upper)), task.channels - c);
    }
    if constexpr (kSum) z += task.channels;
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
