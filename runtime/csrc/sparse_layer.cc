#include "sparse_layer.h"

#include <utility>

#include "kernels/table.h"

namespace compress {

namespace {

std::string integer(int64_t value) { return std::to_string(value); }

std::string check_places(const SparseSpec& spec) {
  const int64_t all = spec.channels * spec.taps();
  const Dims& p = spec.places.dims;
  const int64_t bytes = (all + 7) / 8;
  if (p.size() != 1 || p[0] != bytes) {
    return "P has shape " + text(p) + "; " + integer(all) + " rows (in_channels times taps) need [" +
           integer(bytes) + "]";
  }
  int64_t rows = 0;
  for (int64_t i = 0; i < bytes * 8; ++i) rows += spec.has_row(i) ? 1 : 0;
  for (int64_t i = all; i < bytes * 8; ++i) {
    if (spec.has_row(i)) return "P marks row " + integer(i) + "; rows go from 0 to " + integer(all - 1);
  }
  if (rows != spec.num_rows()) {
    return "P marks " + integer(rows) + " rows; W has " + integer(spec.num_rows()) + " columns";
  }
  return "";
}

}  // namespace

std::string check_sparse(const SparseSpec& spec) {
  std::string error;
  const auto failed = [&](std::string found) { return !(error = std::move(found)).empty(); };
  if (failed(check_list("kernel_shape", spec.kernel_shape, 2, 1)) || failed(check_window(spec))) return error;
  if (spec.channels < 1 || spec.channels > kMaxChannels) {
    return "in_channels is " + integer(spec.channels) + "; it must be from 1 to " + integer(kMaxChannels);
  }
  const Dims& w = spec.weight.dims;
  if (w.size() != 2 || w[0] < 1 || w[1] < 1 || w[0] > kMaxChannels) {
    return "W has shape " + text(w) + "; it must be [K, R] with 1 or more outputs and rows";
  }
  if (!small_product({w[0], w[1]}) || !small_product({spec.channels, spec.taps()})) {
    return "W has shape " + text(w) + "; it is too large";
  }
  if (spec.bias.dims != Dims{w[0]}) {
    return "B has shape " + text(spec.bias.dims) + "; with W of shape " + text(w) + " it must be [" +
           integer(w[0]) + "]";
  }
  if (failed(check_places(spec))) return error;
  return check_bounds(spec.lower, spec.upper);
}

std::string check_sparse_input(const SparseSpec& spec, const Dims& x) {
  if (x.size() != 4 || x[1] != spec.channels || x[2] < 1 || x[3] < 1) {
    return "X has shape " + text(x) + "; it must be [N, " + integer(spec.channels) +
           ", H, W] with H and W of 1 or more";
  }
  const int64_t height = spec.y().outputs(x[2]);
  const int64_t width = spec.x().outputs(x[3]);
  if (height < 1 || width < 1) {
    return "X has shape " + text(x) + ", smaller than a kernel of " + text(spec.kernel_shape) +
           " with dilations " + text(spec.dilations) + " and pads " + text(spec.pads);
  }
  // The largest buffer: every phase of every input plane with its border, and a tile of rows.
  const int64_t tall = height + spec.kernel_shape[0] * spec.dilations[0];
  const int64_t wide = width + spec.kernel_shape[1] * spec.dilations[1] + kMaxLanes;
  if (!small_product({x[1], x[2], x[3]}) || !small_product({height, width, spec.outputs()}) ||
      !small_product({x[1], spec.strides[0], spec.strides[1], tall, wide}) ||
      !small_product({spec.num_rows(), 2 * kMaxLanes})) {
    return "X has shape " + text(x) + "; one sample may hold at most 2147483647 values, in and out";
  }
  return "";
}

}  // namespace compress
