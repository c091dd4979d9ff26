// What passes between the parts of one call of FbsConvInt8.
#ifndef COMPRESS_INT8_WORK_H_
#define COMPRESS_INT8_WORK_H_

#include "int8_conv.h"

namespace compress {

// Of one row that is squeezed, with what is written and read behind it.
inline int64_t pack_row_pitch(int32_t channels) {
  return (int64_t{channels} + 3 * kPackSlack - 1) / kPackSlack * kPackSlack;
}

// How threads divide a sample.
struct FbsConvInt8::Manner {
  int32_t shares = 1;
  bool by_outputs = false;
  int32_t saliency_parts = 1;
  std::shared_ptr<const BandPlan> plan;  // where a depthwise convolution is behind
};

// The memory of one sample's call, carved out of one scratch buffer.
struct FbsConvInt8::Work {
  int32_t channels, groups;
  bool stored;  // by the weights of whole_
  const int32_t* live;
  int64_t vector_bytes;  // of one vector's packed weights

  int32_t* live_memory;
  int64_t input_parts;  // in which threads read the input
  int32_t* sums;        // of each, [channels]
  int32_t* zeros;       // the byte that counts as 0 in each channel's mean; null: 0
  float* means;
  float* saliency;
  float* ranked;
  int32_t* keys;
  int32_t* winners;
  float* scale;
  float* bias;
  // What list_choice() writes.
  int32_t* first_step;
  SqueezeStep* steps;
  uint64_t* live_bits;
  uint8_t* laid;  // what the convolution reads; null: the input

  // How threads divide it, and what a segment needs: its packed weights, and where its sums start.
  SharedWork shared;
  const Manner* manner;
  // Of each share: what its segments but the last need, and behind it what its last one does.
  SharePitch own;
  int8_t* packed;
  int8_t* rows;
  int64_t row_size;
  int32_t* start;  // null: the input's zero is 0
  int64_t start_size;
  // And where a depthwise convolution is behind it.
  float* band_memory;
  float* filter_rows;

  int8_t* slot_weights(Slot slot) const {
    return own.of(packed, slot.share) + slot.number * kMaxInt8Vectors * vector_bytes;
  }
  int8_t* slot_rows(Slot slot) const { return own.of(rows, slot.share) + slot.number * row_size; }
  int32_t* slot_start(Slot slot) const {
    return start == nullptr ? nullptr : own.of(start, slot.share) + slot.number * start_size;
  }
};

}  // namespace compress

#endif  // COMPRESS_INT8_WORK_H_
