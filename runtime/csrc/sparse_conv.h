// One SparseConv layer: weights prepared once, then run per call. Independent of ONNX Runtime.
#ifndef COMPRESS_SPARSE_CONV_H_
#define COMPRESS_SPARSE_CONV_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/table.h"
#include "parallel.h"
#include "scratch.h"
#include "sparse_layer.h"
#include "sparse_plan.h"

namespace compress {

class SparseConv {
 public:
  // Copies what it needs out of `spec`, which must have passed check_sparse.
  SparseConv(const SparseSpec& spec, const KernelTable* kernels);

  // What check_sparse_input reads; the tensors' data pointers are not valid any more.
  const SparseSpec& spec() const { return spec_; }

  // y [N, K, H', W'] from x [N, C, H, W] of a shape that has passed check_sparse_input. Safe to call from
  // several threads at a time. Throws std::bad_alloc.
  void run(const Tensor<float>& x, float* y, const Parallel& parallel) const;

 private:
  struct Item;

  std::shared_ptr<const SparsePlan> plan(int64_t height, int64_t width, int64_t samples, int threads) const;
  void run_item(const SparsePlan& plan, const Item& item) const;

  // Outputs are computed in panels of nearly equal size, at most as many as a tile holds.
  int32_t first_output(int32_t panel) const {
    return static_cast<int32_t>(static_cast<int64_t>(outputs_) * panel / panels_);
  }

  SparseSpec spec_;
  const KernelTable* kernels_;
  int32_t outputs_, num_rows_, panels_;
  std::vector<SparseRow> rows_;
  Buffer weight_;  // [panel][row][outputs of the panel]
  Buffer bias_;

  mutable std::mutex mutex_;
  mutable std::shared_ptr<const SparsePlan> plan_;  // for the last sizes seen
};

}  // namespace compress

#endif  // COMPRESS_SPARSE_CONV_H_
