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

}  // namespace

void drop_file_pages(const void* data, size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(data);
  size_t next = (address + page - 1) / page;
  const size_t end = (address + bytes) / page;
  if (next >= end) return;
  const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (map < 0) return;
  uint64_t pages[kPagesAtATime];
  while (next < end) {
    const size_t wanted = std::min(kPagesAtATime, end - next);
    const ssize_t got =
        pread(map, pages, wanted * sizeof(uint64_t), static_cast<off_t>(next * sizeof(uint64_t)));
    const size_t count = got < 0 ? 0 : static_cast<size_t>(got) / sizeof(uint64_t);
    if (count == 0) break;
    for (size_t i = 0; i < count;) {
      size_t last = i;
      while (last < count && droppable(pages[last])) ++last;
      if (last > i) madvise(reinterpret_cast<void*>((next + i) * page), (last - i) * page, MADV_DONTNEED);
      i = std::max(last, i + 1);
    }
    next += count;
  }
  close(map);
}

#else

void drop_file_pages(const void*, size_t) {}

#endif

}  // namespace compress
