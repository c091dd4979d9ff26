// What passes between the parts of one call of FbsConvInt8.
#ifndef COMPRESS_INT8_WORK_H_
#define COMPRESS_INT8_WORK_H_

#include <algorithm>

#include "int8_conv.h"

namespace compress {

inline int32_t groups_of(int32_t channels) { return (channels + kGroup - 1) / kGroup; }

// The memory of one sample's call, carved out of one scratch buffer.
struct FbsConvInt8::Work {
  int32_t channels, groups, threads;
  bool stored;  // by the weights of whole_
  const int32_t* live;
  int64_t vector_bytes;  // of one vector's packed weights

  int32_t* live_memory;
  int32_t* sums;
  float* means;
  float* saliency;
  float* ranked;
  int32_t* keys;
  int32_t* winners;
  float* scale;
  float* bias;
  int32_t* first_step;
  SqueezeStep* steps;
  int8_t* packed;
  int32_t packed_vectors;  // that `packed` holds at a time
  uint8_t* spread;         // the input with whole groups; null: it has them
  int32_t* start;          // null: the input's zero is 0

  // Outputs are computed in panels: pairs of vectors, and one single where their number is odd.
  int32_t panels(int32_t vectors) const { return (vectors + 1) / 2; }
  int32_t width(int32_t panel, int32_t vectors) const { return std::min(2, vectors - 2 * panel); }
};

}  // namespace compress

#endif  // COMPRESS_INT8_WORK_H_
