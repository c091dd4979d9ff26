// The weights of an FBSConv layer as they are kept between calls: a channel's rows together, so that what an
// input brings into play lies in whole lines.
#ifndef COMPRESS_STORED_WEIGHTS_H_
#define COMPRESS_STORED_WEIGHTS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/table.h"
#include "layer.h"
#include "scratch.h"

namespace compress {

// Weights lie in stretches of neighbouring outputs, [stretch][channel][tap][outputs of the stretch] where
// winners are chosen per input, and [stretch][tap][channel][outputs of the stretch] where every output wins
// and nothing is packed. Floats come in stretches of a vector; halves and bytes in stretches of a line, of
// which only packing reads. Where every output wins all are floats, in steps of 1: nobody would make floats
// of them.
class StoredWeights {
 public:
  // Copies W out of `spec`, which must have passed check_layer.
  StoredWeights(const LayerSpec& spec, const KernelTable* kernels);

  Precision precision() const { return precision_; }
  size_t bytes() const { return memory_.bytes(); }
  // Of a weight that is not a float, as MatrixTask has them.
  int32_t matrix_parts() const { return precision_ == Precision::kByte ? 1 : kHalfParts; }

  // Outputs that one step of a packing takes from.
  int32_t source_outputs() const { return source_outputs_; }

  // Of floats, for ConvTask: vector v begins v * vector_stride() behind them.
  const float* floats() const { return memory_.floats(); }
  int64_t vector_stride() const { return stretch_stride_; }
  int32_t channel_stride() const { return channel_stride_; }
  int32_t tap_stride() const { return tap_stride_; }

  // Where packing finds them; changes that part of `task`.
  void describe(PackTask* task) const;

  // Memory to ask for, in floats, whatever lies there. The stretch that source `source` of a packing is in:
  const float* lines_of(int32_t source) const {
    return floats() + source * source_outputs_ / stretch_outputs_ * (stretch_stride_ / values_per_float());
  }
  // and a row within it.
  int32_t line_of(int32_t channel, int32_t tap) const {
    return (channel * channel_stride_ + tap * tap_stride_) / values_per_float();
  }
  int32_t num_stretches() const { return num_stretches_; }
  int32_t stretch_outputs() const { return stretch_outputs_; }
  int32_t values_per_float() const { return compress::values_per_float(precision_); }

 private:
  template <typename T>
  void fill(const LayerSpec& spec);

  Precision precision_;
  int32_t source_outputs_, stretch_outputs_, num_stretches_;
  int64_t stretch_stride_;  // in values, as the others
  int32_t channel_stride_, tap_stride_;
  Buffer memory_;
};

}  // namespace compress

#endif  // COMPRESS_STORED_WEIGHTS_H_
