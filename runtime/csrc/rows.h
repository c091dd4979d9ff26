// A matrix whose rows are added up, some of them, of any precision: predictors and linear layers.
#ifndef COMPRESS_ROWS_H_
#define COMPRESS_ROWS_H_

#include <cstdint>

#include "kernels/table.h"
#include "layer.h"
#include "scratch.h"

namespace compress {

// Rows of whole vectors, `pitch` numbers apart; all but one of the pointers are null.
struct Rows {
  const float* floats;
  const Half* halves;
  int64_t pitch;
  const int8_t* bytes = nullptr;
  const float* steps = nullptr;  // of bytes: one for each column, padded as the rows are
};

// KernelTable::saliency, or its other form, of these rows.
void add_rows(const KernelTable& kernels, const float* factors, const int32_t* which, int32_t count,
              const Rows& rows, const float* start, float slope, int32_t first, int32_t last, float* sums);

// A copy of weights [R, K], K padded with zeros to `pitch`, in the precision that they have.
Buffer padded_rows(const Weights& weights, int64_t pitch);

// A copy of `count` numbers, likewise.
Buffer padded_row(const float* values, int64_t count, int64_t pitch);

// The rows of such a copy.
Rows rows_of(const Buffer& copy, Precision precision, int64_t pitch, const float* steps = nullptr);

}  // namespace compress

#endif  // COMPRESS_ROWS_H_
