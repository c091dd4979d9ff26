// Threads that wait for each other, busily at first.
#ifndef COMPRESS_WAIT_H_
#define COMPRESS_WAIT_H_

#include <atomic>
#include <cstdint>
#include <thread>

namespace compress {

// Until `count` has reached `whole`: first busily, since it is a matter of microseconds, then giving way,
// since the thread waited for may have no processor.
inline void wait_for(const std::atomic<int32_t>& count, int32_t whole) {
  constexpr int kBusyTurns = 1000;
  for (int turn = 0; count.load(std::memory_order_acquire) < whole; ++turn) {
    if (turn >= kBusyTurns) std::this_thread::yield();
  }
}

}  // namespace compress

#endif  // COMPRESS_WAIT_H_
