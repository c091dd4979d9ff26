// What FbsConv asks memory for before it is read: the weights that a thread's next segment is packed from,
// and what the thread will read first of the next layer.
#include <algorithm>

#include "fbs_conv.h"
#include "fbs_work.h"

namespace compress {

namespace {

// Number `part` of `parts` about equal stretches of [0, size).
struct Stretch {
  Stretch(int32_t size, int64_t part, int64_t parts)
      : begin(static_cast<int32_t>(size * part / parts)),
        end(static_cast<int32_t>(size * (part + 1) / parts)) {}
  int32_t begin, end;
};

// Writes `count` lines that follow each other, from `first` on, and returns where the next ones go.
int32_t* list_lines(int32_t first, int32_t count, int32_t* to) {
  for (int32_t l = 0; l < count; ++l) *to++ = first + l * kLineFloats;
  return to;
}

}  // namespace

// The rows of a vector of weights that the inputs select, for every segment.
void FbsConv::list_rows(const Work& work) const {
  int32_t* rows = work.weight_rows;
  const int32_t channel_step = weights_.line_of(1, 0), tap_step = weights_.line_of(0, 1);
  for (int32_t c = 0; c < work.channels; ++c) {
    int32_t row = work.live[c] * channel_step;
    for (int32_t t = 0; t < taps_; ++t, row += tap_step) *rows++ = row;
  }
}

// The vectors that a segment is packed from, each once, or consists of: inputs [begin, end).
void FbsConv::ask_for_segment(const Work& work, const Segment& segment, int32_t begin, int32_t end,
                              int32_t own, Prefetch* prefetch) const {
  const float** const sources = work.own.of(work.sources, own);
  int32_t count = 0;
  if (work.stored) {
    for (; count < segment.width; ++count) sources[count] = weights_.lines_of(segment.vector + count);
  } else {
    const int32_t* const steps = work.first_step + segment.vector;
    for (int32_t i = steps[0]; i < steps[segment.width]; ++i) {
      const float* const source = weights_.lines_of(work.steps[i].source);
      if (count == 0 || sources[count - 1] != source) sources[count++] = source;
    }
  }
  *prefetch = {sources, count, work.weight_rows + begin * taps_, (end - begin) * taps_, 0, 0, prefetch->then};
}

// The lines of the next layer's predictor that its inputs select, as far as they are known.
void FbsConv::ask_for_next_saliency(const Work& work, int32_t own, Prefetch* prefetch) const {
  const FirstReads& next = *work.next.reads;
  const Manner& manner = work.next.manner;
  *prefetch = {};
  if (own >= manner.saliency_parts) return;
  const bool all = manner.every_input || next.inputs != outputs_;
  const int32_t rows = all ? next.inputs : winners_;
  const Stretch part(next.saliency_pitch, own, manner.saliency_parts);
  int32_t* const lines = work.own.of(work.next_lines, own);
  const int32_t of_row = (part.end - part.begin + kLineFloats - 1) / kLineFloats;
  const int32_t known = of_row == 0 ? 0 : std::min(rows, kMostNextLines / of_row);
  int32_t* line = lines;
  for (int32_t i = 0; i < known; ++i) {
    line = list_lines((all ? i : work.winners[i]) * next.saliency_pitch + part.begin, of_row, line);
  }
  *prefetch = {&next.saliency_weight, 1, lines, static_cast<int32_t>(line - lines), 0, 0, nullptr};
}

// The same for the weights that it packs first. `used`: lines that the predictor's list holds.
void FbsConv::ask_for_next_weights(const Work& work, int32_t own, int32_t used, Prefetch* prefetch) const {
  const FirstReads& next = *work.next.reads;
  const Manner& manner = work.next.manner;
  *prefetch = {};
  if (own >= manner.shares) return;
  const bool all = manner.every_input || next.inputs != outputs_;
  const int32_t every = all ? next.inputs : winners_;
  const int32_t rows = manner.block > 0 ? std::min(every, 2 * manner.block) : every;
  const int32_t begin =
      manner.by_outputs
          ? Stretch(next.weight_vectors, own / manner.stretches, manner.shares / manner.stretches).begin
          : 0;
  const int32_t end = std::min(begin + next.weight_sources, next.weight_vectors);
  int32_t* const lines = work.own.of(work.next_lines, own) + used;
  const int32_t of_channel = (next.channel_stride + kLineFloats - 1) / kLineFloats;
  int32_t left = (kMostNextLines - used) / of_channel;
  int32_t* line = lines;
  for (int32_t v = begin; v < end; ++v) {
    const int32_t known = std::min(rows, left);
    left -= known;
    for (int32_t i = 0; i < known; ++i) {
      const auto first = static_cast<int32_t>(v * next.vector_stride +
                                              int64_t{all ? i : work.winners[i]} * next.channel_stride);
      line = list_lines(first, of_channel, line);
    }
  }
  *prefetch = {&next.weight, 1, lines, static_cast<int32_t>(line - lines), 0, 0, nullptr};
}

// All of it, for a segment that is computed at one go: the weights of the share's next one, or behind its
// last the next layer's predictor and weights. `next_weights` is what `prefetch` may point to.
void FbsConv::ask_while_computing(const Work& work, int32_t segment, int32_t share, int32_t own,
                                  Prefetch* prefetch, Prefetch* next_weights) const {
  *prefetch = {};
  if (!work.shared.is_last(share, segment)) {
    if (work.far) ask_for_segment(work, work.shared.segments[segment + 1], 0, work.channels, own, prefetch);
  } else if (work.next.reads != nullptr && share == own) {
    ask_for_next_saliency(work, own, prefetch);
    ask_for_next_weights(work, own, prefetch->num_rows, next_weights);
    prefetch->then = next_weights;
  }
}

}  // namespace compress
