// What one instruction set offers: the kernels' arguments, contracts and the table that holds them. The table
// drives dispatch, tests and benchmarks alike. Included by ISA code, so: plain structs only, no STL.
//
// Shared vocabulary. A layer has C input and K output channels; `channels` of the C exist in the packed
// input, `k` of the K win. Activations are packed NHWC: [pixel][channel], channels without gaps. Weights are
// blocks of `lanes` outputs ("vectors"): vector v starts at v * vector_stride; inside it, the row of (tap,
// channel) holds the `lanes` weights of that tap and channel.
#ifndef COMPRESS_KERNELS_TABLE_H_
#define COMPRESS_KERNELS_TABLE_H_

#include <cstddef>
#include <cstdint>

#include "half.h"
#include "kernels/int8_tasks.h"
#include "kernels/tiling.h"

// For all that is given a tile's sums: they lie in memory where their address goes to a function, and clang
// would not inline those of the largest tiles (a third of the speed).
#define COMPRESS_INLINE inline __attribute__((always_inline))

namespace compress {

// Widest vector of any instruction set; sizes what portable code prepares for kernels.
inline constexpr int kMaxLanes = 16;

// Channels that kernels for an image's have, at most.
inline constexpr int kFewChannels = 4;

// What memory hands over at a time.
inline constexpr int kLineFloats = 16;
inline constexpr int kLineHalves = 32;
inline constexpr int kLineBytes = 64;

// What happens to a sum before it is stored: clamp(scale * (sum + bias) + post, lower, upper); the arrays are
// in output order and padded to whole vectors. NaN passes through.
struct Epilogue {
  const float* bias;
  const float* scale;
  const float* post;  // null: nothing is added
  float lower, upper;
};

// Memory to ask for while computing, so that it is near when it is read: line rows[i] floats behind
// sources[s], for every i and s, and then what `then` names. The cursor moves on from call to call; what a
// call does not get to is left out.
struct Prefetch {
  const float* const* sources;
  int32_t num_sources;
  const int32_t* rows;
  int32_t num_rows;
  int32_t source, row;  // cursor
  Prefetch* then;       // null: nothing
};

// y[p][o] = epilogue(sum over live channels c and taps t inside the input of x[q(p, t)][c] * w[o][t][c]).
//   x [H][W][pitch], y [pixels][k]; any sizes, channels up to pitch; weights aligned to vectors, x and y as
//   floats. Weights lie as [vector][tap][channel][lanes] when channel_offsets is null, otherwise row (t, c)
//   of a vector lies at channel_offsets[c] + t * tap_stride floats. raw stores bare sums, whole vectors, with
//   row pitch k (a multiple of lanes); the epilogue is not read.
// A call covers `num_vectors` (1 or 2) vectors of outputs from `first_vector`, whose weights start at `w`,
// and the tiles [first_tile, last_tile).
// With `sums`, several calls over all tiles share one sum, each with some of the channels: all but the first
// (`begins`) go on with what is in `sums`, and only the last (`ends`) writes y. sums: tile_floats() floats
// for each tile, aligned to vectors.
struct ConvTask {
  const float* x;
  float* y;
  int64_t vector_stride;
  const int32_t* channel_offsets;
  int32_t tap_stride;
  int32_t channels;
  int32_t pitch;  // floats from input pixel to input pixel
  int32_t k;
  bool raw;
  Epilogue epilogue;
  Tiling tiling;
  bool copies_lines;   // each pixel's inputs are read from a copy, made a line at a time
  bool far_inputs;     // a tile's inputs are asked for while the tile before it is computed: one tap, no gaps
  Prefetch* prefetch;  // null: nothing to ask for
  float* sums;         // null: one call adds up everything
  bool begins, ends;
  // For the next layer's predictor: tile_sums[t * tile_sums_pitch + o] = sum over the pixels of tile t of
  // |y[p][o]|, whole vectors, whose lanes beyond k hold anything. Null: nobody asks; so it is with raw.
  float* tile_sums;
  int32_t tile_sums_pitch;
};

// A 3x3 convolution of stride 1 by Winograd's minimal filtering F(2x2, 3x3): y as of ConvTask, in tiles of
// 2x2 outputs, each computed from a patch of 4x4 inputs by 16 products a pair of channels instead of 36.
//   x [H][W][pitch], y [H'][W'][k]; tiles are numbered row by row, row_tiles = ceil(W' / 2) a row.
//   Transformed patches of tiles [first, last) lie as [tile][patch_pitch], patch_pitch being the channels
//   padded to whole vectors, from product to product patches_stride() apart; those of one vector of
//   transformed weights as [channel][lanes], product_stride apart.
struct WinogradTask {
  const float* x;
  int32_t channels;
  int32_t pitch;  // floats from input pixel to input pixel
  int32_t patch_pitch;
  int32_t input_height, input_width;
  int32_t pad_top, pad_left;
  float* y;
  int32_t k;
  int32_t output_height, output_width, row_tiles;
  int64_t vector_stride, product_stride;  // of transformed weights
  Epilogue epilogue;
  Prefetch* prefetch;  // null: nothing to ask for
  float* tile_sums;    // as of ConvTask, of a call's tiles together
  int32_t tile_sums_pitch;
};
inline constexpr int kWinogradPatch = 4;
inline constexpr int kWinogradProducts = kWinogradPatch * kWinogradPatch;

// A line more than they take, so that one channel's do not share a set of the first cache level.
COMPRESS_INLINE int64_t patches_stride(int64_t tiles, int64_t patch_pitch) {
  return tiles * patch_pitch + kLineFloats;
}

// A convolution of floats by products of matrices of bfloat16 (Henry, Tang and Heinecke 2019): a float is the
// sum of three of them, its highest, middle and lowest 8 bits, a half of two, and a byte is one. Products of
// two are exact. With halves, the lowest bits' by the lowest are left out: less than 2^-24 of a product, half
// of what rounding it to a float may change. So y is as exact as of ConvTask.
using BFloat16 = uint16_t;
inline constexpr int kFloatParts = 3;
inline constexpr int kHalfParts = 2;

// The parts of a few pixels, to[part * part_stride + p * pitch + c] of from[p * from_step + c]; 0 for c from
// `channels` up to `pitch`.
struct SplitTask {
  const float* from;
  int64_t from_step;
  int32_t pixels;
  int32_t channels, pitch;
  BFloat16* to;
  int64_t part_stride;
};

// Weights of inputs that lie side by side: `matrices` times kMatrixValues of them, from `offset` on behind
// those of a place's first. What follows the last input is anything finite, multiplied by weights of 0.
struct MatrixRun {
  int32_t offset;
  int32_t matrices;
};
inline constexpr int kMatrixPlaces = 16;
inline constexpr int kMatrixValues = 32;
inline constexpr int kMatrixVectors = 4;

// y as of ConvTask, in tiles of kMatrixPlaces places. A row of outputs takes row_places of them, of which the
// first row_pixels are pixels.
//   x: parts, part_stride apart, of values, place_stride from place to place, first_place first; whole tiles
//   of them. Packed weights of a vector lie as [part][run][pair of inputs][lanes][2], vector_stride and
//   weight_part_stride apart.
struct MatrixTask {
  const BFloat16* x;
  int64_t part_stride;
  int32_t place_stride;
  int32_t first_place;
  const MatrixRun* runs;
  int32_t num_runs;
  int32_t places, row_places, row_pixels;
  float* y;
  int32_t k;
  int32_t weight_parts;
  int64_t vector_stride, weight_part_stride;
  Epilogue epilogue;
  Prefetch* prefetch;  // null: nothing to ask for
  float* unit_sums;    // as ConvTask's tile_sums, of `unit` tiles together, which a thread adds up in order
  int32_t unit_sums_pitch;
  int32_t unit;
};

// Where packed channels, k a pixel, go among all: for block b of `lanes` channels, counts[b] of them from
// starts[b] on go to where spread[b * lanes …] points (lane of the packed one, or -1).
struct Places {
  int32_t k;
  const int32_t* starts;
  const int32_t* counts;
  const int32_t* spread;
};

// y[p][c] = x[p][i] where channel i of x goes to c, else 0, for the channels [first, last): x [pixels][k], y
// [pixels][channels], first a multiple of lanes.
struct UnpackTask {
  const float* x;
  Places x_places;
  int64_t pixels;
  int32_t channels;
  int32_t first, last;
  // A sum: y = max(y + z, lower), NaN passing through. z is packed where z_places has starts, else
  // [pixels][channels], and may be y itself; or null: no sum.
  const float* z;
  Places z_places;
  float lower;
  float* y;
  // Besides a sum: what KernelTable's abs_sums makes of these channels of y where there are more than
  // kFewChannels in all, to the bit; or null.
  float* sums;
};

// One part of an output vector: lane i takes value lanes[i] of `source`, or keeps what it has where lanes[i]
// < 0. The steps of one vector follow each other; lanes no step fills are 0.
struct SqueezeStep {
  int32_t source;
  int32_t lanes[kMaxLanes];
};

// out[t][c][lane] = winners' columns of w's row (t, live[c]) for one output vector, for c in [first, last).
//   Of floats: w [vector][C][tap][lanes], a source of a step is a vector. Of halves and of bytes:
//   [line][C][tap][kLineHalves or kLineBytes], a source is half_source or byte_source of the row's numbers.
//   All, and out [tap][channels][lanes], 64-byte aligned.
struct PackTask {
  const float* w;  // all but one of these are null
  const Half* halves;
  const int8_t* bytes;
  int64_t vector_stride;   // values from vector to vector, or from line to line
  int32_t channel_stride;  // values from channel to channel
  int32_t tap_stride;      // values from tap to tap
  const int32_t* live;     // ascending
  int32_t channels;        // how many are live
  int32_t taps;
  const SqueezeStep* steps;
  int32_t num_steps;
  float* out;
};

// Pairs of the channels of PackTask as MatrixTask has them: pair p of tap t is row first_rows[t] + p of
// `out`. `from.out` is not written.
struct MatrixPackTask {
  PackTask from;
  const int32_t* first_rows;
  bool far;  // weights are asked for before they are packed
  BFloat16* out;
  int64_t part_stride;
};

// One plane of a band's input: to[i][j] = from[i * from_step + j * stride] for j in [begin, end), 0 for the
// other columns up to `width`, for every row i.
//   0 <= begin <= end <= width; rows of `width` floats follow each other in `to`. Nothing but the values
//   named is read, and nothing else written.
struct CopyTask {
  const float* from;
  int64_t from_step;
  int64_t stride;
  float* to;
  int32_t rows, width, begin, end;
};

// Output pixels of one tile that lie side by side, in the output as in each row's input, and in one vector.
struct Piece {
  int32_t source;  // floats behind where a row's first output pixel reads
  int32_t target;  // first pixel in the tile
};

// out[r][p] = planes[rows[r] + source of pixel p] for every row and pixel of a tile: the rows of a lowered
// feature map (im2col) that exist, and no others.
//   Pieces are ascending and cover the pixels from 0 on without gaps. `planes` must be readable one vector
//   past the last; lanes behind the pixels hold anything.
struct GatherTask {
  const float* planes;
  const int32_t* rows;
  int32_t num_rows;
  const Piece* pieces;
  int32_t num_pieces;
  int32_t width;  // floats of a row of `out`: one or two vectors
  float* out;
};

// y[o * y_stride + p] = clamp(sum over rows r of w[r][o] * x[r][p] + start, lower, upper) for all outputs o
// and pixels p of a tile, where start is bias[o], or with `adds` what y holds; NaN passes through.
//   x [num_rows][num_vectors * lanes], w [num_rows][num_outputs]; 1 to 2 vectors, 1 to max_tile outputs, 1 to
//   num_vectors * lanes pixels; everything aligned as floats; w readable one vector past its end.
struct MultiplyTask {
  const float* x;
  const float* w;
  int32_t num_rows;
  int32_t num_vectors;
  int32_t num_outputs;
  int32_t pixels;
  bool adds;
  const float* bias;
  float lower, upper;
  float* y;
  int64_t y_stride;
};

// y[p][c] = clamp(bias[c] + sum over taps t inside the input of x[q(p, t)][c] * w[t][c], lower, upper) +
// post[c], for `channels` channels of each pixel; NaN passes through.
//   x [H][W][pitch], y [pixels][k], channels up to pitch and k; w [tap][w_pitch], bias and post padded to
//   whole vectors.
struct DepthwiseTask {
  const float* x;
  float* y;
  const float* w;
  const float* bias;
  const float* post;
  int32_t w_pitch;
  int32_t channels;
  int32_t pitch;  // floats from input pixel to input pixel
  int32_t k;      // and from output pixel to output pixel
  float lower, upper;
  Tiling tiling;
  // For the next layer's predictor: row_sums[r * row_sums_pitch + c] = sum over the pixels of output row r of
  // |y[p][c] - post[c]|, whole vectors, whose lanes beyond `channels` hold anything; with a pitch of 0, of
  // all rows, which must then begin at the plane's first. A call has whole rows. Null: nobody asks.
  float* row_sums;
  int32_t row_sums_pitch;
};

// y[p][c] = the largest x[q(p, t)][c] over the taps t inside the input, of which every pixel has one, for the
// k channels of each pixel.
//   x [H][W][pitch], y [pixels][k], pitch k or more.
struct PoolTask {
  const float* x;
  float* y;
  int32_t pitch;  // floats from input pixel to input pixel
  int32_t k;
  Tiling tiling;
};

// Null where an instruction set does not multiply matrices.
struct MatrixKernels {
  void (*split)(const SplitTask& task);
  // The pairs [first, last).
  void (*pack)(const MatrixPackTask& task, int first, int last);
  // Vectors of outputs from `first_vector`, whose weights start at w, on the tiles [first_tile, last_tile).
  void (*multiply)(const MatrixTask& task, const BFloat16* w, int first_vector, int num_vectors,
                   int first_tile, int last_tile);
};

struct KernelTable {
  const char* name;
  int32_t lanes;     // floats per vector
  int32_t max_tile;  // most pixels per tile
  // Halves, or bytes, that one step of a packing takes from: a power of two from `lanes` to a line of them.
  int32_t half_source, byte_source;

  // Of ConvTask's sums.
  int32_t tile_floats() const { return 2 * lanes * max_tile; }

  void (*conv)(const ConvTask& task, const float* w, int first_vector, int num_vectors, int first_tile,
               int last_tile);

  void (*pack)(const PackTask& task, int first, int last);

  // The patches of the tiles [first, last), transformed.
  void (*winograd_inputs)(const WinogradTask& task, int first, int last, float* patches);
  // `rows` rows of weights, [tap][tap_stride], transformed to [product][product_stride].
  void (*winograd_weights)(const float* taps, int64_t tap_stride, int rows, float* out,
                           int64_t product_stride);
  // One or two vectors of outputs from `first_vector` on, whose weights start at w, of up to max_tile tiles,
  // whose |y| add up to row `number` of tile_sums.
  void (*winograd)(const WinogradTask& task, const float* patches, const float* w, int first_vector,
                   int num_vectors, int first_tile, int last_tile, int number);

  // y[p][o] = epilogue(winners' columns of sums[p]): sums [pixels][pitch], y [pixels][k], steps of vector v
  // are steps[first_step[v]] … steps[first_step[v + 1] - 1].
  void (*squeeze)(const float* sums, int64_t pitch, int64_t pixels, const SqueezeStep* steps,
                  const int32_t* first_step, const Epilogue& epilogue, int32_t k, float* y);

  // sums[c] = sum over pixels of |x[p][c] + shift[c]|, shift null: 0. sums has room for 4 * channels values
  // and may be changed everywhere. The order of additions is fixed (four interleaved partial sums, of up to
  // four channels sixteen), so every instruction set gives the same bits and picks the same winners.
  void (*abs_sums)(const float* x, int64_t pixels, int32_t channels, const float* shift, float* sums);

  // s[o] = leaky(sum over live c, ascending, of u[c] * a[live[c]][o] + r[o], slope) for o in [first, last),
  // both multiples of `lanes`; a [C][pitch], r and s padded to whole vectors. Products are rounded before
  // they are added, for the same reason.
  void (*saliency)(const float* u, const int32_t* live, int32_t channels, const float* a, int64_t pitch,
                   const float* r, float slope, int32_t first, int32_t last, float* s);

  // The same of halves, which become floats before anything is done with them.
  void (*saliency_half)(const float* u, const int32_t* live, int32_t channels, const Half* a, int64_t pitch,
                        const float* r, float slope, int32_t first, int32_t last, float* s);

  // The same of bytes, each output's sum being multiplied by steps[o] before r[o] is added.
  void (*saliency_bytes)(const float* u, const int32_t* live, int32_t channels, const int8_t* a,
                         int64_t pitch, const float* steps, const float* r, float slope, int32_t first,
                         int32_t last, float* s);

  // y[p * channels + c] = x[c * plane + p] for the pixels [first, last) and up to kFewChannels channels.
  void (*interleave)(const float* x, int64_t plane, int32_t channels, int64_t first, int64_t last, float* y);

  // Signed integers in the order of the floats: NaN, -inf, …, 0, …, inf.
  void (*order_keys)(const float* values, int32_t count, int32_t* keys);

  // How many of keys[0 … count - 1] are `least` or more; count a multiple of `lanes`.
  int32_t (*count_reaching)(const int32_t* keys, int32_t count, int32_t least);

  // And which, ascending; returns how many. Up to `lanes` more values are written behind them.
  int32_t (*list_reaching)(const int32_t* keys, int32_t count, int32_t least, int32_t* indices);

  void (*unpack)(const UnpackTask& task);

  // The tiles [first_tile, last_tile).
  void (*depthwise)(const DepthwiseTask& task, int first_tile, int last_tile);

  void (*max_pool)(const PoolTask& task, int first_tile, int last_tile);

  void (*copy_plane)(const CopyTask& task);

  void (*gather)(const GatherTask& task);

  void (*multiply)(const MultiplyTask& task);

  // Up to so many pixels, a tile of one vector costs about as much as its pixels and not as a vector of them.
  int32_t few_pixels;

  Int8Kernels int8;

  MatrixKernels matrices;
};

}  // namespace compress

#endif  // COMPRESS_KERNELS_TABLE_H_
