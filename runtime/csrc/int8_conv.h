// One FBSConvInt8 layer, or FBSConvDepthwiseInt8: weights prepared once, then run per call. Independent of
// ONNX Runtime.
#ifndef COMPRESS_INT8_CONV_H_
#define COMPRESS_INT8_CONV_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "bands.h"
#include "geometry.h"
#include "int8_layer.h"
#include "kernels/table.h"
#include "laid_plane.h"
#include "parallel.h"
#include "predictor.h"
#include "scratch.h"
#include "shares.h"
#include "ways.h"

namespace compress {

class FbsConvInt8 {
 public:
  // Copies what it needs out of `spec`, which must have passed check_int8_layer.
  FbsConvInt8(const Int8Spec& spec, const KernelTable* kernels);

  // What check_int8_input reads; the tensors' data pointers are not valid any more.
  const Int8Spec& spec() const { return spec_; }

  // The way of the last run: stored or packed.
  const std::atomic<Way>& way() const { return way_; }

  // y, of spec().y_dims(x.dims), and j [N, winners] from inputs that have passed check_int8_input; the same
  // bytes on every instruction set and any number of threads. Safe to call from several threads at a time.
  // Throws std::bad_alloc.
  void run(const Tensor<uint8_t>& x, const Tensor<int64_t>& index, uint8_t* y, int64_t* j,
           const Parallel& parallel) const;

 private:
  struct Work;
  struct Manner;

  Window window() const { return {spec_.layer.y(), spec_.layer.x()}; }
  BandShape band_shape() const;
  Manner manner(const Geometry& geometry, const Dims& x, int threads) const;
  void fill_filters(const Int8Depthwise& depthwise);
  void run_sample(const uint8_t* x, const int64_t* index, const LaidPlane& laid, const Geometry& geometry,
                  const Manner& manner, uint8_t* y, int64_t* j, const Parallel& parallel) const;
  void read_input(const uint8_t* x, const LaidPlane& laid, const Work& work, const Parallel& parallel) const;
  void choose(const Work& work, int64_t* j, const Parallel& parallel) const;
  Int8ConvTask conv_task(const uint8_t* x, const Geometry& geometry, const Work& work) const;
  void convolve(const uint8_t* x, const Geometry& geometry, const Work& work, uint8_t* y,
                const Parallel& parallel) const;
  void compute_segments(const Int8ConvTask& task, const Work& work, int32_t own, int32_t share) const;
  void take_tiles(const Int8ConvTask& task, const Work& work, int32_t share) const;
  const int8_t* segment_weights(const Work& work, const Segment& segment, Slot slot) const;
  void pack_segment(const Work& work, const Segment& segment, Slot slot) const;
  void fill_weights(const int8_t* source);
  void take_choice(Work& work, Carver& carver) const;
  void list_choice(const Work& work) const;
  int64_t row_memory(int32_t channels) const;
  void pack(const Work& work, int32_t vector, int8_t* rows, int8_t* out) const;

  // The same with a depthwise convolution behind it: int8_bands.cc.
  void convolve_bands(const uint8_t* x, const Geometry& geometry, const Work& work, uint8_t* y,
                      const Parallel& parallel) const;
  void compute_bands(const Int8ConvTask& task, const Work& work, int32_t own, int32_t share,
                     uint8_t* y) const;

  Int8Spec spec_;
  const KernelTable* kernels_;
  int32_t outputs_, inputs_, taps_, winners_, winner_block_;
  int32_t lanes_, all_vectors_, vectors_;  // vectors of all outputs, and of winners

  Buffer weight_;  // from which a call's groups are packed: as Int8PackTask has it
  Buffer whole_;   // as they are packed where every output wins and every input is there; else empty
  Predictor predictor_;
  Buffer per_output_;  // the rows below: each padded to whole vectors
  const float* saliency_bias_;
  const float* scale_;   // of an integer sum, to steps of y, before it is multiplied by the saliency
  const float* shift_;   // in steps of y, likewise
  const float* post_;    // in steps of y, y's zero added
  float lower_, upper_;  // of a byte
  Buffer left_out_;      // E, [C], or empty

  // Of the depthwise convolution behind it: the weights of each tap, then what its sums are multiplied by, in
  // steps of y, what is added to them, and what is added to them once they are clamped.
  FilterRows filters_;
  int32_t filter_taps_ = 0;

  mutable std::atomic<Way> way_ = Way::kNone;
  mutable LastGeometry geometry_;
  mutable LastPlan plan_;
};

}  // namespace compress

#endif  // COMPRESS_INT8_CONV_H_
