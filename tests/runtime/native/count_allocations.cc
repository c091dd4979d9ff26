// For LD_PRELOAD on Linux with glibc: counts the allocations that libcompress_ops itself asks for, and prints
// them when the program ends. ONNX Runtime's own are not counted, nor those it makes on our behalf.
#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
}

namespace {

std::atomic<long> count{0};

void note(const void* caller) {
  Dl_info info = {};
  if (dladdr(caller, &info) == 0 || info.dli_fname == nullptr) return;
  if (std::strstr(info.dli_fname, "libcompress_ops") != nullptr) count.fetch_add(1);
}

struct Report {
  ~Report() { std::printf("allocations: %ld\n", count.load()); }
} report;

}  // namespace

#define NOTE_CALLER() note(__builtin_return_address(0))

extern "C" {

void* malloc(size_t bytes) {
  NOTE_CALLER();
  return __libc_malloc(bytes);
}
void* calloc(size_t number, size_t bytes) {
  NOTE_CALLER();
  return __libc_calloc(number, bytes);
}
void* realloc(void* old, size_t bytes) {
  NOTE_CALLER();
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  NOTE_CALLER();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  NOTE_CALLER();
  *out = __libc_memalign(alignment, bytes);
  return *out == nullptr ? ENOMEM : 0;
}
}

void* operator new(size_t bytes) {
  NOTE_CALLER();
  void* const memory = __libc_malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
