#include "huge_pages.h"

#include <cstdint>
#include <mutex>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace compress {

namespace {

// Address space for which the next buffers queue; memory only where they have been written. A buffer that
// does not fit the rest begins the next one.
constexpr size_t kChunkBytes = 16 * kHugePage;

// A sanitizer sees the ends of buffers only where each has memory of its own.
#ifdef COMPRESS_BUFFERS_APART
constexpr bool kShares = false;
#else
constexpr bool kShares = true;
#endif

}  // namespace

// Filled from the front. What is given back becomes free with the whole, or at once where it is the last.
struct Chunk {
  char* memory;
  size_t used = 0;
  size_t places = 0;
};

namespace {

struct Chunks {
  std::mutex mutex;
  size_t bytes = 0;  // of all buffers that have been asked for and not given back
  Chunk* last = nullptr;
};

// Never destroyed: a session may outlive static objects at the end of the process.
Chunks& chunks() {
  static Chunks* const instance = new Chunks;
  return *instance;
}

// From the system itself: once the C library has had so much to free, it maps nothing as large any more, and
// keeps what others give back. Null where there is no such memory.
char* map_chunk() {
#ifdef __linux__
  void* const mapped = mmap(nullptr, kChunkBytes + kHugePage, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<char*>(mapped);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + kChunkBytes, kHugePage - before);
  want_huge_pages(begin + before, kChunkBytes);
  return begin + before;
#else
  return nullptr;
#endif
}

void unmap_chunk([[maybe_unused]] char* memory) {
#ifdef __linux__
  munmap(memory, kChunkBytes);
#endif
}

Chunk* new_chunk() {
  char* const memory = map_chunk();
  if (memory == nullptr) return nullptr;
  auto* const chunk = new (std::nothrow) Chunk{memory};
  if (chunk == nullptr) unmap_chunk(memory);
  return chunk;
}

}  // namespace

void want_huge_pages([[maybe_unused]] char* memory, [[maybe_unused]] size_t bytes) {
#ifdef __linux__
  madvise(memory, bytes, MADV_HUGEPAGE);
#endif
}

Place take_place(size_t bytes) {
  Chunks& all = chunks();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.bytes += bytes;
  if (!kShares || all.bytes <= kHugePage) return {nullptr, nullptr};
  if (all.last == nullptr || kChunkBytes - all.last->used < bytes) {
    Chunk* const next = new_chunk();
    if (next == nullptr) return {nullptr, nullptr};
    all.last = next;
  }
  char* const data = all.last->memory + all.last->used;
  all.last->used += bytes;
  ++all.last->places;
  return {data, all.last};
}

void give_back(const Place& place, size_t bytes) {
  Chunks& all = chunks();
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.bytes -= bytes;
  Chunk* const chunk = place.chunk;
  if (chunk == nullptr) return;
  if (place.data + bytes == chunk->memory + chunk->used) chunk->used -= bytes;
  if (--chunk->places > 0) return;
  if (all.last == chunk) all.last = nullptr;
  unmap_chunk(chunk->memory);
  delete chunk;
}

}  // namespace compress
