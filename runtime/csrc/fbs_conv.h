// One FBSConv layer: weights prepared once, then run per call. Independent of ONNX Runtime.
#ifndef COMPRESS_FBS_CONV_H_
#define COMPRESS_FBS_CONV_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "bands.h"
#include "chain.h"
#include "depthwise.h"
#include "geometry.h"
#include "kernels/table.h"
#include "layer.h"
#include "matrix_plan.h"
#include "parallel.h"
#include "predictor.h"
#include "scratch.h"
#include "shares.h"
#include "stored_weights.h"
#include "ways.h"

namespace compress {

// Means over planes that layers hand on to each other, of |X + E| [N, Cx] and of |Y| [N, winners]; with a
// depthwise convolution behind, of |Y + Z|, Z being what Y leaves out, the E of the layer that reads it.
struct PlaneMeans {
  const float* of_x;  // null: not known
  float* of_y;        // null: nobody asks
};

class FbsConv {
 public:
  // Copies what it needs out of `spec`, which must have passed check_layer, and of `depthwise`, which must
  // have passed check_depthwise with as many channels as there are outputs: the winners' planes then go
  // through it. `forced`: kPacked or kAll wherever there is a choice, kNone to choose by what each costs.
  FbsConv(const LayerSpec& spec, const KernelTable* kernels, Way forced = Way::kNone,
          const DepthwiseSpec* depthwise = nullptr);

  // What check_input reads; the tensors' data pointers are not valid any more.
  const LayerSpec& spec() const { return spec_; }

  // The way of the last run; it follows from the sizes alone.
  const std::atomic<Way>& way() const { return way_; }

  // An empty string, or what came and what is allowed: X and I of one call.
  std::string check(const Tensor<float>& x, const Tensor<int64_t>& index) const;

  // The shape of y, [N, H', W', winners], for an x that has passed check().
  Dims y_dims(const Dims& x) const;

  // y, and j [N, winners], from inputs that have passed check(). Safe to call from several threads at a time.
  // Throws std::bad_alloc.
  void run(const Tensor<float>& x, const Tensor<int64_t>& index, float* y, int64_t* j,
           const Parallel& parallel, const PlaneMeans& means = {}) const;

 private:
  struct Work;
  struct Sample;
  struct Patches;
  struct LaidBand;

  Window window() const { return {spec_.y(), spec_.x()}; }
  bool packs(const Geometry& geometry, int32_t channels) const;
  int64_t pack_cost(int32_t channels) const;
  int64_t plain_cost(const Geometry& geometry, int32_t channels) const;
  Manner manner(const Geometry& geometry, const MatrixPlan* plan, int32_t channels, int threads) const;
  void run_sample(const Sample& sample, const Geometry& geometry, const BandPlan* plan,
                  const MatrixPlan* matrix_plan, const Manner& manner, const ChainLink::Next& next,
                  const Parallel& parallel) const;
  void choose(const Sample& sample, const Work& work, const Parallel& parallel) const;
  void take_means(const float* x, const Work& work, const Parallel& parallel) const;

  // Half two: fbs_convolve.cc.
  void convolve(const float* x, const Work& work, float* y, const Parallel& parallel) const;
  void finish_y_means(const Sample& sample, const Work& work) const;
  Epilogue epilogue(const Work& work) const;
  ConvTask conv_task(const float* x, const Work& work) const;
  void compute_segments(const ConvTask& task, const Work& work, int32_t own, int32_t share) const;
  void compute_in_blocks(ConvTask task, const Work& work, int32_t own, int32_t number, bool last,
                         float* slot) const;
  void take_tiles(const ConvTask& task, const Work& work, int32_t share, const float* w, int32_t end) const;
  void help(const ConvTask& task, const Work& work, int32_t share) const;

  // The same by Winograd's minimal filtering: fbs_winograd.cc.
  int64_t winograd_cost(int64_t tiles, int64_t vectors, int32_t channels) const;
  bool takes_winograd(const Geometry& geometry, int32_t channels) const;
  Grid divide_winograd(const Geometry& geometry, int32_t channels, int threads) const;
  void size_winograd(Work* work) const;
  void convolve_winograd(const float* x, const Work& work, float* y, const Parallel& parallel) const;
  void compute_winograd(const WinogradTask& task, const Work& work, int32_t own, int32_t number,
                        Patches* patches) const;
  void transform_weights(const Work& work, const Segment& segment, float* to) const;
  void compute_winograd_tiles(const WinogradTask& task, const Work& work, const Segment& segment,
                              const float* w, int32_t first, int32_t last, Patches* patches) const;
  void take_winograd_tiles(const WinogradTask& task, const Work& work, int32_t number, const Segment& segment,
                           const float* w, int32_t end, Patches* patches) const;

  // The same by products of matrices: fbs_matrix.cc.
  int64_t matrix_cost(const MatrixPlan& plan, int64_t tiles, int64_t vectors) const;
  std::shared_ptr<const MatrixPlan> matrix_plan(const Geometry& geometry, int32_t channels) const;
  Grid divide_matrices(const MatrixPlan& plan, int threads) const;
  void size_matrices(Work* work) const;
  void convolve_matrices(const float* x, const Work& work, float* y, const Parallel& parallel) const;
  void compute_matrices(const MatrixTask& task, const Work& work, const float* x, int32_t own, int32_t number,
                        LaidBand* band) const;
  void pack_matrices(const Work& work, const Segment& segment, BFloat16* to) const;
  void multiply_matrices(MatrixTask task, const Work& work, const float* x, const Segment& segment,
                         const BFloat16* w, int32_t first, int32_t last, LaidBand* band) const;

  // The same with a depthwise convolution behind it: fbs_bands.cc.
  BandShape band_shape() const;
  void convolve_bands(const float* x, const Work& work, float* y, const Parallel& parallel) const;
  void compute_bands(const ConvTask& task, const Work& work, int32_t own, int32_t number, float* y) const;

  // Where a segment's weights are: fbs_pack.cc.
  bool lies_together(const Work& work, int32_t vector) const;
  void find_together(const Work& work) const;
  void pack(const Work& work, const Segment& segment, int32_t begin, int32_t end, float* packed) const;
  const float* find_weights(const Work& work, const Segment& segment, const float* slot,
                            ConvTask* task) const;

  // Memory asked for early: fbs_ahead.cc.
  void list_rows(const Work& work) const;
  void ask_for_segment(const Work& work, const Segment& segment, int32_t begin, int32_t end, int32_t own,
                       Prefetch* prefetch) const;
  void ask_for_next_saliency(const Work& work, int32_t own, Prefetch* prefetch) const;
  void ask_for_next_weights(const Work& work, int32_t own, int32_t used, Prefetch* prefetch) const;
  void ask_while_computing(const Work& work, int32_t segment, int32_t share, int32_t own, Prefetch* prefetch,
                           Prefetch* next_weights) const;

  LayerSpec spec_;
  const KernelTable* kernels_;
  Way forced_;
  int32_t outputs_, inputs_, taps_, winners_, winner_block_;
  int32_t lanes_, all_vectors_, vectors_;  // vectors of all outputs, and of winners

  StoredWeights weights_;
  Predictor predictor_;
  Buffer per_output_;  // R, B, D, P: each padded to whole vectors
  Buffer left_out_;    // [C], or empty
  const float* saliency_bias_;
  const float* shift_;
  const float* post_shift_;  // null: absent
  const float* steps_;       // of the sums; null: all 1
  std::optional<DepthwiseConv> depthwise_;

  ChainLink link_;
  mutable std::atomic<Way> way_ = Way::kNone;
  mutable LastGeometry geometry_;
  mutable LastPlan plan_;
  mutable LastMatrixPlan matrix_plan_;
};

}  // namespace compress

#endif  // COMPRESS_FBS_CONV_H_
