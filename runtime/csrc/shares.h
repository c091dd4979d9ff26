// How several threads divide one convolution: each begins with a share of its own, always the same one, so
// that its caches keep the weights or the rows it works on; whoever is done early helps the others. Nobody
// waits for anybody: what a thread has begun it finishes, and what it has not begun anyone else does.
#ifndef COMPRESS_SHARES_H_
#define COMPRESS_SHARES_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "geometry.h"

namespace compress {

// One or two vectors of outputs on some tiles.
struct Segment {
  int32_t vector, width;
  int32_t first_tile, last_tile;
};

// What one thread begins with: segments, in order. The counters are shared by all threads (std::atomic_ref).
struct alignas(64) Share {
  int32_t first, last;  // segments [first, last)
  int32_t next;         // the first segment that nobody has begun
  int32_t next_tile;    // of the last segment: the first tile that nobody has taken
  int32_t open;         // 1 once the last segment's weights are ready, so that anybody may take tiles
};

// A place in a share's own memory: number 0, or 1 where the last segment needs one that others may read.
struct Slot {
  int32_t share, number;
};

// What is divided.
struct Division {
  const Geometry* geometry;
  int32_t vectors;  // of outputs
  int32_t shares;   // 1 or more
  bool by_outputs;  // shares are stretches of the outputs, else of the tiles
  // Preparing a vector's weights costs as much as computing so many tap_pixels with them.
  int64_t pack_pixels;
  // Of each vector: a segment has vectors of one kind; null: all are.
  const bool* kinds = nullptr;
  // By outputs: what the first share's thread computes before the others begin, in vectors times tap_pixels.
  int64_t head_start = 0;
};

// Of two vectors from `vector` on, how many the segment that begins there has; `end` behind the last.
inline int32_t segment_width(int32_t vector, int32_t end, const bool* kinds) {
  const bool two = vector + 1 < end && (kinds == nullptr || kinds[vector] == kinds[vector + 1]);
  return two ? 2 : 1;
}

// A divided convolution, as its threads take from it. A segment's outputs need their weights made ready
// first, in memory of the thread that does it; those of a share's last segment lie where every thread may
// read them, so that its tiles are open to all from then on.
struct SharedWork {
  Share* shares;
  Segment* segments;
  int32_t count;        // of shares
  int32_t least_tiles;  // that a thread takes of a last segment at a time

  int32_t slots_a_share() const { return count == 1 ? 1 : 2; }
  Slot slot(int32_t share, bool last) const { return {share, last ? slots_a_share() - 1 : 0}; }

  // The number of a segment of `share` that nobody has begun, or -1.
  int32_t take_segment(int32_t share) const {
    const std::atomic_ref next(shares[share].next);
    if (next.load(std::memory_order_relaxed) >= shares[share].last) return -1;
    const int32_t number = next.fetch_add(1, std::memory_order_relaxed);
    return number < shares[share].last ? number : -1;
  }
  bool is_last(int32_t share, int32_t segment) const { return segment + 1 == shares[share].last; }
  const Segment& last_segment(int32_t share) const { return segments[shares[share].last - 1]; }

  // A share's last weights are ready: said by who made them, asked by who would help.
  void open(int32_t share) const { std::atomic_ref(shares[share].open).store(1, std::memory_order_release); }
  bool is_open(int32_t share) const {
    return std::atomic_ref(shares[share].open).load(std::memory_order_acquire) != 0;
  }

  // compute(first, last) on tiles of a share's last segment, as long as there are some before `end`: many at
  // first, since others would have to wait for what a thread has just written, then few, so that all end
  // together.
  template <typename Compute>
  void take_tiles(int32_t share, int32_t end, const Compute& compute) const {
    const std::atomic_ref next(shares[share].next_tile);
    int32_t first = next.load(std::memory_order_relaxed);
    while (first < end) {
      const int32_t tiles = std::max(least_tiles, (last_segment(share).last_tile - first) / 4);
      const int32_t last = std::min(first + tiles, end);
      if (!next.compare_exchange_weak(first, last, std::memory_order_relaxed)) continue;
      compute(first, last);
      first = next.load(std::memory_order_relaxed);
    }
  }

  // What a thread does: compute(share) for the share it begins with, `own`, and then for all others, each as
  // far as nobody has begun it; then help(share) with those others whose last weights are ready.
  template <typename Compute, typename Help>
  void walk(int32_t own, const Compute& compute, const Help& help) const {
    for (int32_t i = 0; i < count; ++i) compute((own + i) % count);
    for (int32_t i = 1; i < count; ++i) {
      const int32_t share = (own + i) % count;
      if (is_open(share)) help(share);
    }
  }
};

// Shares as a grid: stretches of the plane, of one part of the outputs after the other.
struct Grid {
  int32_t parts = 1;      // of the vectors of outputs
  int32_t stretches = 1;  // of rows, or of tiles

  int32_t shares() const { return parts * stretches; }
};

// Of the grids of at most `shares` shares and `most_stretches` stretches the one whose largest share costs
// least: cost(stretches, vectors of outputs).
template <typename Cost>
Grid cheapest_grid(int32_t shares, int32_t most_stretches, int32_t vectors, const Cost& cost) {
  Grid best;
  int64_t least = 0;
  for (int32_t stretches = 1; stretches <= std::min(shares, most_stretches); ++stretches) {
    const int32_t parts = std::min(shares / stretches, vectors);
    const int64_t found = cost(int64_t{stretches}, int64_t{(vectors + parts - 1) / parts});
    if (least != 0 && found >= least) continue;
    least = found;
    best = {parts, stretches};
  }
  return best;
}

// Writes the shares and segments of a grid: width(v, end) vectors from v on, of [first(s), first(s + 1)).
template <typename Width, typename First>
void share_grid(const Grid& grid, int32_t vectors, const Width& width, const First& first,
                const SharedWork& shared) {
  int32_t count = 0;
  for (int32_t i = 0; i < grid.shares(); ++i) {
    Share& share = shared.shares[i];
    const int32_t part = i / grid.stretches, stretch = i % grid.stretches;
    share = {};
    share.first = share.next = count;
    share.next_tile = first(stretch);
    const int32_t end = vectors * (part + 1) / grid.parts;
    for (int32_t v = vectors * part / grid.parts; v < end; v += shared.segments[count - 1].width) {
      shared.segments[count++] = {v, width(v, end), first(stretch), first(stretch + 1)};
    }
    share.last = count;
  }
}

// Most segments that divide() can write.
int32_t max_segments(int32_t vectors, int32_t shares);

// Writes division.shares shares of about equal work, and their segments: together every vector on every tile,
// once.
void divide(const Division& division, Share* shares, Segment* segments);

}  // namespace compress

#endif  // COMPRESS_SHARES_H_
