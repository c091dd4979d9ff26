// How several threads divide one convolution: each begins with a share of its own, always the same one, so
// that its caches keep the weights or the rows it works on; whoever is done early helps the others.
#ifndef COMPRESS_SHARES_H_
#define COMPRESS_SHARES_H_

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

// What is divided.
struct Division {
  const Geometry* geometry;
  int32_t vectors;  // of outputs
  int32_t shares;   // 1 or more
  bool by_outputs;  // shares are stretches of the outputs, else of the tiles
  int64_t
      pack_pixels;  // preparing a vector's weights costs as much as computing so many tap_pixels with them
};

// Most segments that divide() can write.
int32_t max_segments(int32_t vectors, int32_t shares);

// Writes division.shares shares of about equal work, and their segments: together every vector on every tile,
// once.
void divide(const Division& division, Share* shares, Segment* segments);

}  // namespace compress

#endif  // COMPRESS_SHARES_H_
