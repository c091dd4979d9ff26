#include "geometry.h"

#include <algorithm>
#include <cstddef>

namespace compress {

namespace {

// Neighbouring outputs of one axis that have the same valid taps [tap, tap + taps).
struct Span {
  int64_t first, count, tap, taps;
};

std::vector<Span> spans(const Axis& axis, int64_t size) {
  std::vector<Span> result;
  const int64_t outputs = axis.outputs(size);
  for (int64_t o = 0; o < outputs; ++o) {
    const int64_t start = o * axis.stride - axis.pad_begin;  // input under tap 0
    int64_t tap = start >= 0 ? 0 : (-start + axis.dilation - 1) / axis.dilation;
    int64_t end = start >= size ? 0 : std::min(axis.kernel, (size - 1 - start) / axis.dilation + 1);
    if (tap >= end) tap = end = 0;
    if (result.empty() || result.back().tap != tap || result.back().taps != end - tap) {
      result.push_back({o, 0, tap, end - tap});
    }
    ++result.back().count;
  }
  return result;
}

// What of them lies in `rows`, each row for itself where they are apart.
std::vector<Span> cut(const std::vector<Span>& spans, const PlaneRows& rows) {
  std::vector<Span> result;
  for (const Span& span : spans) {
    const int64_t end = std::min(span.first + span.count, rows.last);
    for (int64_t first = std::max(span.first, rows.first), next; first < end; first = next) {
      next = rows.apart ? first + 1 : end;
      result.push_back({first, next - first, span.tap, span.taps});
    }
  }
  return result;
}

// Sets gap and tiles of a region whose rows begin `turn` inputs apart, each pixel `step` from the next.
void cut_into_tiles(const TileShape& tile, int64_t turn, int64_t step, Region& region) {
  region.tiles = static_cast<int32_t>(divided_up(region.pixels, tile.places));
  const int64_t width = region.width, rows = region.pixels / width, gap = turn / step - width;
  if (!tile.even || width == 1 || rows == 1 || gap == 0) return;
  // In halves of a tile. Where pixels are not evenly apart they are copied first, which costs half as much
  // again.
  const int64_t half = tile.places / 2;
  const int64_t places = region.pixels + (rows - 1) * gap;
  const bool has_gap = gap > 0 && turn % step == 0;
  const int64_t with_gaps = has_gap ? divided_up(places, half) : INT32_MAX;
  const int64_t by_rows = rows * divided_up(width, half);
  if (2 * std::min(with_gaps, by_rows) >= 3 * divided_up(region.pixels, half)) return;
  if (with_gaps <= by_rows) {
    region.gap = static_cast<int32_t>(gap);
    region.tiles = static_cast<int32_t>(divided_up(places, tile.places));
  } else {
    region.tiles = static_cast<int32_t>(rows * divided_up(width, tile.places));
  }
}

}  // namespace

Tiling Geometry::tiling() const {
  return {regions.data(), static_cast<int32_t>(regions.size()), static_cast<int32_t>(stride_x),
          static_cast<int32_t>(stride_y * input_width), static_cast<int32_t>(output_width)};
}

int32_t Geometry::first_tile(int64_t part, int64_t parts) const {
  return part == parts ? num_tiles : tile_near(tap_pixels * part / parts);
}

int32_t Geometry::tile_near(int64_t work) const {
  const auto behind = std::lower_bound(tile_work.begin(), tile_work.end(), work);
  const auto tile = static_cast<int32_t>(behind - tile_work.begin());
  const bool before_is_nearer = tile > 0 && work - tile_work[static_cast<size_t>(tile - 1)] < *behind - work;
  return before_is_nearer ? tile - 1 : tile;
}

Geometry make_geometry(const Axis& y, const Axis& x, int64_t input_height, int64_t input_width,
                       const TileShape& tile) {
  return make_geometry(y, x, input_height, input_width, tile, {0, y.outputs(input_height), 0, 0, false});
}

Geometry make_geometry(const Axis& y, const Axis& x, int64_t input_height, int64_t input_width,
                       const TileShape& tile, const PlaneRows& rows) {
  Geometry geometry = {};
  geometry.input_height = input_height;
  geometry.input_width = input_width;
  geometry.output_height = y.outputs(input_height);
  geometry.output_width = x.outputs(input_width);
  geometry.stride_y = y.stride;
  geometry.stride_x = x.stride;

  geometry.tile_work.push_back(0);
  std::vector<size_t> first_run;
  const std::vector<Span> columns = spans(x, input_width);
  for (const Span& row : cut(spans(y, input_height), rows)) {
    for (const Span& column : columns) {
      Region region = {};
      region.y = static_cast<int32_t>(row.first - rows.output_first);
      region.x = static_cast<int32_t>(column.first);
      region.width = static_cast<int32_t>(column.count);
      region.pixels = static_cast<int32_t>(row.count * column.count);
      region.first_tile = geometry.num_tiles;
      cut_into_tiles(tile, y.stride * input_width, x.stride, region);
      geometry.num_tiles += region.tiles;
      first_run.push_back(geometry.runs.size());
      if (row.taps > 0 && column.taps > 0) {
        const int64_t input_y = row.first * y.stride - y.pad_begin + row.tap * y.dilation;
        const int64_t input_x = column.first * x.stride - x.pad_begin + column.tap * x.dilation;
        region.input_pixel = (input_y - rows.input_first) * input_width + input_x;
        // Side by side in the input, so one run, only without horizontal dilation.
        const int64_t taps_per_run = x.dilation == 1 ? column.taps : 1;
        for (int64_t ky = 0; ky < row.taps; ++ky) {
          for (int64_t kx = 0; kx < column.taps; kx += taps_per_run) {
            Run run = {};
            run.pixel = static_cast<int32_t>(ky * y.dilation * input_width + kx * x.dilation);
            run.tap = static_cast<int32_t>((row.tap + ky) * x.kernel + column.tap + kx);
            run.taps = static_cast<int32_t>(taps_per_run);
            geometry.runs.push_back(run);
          }
        }
      }
      region.num_runs = static_cast<int32_t>(geometry.runs.size() - first_run.back());
      for (int64_t t = 1; t <= region.tiles; ++t) {
        const int64_t pixels = region.pixels * t / region.tiles;
        geometry.tile_work.push_back(geometry.tap_pixels + pixels * row.taps * column.taps);
      }
      geometry.tap_pixels += static_cast<int64_t>(region.pixels) * row.taps * column.taps;
      geometry.regions.push_back(region);
    }
  }
  for (size_t i = 0; i < geometry.regions.size(); ++i) {
    geometry.regions[i].runs = geometry.runs.data() + first_run[i];
  }
  return geometry;
}

std::shared_ptr<const Geometry> LastGeometry::get(const Axis& y, const Axis& x, int64_t input_height,
                                                  int64_t input_width, const TileShape& tile) {
  return last_.get(
      [&](const Geometry& last) {
        return last.input_height == input_height && last.input_width == input_width;
      },
      [&] { return make_geometry(y, x, input_height, input_width, tile); });
}

}  // namespace compress
