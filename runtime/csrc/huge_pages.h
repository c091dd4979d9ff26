// Huge pages that many buffers share.
#ifndef COMPRESS_HUGE_PAGES_H_
#define COMPRESS_HUGE_PAGES_H_

#include <cstddef>

namespace compress {

inline constexpr size_t kHugePage = size_t{2} << 20;

// Asks the system for huge pages under `memory`, aligned to them. A wish: small pages serve as well.
void want_huge_pages(char* memory, size_t bytes);

struct Chunk;

// Where a buffer smaller than a huge page lies: in a chunk together with others, or, null, wherever its owner
// finds memory.
struct Place {
  char* data;
  Chunk* chunk;
};

// A place for a buffer of `bytes`, a multiple of its alignment. The first buffers get none: what all of them
// hold is then translated by small pages as well, and a huge one would be mostly empty.
Place take_place(size_t bytes);

// Gives back what take_place() gave for as many bytes, be it none. A chunk's memory is the system's again
// when nobody has a place in it.
void give_back(const Place& place, size_t bytes);

}  // namespace compress

#endif  // COMPRESS_HUGE_PAGES_H_
