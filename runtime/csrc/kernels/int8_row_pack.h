// The winners' weights as groups of four channels, out of rows of channels, for instruction sets that squeeze
// bytes together; contract at Int8PackTask. Of sixteen winners at a time what is live is squeezed, then
// turned from rows of groups to groups of rows. Nothing is read of outputs that have not won.
#ifndef COMPRESS_KERNELS_INT8_ROW_PACK_H_
#define COMPRESS_KERNELS_INT8_ROW_PACK_H_

#include "kernels/int8.h"
#include "kernels/table.h"

namespace {

using compress::Int8PackTask;

constexpr bool kWeightRows = true;

// Writes the live ones of `channels` bytes one after the other, and up to kRowBytes zeros behind them.
inline void squeeze_row(const int8_t* row, int32_t channels, const uint64_t* live, int8_t* to) {
  for (int32_t c = 0; c < channels; c += kRowBytes, ++live) {
    compress_bytes(to, row + c, *live);
    to += __builtin_popcountll(*live);
  }
}

void pack_int8(const Int8PackTask& task) {
  const int64_t row = static_cast<int64_t>(task.taps) * task.all_channels;
  const int groups = (task.channels + kGroup - 1) / kGroup;
  const int64_t pitch = task.row_pitch;
  const int8_t* rows[kLanes];
  for (int t = 0; t < task.taps; ++t) {
    for (int o = 0; o < kLanes; ++o) {  // of a winner that is not there: any row, multiplied by a scale of 0
      const int32_t winner = task.winners[o < task.outputs ? o : 0];
      rows[o] = task.w + winner * row + static_cast<int64_t>(t) * task.all_channels;
      if (task.live_bits == nullptr) continue;
      if (o < task.outputs) squeeze_row(rows[o], task.all_channels, task.live_bits, task.rows + o * pitch);
      rows[o] = task.rows + (o < task.outputs ? o * pitch : 0);
    }
    store_groups(rows, groups, task.out + static_cast<int64_t>(t) * groups * kRowBytes);
  }
}

}  // namespace

#endif  // COMPRESS_KERNELS_INT8_ROW_PACK_H_
