// Something made for one input size and kept while this stays the same.
#ifndef COMPRESS_LAST_H_
#define COMPRESS_LAST_H_

#include <memory>
#include <mutex>

namespace compress {

// The last one, for any number of threads.
template <typename T>
class Last {
 public:
  // It, if serves(it), or else the new one that make() returns.
  template <typename Serves, typename Make>
  std::shared_ptr<const T> get(const Serves& serves, const Make& make) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (last_ == nullptr || !serves(*last_)) last_ = std::make_shared<const T>(make());
    return last_;
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<const T> last_;
};

}  // namespace compress

#endif  // COMPRESS_LAST_H_
