#include "file_pages.h"

#include <algorithm>

#ifdef __linux__
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace compress {

#ifdef __linux__

namespace {

// What /proc/self/pagemap says of a page. Source: the kernel's Documentation/admin-guide/mm/pagemap.rst.
constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kOfFile = uint64_t{1} << 61;  // or of shared memory, which holds its bytes too

constexpr size_t kPagesAtATime = 512;

bool droppable(uint64_t page) { return (page & kPresent) != 0 && (page & kOfFile) != 0; }

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// Reads what is said of pages from number `first` on, at most `count`; returns of how many.
size_t read_pages(int map, size_t first, size_t count, uint64_t* pages) {
  const ssize_t got =
      pread(map, pages, count * sizeof(uint64_t), static_cast<off_t>(first * sizeof(uint64_t)));
  return got < 0 ? 0 : static_cast<size_t>(got) / sizeof(uint64_t);
}

// Whether the map is that of the addresses this program sees. In an emulator it may be the emulator's own,
// and a page that is not a file's would be lost. Known from two pages that no file holds, of which only the
// second is there.
bool is_own_map(int map) {
  const size_t page = page_bytes();
  void* const memory = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  madvise(memory, 2 * page, MADV_NOHUGEPAGE);
  *(static_cast<volatile char*>(memory) + page) = 1;
  uint64_t pages[2] = {};
  const size_t count = read_pages(map, reinterpret_cast<uintptr_t>(memory) / page, 2, pages);
  munmap(memory, 2 * page);
  return count == 2 && (pages[0] & kPresent) == 0 && (pages[1] & kPresent) != 0 && (pages[1] & kOfFile) == 0;
}

void drop_pages(int map, size_t next, size_t end) {
  const size_t page = page_bytes();
  uint64_t pages[kPagesAtATime];
  while (next < end) {
    const size_t count = read_pages(map, next, std::min(kPagesAtATime, end - next), pages);
    if (count == 0) return;
    for (size_t i = 0; i < count;) {
      size_t last = i;
      while (last < count && droppable(pages[last])) ++last;
      if (last > i) madvise(reinterpret_cast<void*>((next + i) * page), (last - i) * page, MADV_DONTNEED);
      i = std::max(last, i + 1);
    }
    next += count;
  }
}

}  // namespace

void drop_file_pages(const void* data, size_t bytes) {
  const size_t page = page_bytes();
  const auto address = reinterpret_cast<uintptr_t>(data);
  const size_t first = (address + page - 1) / page;  // of the pages that lie in it whole
  const size_t end = (address + bytes) / page;
  if (first >= end) return;
  const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (map < 0) return;
  if (is_own_map(map)) drop_pages(map, first, end);
  close(map);
}

#else

void drop_file_pages(const void*, size_t) {}

#endif

}  // namespace compress
