// Arguments of the kernels on whole numbers of 8 bits; vocabulary as in table.h. Four input channels that
// follow each other in the packed input make a group: a group's four weights of one output lie together, so
// that one instruction multiplies and adds them. Where the channels are no multiple of four, the last group's
// missing ones have weights 0. Sums are exact: int32, and no layer is so large that they could overflow.
#ifndef COMPRESS_KERNELS_INT8_TASKS_H_
#define COMPRESS_KERNELS_INT8_TASKS_H_

#include <cstdint>

#include "kernels/tiling.h"

namespace compress {

struct SqueezeStep;

inline constexpr int kGroup = 4;
inline constexpr int kMaxInt8Vectors = 2;

// y[p][o] = to_uint8(clamp(sum * scale[o] + bias[o], lower, upper)), rounded to the nearest, ties to even,
// where sum = start[region of p][o] + sum over live channels c and taps t inside the input of x[q(p, t)][c] *
// w[o][t][c].
//   x [H][W][pitch] with pitch = kGroup * groups, y [pixels][k], any alignment; weights
//   [vector][tap][group][lanes][kGroup]; scale and bias in output order, padded to whole vectors; 0 <= lower
//   <= upper <= 255. Product and sum are rounded once, together, on every instruction set.
// A call covers `num_vectors` (1 to kMaxInt8Vectors) vectors of outputs from `first_vector`, whose weights
// start at `w`, and the tiles [first_tile, last_tile).
struct Int8ConvTask {
  const uint8_t* x;
  const uint8_t* x_end;  // it may be read up to here
  uint8_t* y;
  int64_t vector_stride;  // weights from one vector to the next
  int32_t groups;
  int32_t pitch;  // bytes from input pixel to input pixel
  int32_t k;
  const float* scale;
  const float* bias;
  float lower, upper;
  int32_t* start;      // [regions][kMaxInt8Vectors * lanes], of this call's vectors; null: all 0
  int32_t input_zero;  // what start_int8 works out `start` for
  Tiling tiling;
  // For a depthwise convolution: where it is not null, not y is written but floats[p][o], the byte that y
  // would have minus floats_zero; whole vectors, k being a multiple of lanes.
  float* floats;
  float floats_zero;
};

// y[p][c] = to_uint8(clamp(sum * scale[c] + shift[c], lower, upper) + post[c]), cut to 0 … 255 and rounded as
// of Int8ConvTask, where sum = sum over taps t inside the input of x[q(p, t)][c] * w[t][c], for `channels`
// channels of each pixel. Of x and w all are whole numbers, so few and small that no sum is rounded.
//   x [H][W][pitch], y [pixels][k], channels up to pitch and k; w [tap][w_pitch]; scale, shift and post
//   padded to whole vectors.
struct Int8DepthwiseTask {
  const float* x;
  uint8_t* y;
  const float* w;
  const float* scale;
  const float* shift;
  const float* post;
  int32_t w_pitch;
  int32_t channels;
  int32_t pitch;  // floats from input pixel to input pixel
  int32_t k;      // bytes from output pixel to output pixel
  float lower, upper;
  Tiling tiling;
};

// out[t][g][lane][i] = weight of the lane's winner for tap t and the i-th channel of group g, 0 where there
// is no such channel, for one output vector.
//   w [vector][C][tap][lanes], or [K][tap][C] where Int8Kernels::weight_rows; out
//   [tap][groups][lanes][kGroup], aligned to a vector.
struct Int8PackTask {
  const int8_t* w;
  int32_t all_channels;  // C
  int32_t channels;      // how many are live
  int32_t taps;
  int8_t* out;

  // Of vectors of outputs:
  int64_t vector_stride;
  const int32_t* live;  // ascending
  const SqueezeStep* steps;
  int32_t num_steps;
  bool far;  // the weights are not in the caches: ask for them early

  // Of rows, which may be read kPackSlack bytes beyond their end:
  const int32_t* winners;
  int32_t outputs;            // of this vector; the lanes behind them may be packed with anything
  const uint64_t* live_bits;  // a bit for each of all channels; null: all are live, in whole groups
  int8_t* rows;               // memory of lanes * row_pitch bytes
  int64_t row_pitch;          // channels + 2 * kPackSlack or more
};

inline constexpr int kPackSlack = 64;

// y[p][c] = to_uint8(clamp(z[p][c] * z_scale + (x[p][i] * x_scale + shift), lower, 255)) where i is the input
// of channel c, and x_zero stands for x[p][i] where it has none. Each product is rounded once, together with
// its sum, on every instruction set; the result to the nearest, ties to even.
//   x [pixels][k], y and z [pixels][channels]; starts and spread as Places has them.
struct Int8UnpackTask {
  const uint8_t* x;
  const uint8_t* x_end;  // it may be read up to here
  const uint8_t* z;      // may be y; null: nothing is added
  int64_t pixels;
  int32_t k;
  int32_t channels;
  const int32_t* starts;
  const int32_t* spread;
  float x_zero;
  float x_scale, z_scale, shift;
  float lower;  // 0 or more
  uint8_t* y;
};

struct Int8Kernels {
  TileShape tile;  // of conv; other kernels take no tiles of its geometry
  int32_t speed;   // vectors of products that conv makes while others make one

  void (*conv)(const Int8ConvTask& task, const int8_t* w, int first_vector, int num_vectors, int first_tile,
               int last_tile);

  // start[region][o] = -input_zero * sum of the weights that meet the input there: what `conv` must start
  // from where the input's byte for 0.0 is input_zero. For the vectors of one call of `conv`.
  void (*start)(const Int8ConvTask& task, const int8_t* w, int num_vectors);

  bool weight_rows;  // as Int8PackTask has them
  void (*pack)(const Int8PackTask& task);

  void (*unpack)(const Int8UnpackTask& task);

  // The tiles [first_tile, last_tile), as of KernelTable's depthwise.
  void (*depthwise)(const Int8DepthwiseTask& task, int first_tile, int last_tile);

  // sums[c] = sum over pixels of |x[p][c] - zeros[c]|, zeros null: 0. x [pixels][channels], so few pixels
  // that the sums are below 2^31.
  void (*sum_bytes)(const uint8_t* x, int64_t pixels, int32_t channels, const int32_t* zeros, int32_t* sums);
};

}  // namespace compress

#endif  // COMPRESS_KERNELS_INT8_TASKS_H_
