#include "huge_pages.h"

#include <cstdlib>
#include <memory>
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
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kShares = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool kShares = false;
#else
constexpr bool kShares = true;
#endif
#else
constexpr bool kShares = true;
#endif

}  // namespace

// Filled from the front. What is given back becomes free with the whole, or at once where it is the last.
struct Chunk {
  explicit Chunk(char* start) : memory(start) {}
  ~Chunk() { std::free(memory); }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  char* const memory;
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

// Null where there is no such memory.
Chunk* new_chunk() {
  void* memory = nullptr;
  if (posix_memalign(&memory, kHugePage, kChunkBytes) != 0) return nullptr;
  want_huge_pages(static_cast<char*>(memory), kChunkBytes);
  Chunk* const chunk = new (std::nothrow) Chunk(static_cast<char*>(memory));
  if (chunk == nullptr) std::free(memory);
  return chunk;
}

}  // namespace

void want_huge_pages(char* memory, size_t bytes) {
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
  delete chunk;
}

}  // namespace compress
