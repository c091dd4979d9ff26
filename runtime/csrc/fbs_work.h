// What passes between the parts of one call of FbsConv.
#ifndef COMPRESS_FBS_WORK_H_
#define COMPRESS_FBS_WORK_H_

#include "fbs_conv.h"

namespace compress {

// Pixels per partial channel sum. Fixed, so that the saliency does not depend on the number of threads.
inline constexpr int64_t kSumPixels = 512;

// Vector multiply-adds below which another thread costs more than it brings: about 10 microseconds.
inline constexpr int64_t kWorkPerThread = 40000;

// Lines asked for on behalf of the next layer, at most: half a megabyte, of a second cache level of one.
inline constexpr int32_t kMostNextLines = 8192;

// The memory of one sample's call, carved out of one scratch buffer.
struct FbsConv::Work {
  int32_t channels;
  int32_t pitch;  // floats from pixel to pixel of what is convolved
  const int32_t* live;
  bool pack;           // squeeze the winners' weights first, or compute by the weights as they are
  bool stored;         // every output wins and every input is there: the weights are packed as they lie
  bool all;            // compute every output and keep the winners
  int32_t vectors;     // of outputs that are computed
  int32_t pack_slots;  // vectors of packed weights that exist at a time

  // Outputs are computed in panels: pairs of vectors, and one single where their number is odd.
  int32_t panels() const { return (vectors + 1) / 2; }
  int32_t width(int32_t panel) const { return vectors - 2 * panel < 2 ? 1 : 2; }

  const FirstReads* next;  // null: what the next layer reads is not known
  bool next_reads_all;
  bool weights_are_far;  // those of all layers are too many for the caches

  int32_t* live_memory;
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
  float* packed;
  int32_t* pieces_packed;  // of each panel, counted by several threads
  float* sums;
  float* spread_input;
  int32_t* weight_rows;
  const float** next_sources;
  int32_t* next_lines;
};

}  // namespace compress

#endif  // COMPRESS_FBS_WORK_H_
