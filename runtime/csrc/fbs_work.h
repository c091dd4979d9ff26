// What passes between the parts of one call of FbsConv.
#ifndef COMPRESS_FBS_WORK_H_
#define COMPRESS_FBS_WORK_H_

#include "fbs_conv.h"
#include "shares.h"

namespace compress {

// Squeezing one source vector of a weight row costs about this many vector multiply-adds.
inline constexpr double kSqueezeCost = 1.5;

// Vector multiply-adds below which another thread costs more than it brings: about 4 microseconds, where
// handing work over takes 1 to 3.
inline constexpr int64_t kWorkPerThread = 15000;

// Lines asked for on behalf of the next layer, at most: half a megabyte, of a second cache level of one.
inline constexpr int32_t kMostNextLines = 8192;

// Vectors of outputs in a segment, at most.
inline constexpr int32_t kSegmentVectors = 2;

// How the outputs of a plane are cut for Winograd's minimal filtering: tiles of 2x2, numbered row by row, in
// groups of up to as many as one call of the kernel takes.
struct WinogradTiles {
  int32_t per_row = 0, count = 0, groups = 0;

  WinogradTiles() = default;
  WinogradTiles(const Geometry& geometry, int32_t max_tile);

  // That a group begins with.
  int32_t first_tile(int32_t group) const { return static_cast<int32_t>(int64_t{count} * group / groups); }
};

// The transformed patches that a thread has: of the stretch of tiles that begins with group `stretch`, groups
// [first, last).
struct FbsConv::Patches {
  float* memory;
  int32_t stretch, first, last;

  bool has(int32_t group) const { return group >= first && group < last; }
  // Of those that follow each other only.
  void add(int32_t group) {
    if (group != last) first = group;
    last = group + 1;
  }
};

// Of which tiles a thread has the parts of the input.
struct FbsConv::LaidBand {
  BFloat16* parts;
  int32_t first, last;
};

// What one sample reads and writes.
struct FbsConv::Sample {
  const float* x;
  const int64_t* index;
  const float* means;  // of |x + what is left out| in each channel's plane; null: not known
  int32_t channels;
  float* y;
  int64_t* j;
  float* y_means;  // null: nobody asks
  int64_t y_pixels;
};

// The memory of one sample's call, carved out of two scratch buffers: what all threads read, and what each
// share has for itself.
struct FbsConv::Work {
  const Geometry* geometry;
  int32_t channels;
  const int32_t* live;
  bool pack;        // squeeze the winners' weights first, or compute by the weights as they are
  bool stored;      // every output wins and every input is there: the weights are packed as they lie
  bool all;         // compute every output and keep the winners
  int32_t vectors;  // of outputs that are computed

  // How threads divide it.
  Manner manner;
  SharedWork shared;

  SharePitch own;  // to the memory that each share has for itself

  // Memory to ask for early, see fbs_ahead.cc.
  bool far;  // the weights of this layer come from far away
  ChainLink::Next next;
  int32_t max_sources;

  int32_t* live_memory;
  float* left_out;  // of each live channel; null: nothing
  int32_t* channel_offsets;
  float* partial_sums;
  float* means;
  float* saliency;
  float* ranked;  // what outputs compete by: the saliency, or the mean of their block's
  int32_t* keys;
  int32_t* winners;
  float* bias;
  float* scale;
  float* post;
  int32_t* first_step;
  SqueezeStep* steps;
  bool* together;  // of each vector: its weights are read where they are stored; null: nowhere
  float* packed;   // of each share: of its segments, one after the other, and `last_slot` behind it of its
                   // last, which other threads read too
  int64_t slot_floats, last_slot;
  WinogradTiles tiles;  // where the convolution is Winograd's, as all that follows to patch_pitch
  float* patches;       // of each share
  int64_t patches_floats, group_floats;
  bool keeps_patches;  // of all groups of a stretch, else of one
  int32_t chunk;       // vectors whose transformed weights, or matrices of weights, a share has at a time
  int32_t patch_pitch;
  const MatrixPlan* matrix_plan;  // where the convolution multiplies matrices
  BFloat16* parts;                // of the input, of each share
  float* block_sums;              // of each share, where inputs come in blocks
  float* sums;
  const BandPlan* plan;   // where a depthwise convolution follows
  float* band_memory;     // of each share
  float* depthwise_rows;  // of each share
  int64_t depthwise_floats;
  // Sums of |y| that threads have taken while they wrote it, of tiles, or of rows behind a depthwise
  // convolution: part after part of y_sums_pitch floats, then where abs_sums adds them up; null: nobody asks.
  float* y_sums;
  int32_t y_sums_pitch;
  int64_t y_sums_parts;
  int32_t* weight_rows;
  const float** sources;  // of each share, max_sources
  int32_t* next_lines;    // of each share, kMostNextLines

  // The packing of one vector of winners.
  void describe_steps(int32_t vector, PackTask* task) const {
    task->steps = steps + first_step[vector];
    task->num_steps = first_step[vector + 1] - first_step[vector];
  }

  float* slot(int32_t share, bool last) const { return own.of(packed, share) + (last ? last_slot : 0); }
};

}  // namespace compress

#endif  // COMPRESS_FBS_WORK_H_
