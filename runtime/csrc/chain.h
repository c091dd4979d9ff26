// Which layer runs after which, learnt from the runs themselves: while a layer ends, it can ask memory for
// what the next one will read first. A hint only: a wrong guess costs time, never a result.
#ifndef COMPRESS_CHAIN_H_
#define COMPRESS_CHAIN_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "ways.h"

namespace compress {

// What a layer reads first. The pointers are only ever handed to a prefetch, which may be given any address:
// the layer may be gone by then.
struct FirstReads {
  int32_t inputs;
  const float* saliency_weight;  // [inputs][saliency_pitch], in floats of memory, whatever lies there
  int32_t saliency_pitch;
  const float* weight;     // vectors, vector_stride apart, each [inputs][channel_stride]
  int32_t weight_sources;  // how many of them come first
  int32_t weight_vectors;  // of all outputs
  int64_t vector_stride;
  int32_t channel_stride;
};

// How a layer is run.
struct Manner {
  bool every_input = false;  // it reads every input
  int saliency_parts = 1;    // stretches of the outputs that threads divide the predictor into
  int shares = 1;            // and the convolution:
  bool by_outputs = false;   // stretches of the outputs, or else of the tiles
  Way way = Way::kNone;
  int32_t stretches = 1;  // of rows, with kWinograd, kMatrix or a depthwise convolution behind: shares are
                          // those of the first part of the outputs, of the next one, and so on
  int32_t block = 0;      // inputs whose weights are packed at a time; 0: all
};

// One layer's place among those that run.
class ChainLink {
 public:
  ChainLink();
  ~ChainLink();
  ChainLink(const ChainLink&) = delete;
  ChainLink& operator=(const ChainLink&) = delete;

  // To be called once, before the first enter(). `bytes`: of all the layer's weights.
  void describe(const FirstReads& reads, size_t bytes);

  // What the layer that followed this one last time reads first, and how.
  struct Next {
    std::shared_ptr<const FirstReads> reads;  // null: nobody has followed yet, or weights are near
    Manner manner;
    bool weights_are_far = false;  // of all layers: too many for the caches
  };

  // Called when a run of this layer begins: it follows the layer that ran on this thread before.
  Next enter(const Manner& manner) const;

 private:
  const int64_t id_;
  size_t bytes_ = 0;
  std::shared_ptr<const FirstReads> reads_;
  mutable Next next_;  // guarded by the chain's mutex
};

}  // namespace compress

#endif  // COMPRESS_CHAIN_H_
