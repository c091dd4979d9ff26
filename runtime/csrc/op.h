// What the ops of this library have in common, and the function in each op's file that fills in its entry.
#ifndef COMPRESS_OP_H_
#define COMPRESS_OP_H_

#include "kernels/table.h"
#include "ort_access.h"
#include "ways.h"

namespace compress {

// What every op of one registration shares.
struct Setting {
  const KernelTable* kernels;
  int threads;
  Way way;  // that layers are forced to take where they have a choice; kNone: the one that costs least

  bool operator==(const Setting&) const = default;
};

struct Op : ort::CustomOp {
  Setting setting;
};

// For shape inference, which ONNX Runtime hands no table: the one the library was last registered with.
Api registered_api();

// Each sets the fields of `op` that differ from op to op.
void describe_fbs_conv(Op* op);
void describe_fbs_conv_depthwise(Op* op);
void describe_fbs_conv_int8(Op* op);
void describe_fbs_conv_depthwise_int8(Op* op);
void describe_depthwise_conv(Op* op);
void describe_sparse_conv(Op* op);
void describe_linear(Op* op);
void describe_max_pool(Op* op);
void describe_to_nhwc(Op* op);
void describe_unpack(Op* op);
void describe_unpack_add(Op* op);
void describe_unpack_int8(Op* op);
void describe_unpack_add_int8(Op* op);

}  // namespace compress

#endif  // COMPRESS_OP_H_
