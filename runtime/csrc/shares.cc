#include "shares.h"

#include <algorithm>

namespace compress {

namespace {

// Two vectors at a time read the inputs half as often as one at a time. So cuts lie within pairs of vectors,
// and both sides prepare both, unless that costs more than this part of computing with them.
constexpr int64_t kCheapPreparation = 20;

// A place in the work, pair after pair of vectors (or vector after vector), each tile after tile.
struct Cut {
  int32_t vector, tile;
};

// Where share number `share` begins. So near to a pair's begin or end that preparing it twice costs more than
// it evens out, the cut moves there.
Cut find_cut(const Division& division, int32_t width, int32_t share) {
  if (share == 0) return {0, 0};
  if (share == division.shares) return {division.vectors, 0};
  const Geometry& geometry = *division.geometry;
  const int64_t work = division.vectors * geometry.tap_pixels;
  const int64_t head_start = std::min(division.head_start, work / division.shares);
  const int64_t position = head_start + (work - head_start) * share / division.shares;
  const auto vector = static_cast<int32_t>(position / geometry.tap_pixels) / width * width;
  const int32_t cut_width = std::min(width, division.vectors - vector);
  const int64_t rest = (position - vector * geometry.tap_pixels) / cut_width;
  const int64_t margin = std::min(division.pack_pixels, geometry.tap_pixels / 2);
  if (rest < margin) return {vector, 0};
  const int32_t tile = geometry.tile_near(rest);
  if (geometry.tap_pixels - rest < margin || tile == geometry.num_tiles) return {vector + cut_width, 0};
  return {vector, tile};
}

}  // namespace

int32_t max_segments(int32_t vectors, int32_t shares) {
  // By tiles every share has all vectors, in pairs; by outputs there are at most two more for each cut.
  return std::max((vectors + 1) / 2 * shares, vectors + 2 * shares);
}

void divide(const Division& division, Share* shares, Segment* segments) {
  const Geometry& geometry = *division.geometry;
  const int32_t width = division.pack_pixels * kCheapPreparation > geometry.tap_pixels ? 1 : 2;
  int32_t count = 0;
  // Vectors [first, last), two by two where they are of one kind.
  const auto add = [&](int32_t first, int32_t last, int32_t first_tile, int32_t last_tile) {
    if (first_tile == last_tile) return;
    for (int32_t v = first; v < last; v += segments[count - 1].width) {
      segments[count++] = {v, segment_width(v, last, division.kinds), first_tile, last_tile};
    }
  };
  for (int32_t i = 0; i < division.shares; ++i) {
    Share& share = shares[i];
    share = {};
    share.first = share.next = count;
    if (!division.by_outputs) {
      add(0, division.vectors, geometry.first_tile(i, division.shares),
          geometry.first_tile(i + 1, division.shares));
    } else {
      const Cut begin = find_cut(division, width, i);
      const Cut end = find_cut(division, width, i + 1);
      const auto behind = [&](int32_t vector) { return std::min(vector + width, division.vectors); };
      if (begin.vector == end.vector) {
        add(begin.vector, behind(begin.vector), begin.tile, end.tile);
      } else {
        const int32_t whole = begin.tile == 0 ? begin.vector : behind(begin.vector);
        if (begin.tile > 0) add(begin.vector, whole, begin.tile, geometry.num_tiles);
        add(whole, end.vector, 0, geometry.num_tiles);
        add(end.vector, behind(end.vector), 0, end.tile);
      }
    }
    share.last = count;
    if (count > share.first) share.next_tile = segments[count - 1].first_tile;
  }
}

}  // namespace compress
