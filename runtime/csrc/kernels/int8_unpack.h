// Packed channels of bytes back to their places, and residual sums of them; contract at Int8UnpackTask.
#ifndef COMPRESS_KERNELS_INT8_UNPACK_H_
#define COMPRESS_KERNELS_INT8_UNPACK_H_

#include "kernels/int8.h"
#include "kernels/int8_tasks.h"

namespace {

using compress::Int8UnpackTask;

// Pixels of one block of channels after the other, so few that they stay in the first cache level.
constexpr int64_t kUnpackedAtATime = 32;

#ifdef COMPRESS_PACKS_BYTES
constexpr int kBlocksAtOnce = 4;
#else
constexpr int kBlocksAtOnce = 1;
inline void store_blocks(uint8_t* y, const Vec (&values)[1]) {
  store_bytes(y, round_to_bytes(values[0]), kLanes);
}
#endif

// Blocks b … b + kBlocks - 1 of some pixels, whose x, z and y these are; `kWhole`: their vectors may be read
// and written anywhere.
template <bool kSum, bool kWhole, int kBlocks>
inline void unpack_int8_blocks(const Int8UnpackTask& task, const uint8_t* x, const uint8_t* z, uint8_t* y,
                               int64_t pixels, int b) {
  constexpr float kHighest = 255.0f;
  const Vec lower = broadcast(&task.lower), upper = broadcast(&kHighest);
  const Vec x_scale = broadcast(&task.x_scale), z_scale = broadcast(&task.z_scale);
  const Vec shift = broadcast(&task.shift), absent = broadcast(&task.x_zero);
  const int c = b * kLanes, left = task.channels - c;
  Lanes places[kBlocks];
  const uint8_t* from[kBlocks];
#pragma GCC unroll 4
  for (int i = 0; i < kBlocks; ++i) {
    places[i] = load_lanes(task.spread + c + i * kLanes);
    from[i] = x + task.starts[b + i];
  }
  for (int64_t p = 0; p < pixels; ++p, y += task.channels) {
    Vec values[kBlocks];
#pragma GCC unroll 4
    for (int i = 0; i < kBlocks; ++i) {
      const Lanes bytes = kWhole ? load_bytes(from[i]) : load_first_bytes(from[i], task.x_end - from[i]);
      Vec sum = mul_add_once(take(absent, to_floats(bytes), places[i]), x_scale, shift);
      if constexpr (kSum) {
        const uint8_t* const other = z + c + i * kLanes;
        sum =
            mul_add_once(to_floats(kWhole ? load_bytes(other) : load_first_bytes(other, left)), z_scale, sum);
      }
      values[i] = clamp(sum, lower, upper);
      from[i] += task.k;
    }
    if constexpr (kSum) z += task.channels;
    if constexpr (kWhole && kBlocks == kBlocksAtOnce) {
      store_blocks(y + c, values);
    } else {
      store_bytes(y + c, round_to_bytes(values[0]), kWhole ? kLanes : left);
    }
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
    const auto whole = [&](int b) {  // starts ascend
      const uint8_t* const last = x + (pixels - 1) * task.k + task.starts[b];
      return (b + 1) * kLanes <= task.channels && task.x_end - last >= kLanes;
    };
    for (int b = 0; b < blocks;) {
      const int behind = b + kBlocksAtOnce;
      if (behind <= blocks && whole(behind - 1)) {
        unpack_int8_blocks<kSum, true, kBlocksAtOnce>(task, x, z, y, pixels, b);
        b = behind;
      } else {
        whole(b) ? unpack_int8_blocks<kSum, true, 1>(task, x, z, y, pixels, b)
                 : unpack_int8_blocks<kSum, false, 1>(task, x, z, y, pixels, b);
        ++b;
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
