// Compiled once per instruction set, with that set's flags and these two definitions:
//   COMPRESS_ISA         its name, e.g. avx2
//   COMPRESS_ISA_HEADER  its header, e.g. "isa/avx2.h"
// The object defines one global symbol, kernels_<isa>; all else is internal, so that no code compiled with
// these flags can be the copy the linker keeps for everybody.
#include COMPRESS_ISA_HEADER

#include "kernels/conv.h"
#include "kernels/depthwise.h"
#include "kernels/int8.h"
#ifdef COMPRESS_ROW_PACK
#include "kernels/int8_row_pack.h"
#else
#include "kernels/int8_pack.h"
#endif
#ifdef COMPRESS_MATRICES
#include "kernels/int8_matrix.h"
#include "kernels/matrix.h"
#else
#include "kernels/int8_conv.h"
#endif
#include "kernels/int8_depthwise.h"
#include "kernels/int8_unpack.h"
#include "kernels/interleave.h"
#include "kernels/max_pool.h"
#include "kernels/ranking.h"
#include "kernels/saliency.h"
#include "kernels/sparse.h"
#include "kernels/squeeze.h"
#include "kernels/table.h"
#include "kernels/unpack.h"
#include "kernels/winograd.h"

#define COMPRESS_JOIN_(a, b) a##b
#define COMPRESS_JOIN(a, b) COMPRESS_JOIN_(a, b)
#define COMPRESS_TEXT_(a) #a
#define COMPRESS_TEXT(a) COMPRESS_TEXT_(a)

static_assert(kLanes <= compress::kMaxLanes, "raise kMaxLanes");

namespace compress {

extern const KernelTable COMPRESS_JOIN(kernels_, COMPRESS_ISA);
const KernelTable COMPRESS_JOIN(kernels_, COMPRESS_ISA) = {
    .name = COMPRESS_TEXT(COMPRESS_ISA),
    .lanes = kLanes,
    .max_tile = kMaxTile,
    .half_source = kHalfSource,
    .byte_source = kByteSource,
    .conv = conv,
    .pack = pack,
    .winograd_inputs = winograd_inputs,
    .winograd_weights = winograd_weights,
    .winograd = winograd,
    .squeeze = squeeze,
    .abs_sums = abs_sums,
    .saliency = saliency,
    .saliency_half = saliency_half,
    .saliency_bytes = saliency_bytes,
    .interleave = interleave,
    .order_keys = order_keys,
    .count_reaching = count_reaching,
    .list_reaching = list_reaching,
    .unpack = unpack,
    .depthwise = depthwise,
    .max_pool = max_pool,
    .copy_plane = copy_plane,
    .gather = gather,
    .multiply = multiply,
    .few_pixels = kFewPixels,
    .int8 = {.tile = {kMaxInt8Tile, kEvenTiles},
             .speed = kProductSpeed,
             .conv = conv_int8,
             .start = start_int8,
             .weight_rows = kWeightRows,
             .pack = pack_int8,
             .unpack = unpack_int8,
             .depthwise = int8_depthwise,
             .sum_bytes = sum_bytes},
#ifdef COMPRESS_MATRICES
    .matrices = {.split = split_floats, .pack = pack_matrices, .multiply = multiply_matrices},
#else
    .matrices = {},
#endif
};

}  // namespace compress
