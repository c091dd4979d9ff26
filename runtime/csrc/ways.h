// Which way each layer of this process went last, by its node's name: for a profile that says why a node
// takes its time.
#ifndef COMPRESS_WAYS_H_
#define COMPRESS_WAYS_H_

#include <atomic>
#include <string>

namespace compress {

// How a layer came to its outputs.
enum class Way : int {
  kNone,      // it has not run yet
  kStored,    // every output wins and every input is there: by the weights as they are stored
  kPacked,    // the winners' weights were squeezed together for this input
  kWinograd,  // likewise, then transformed: by Winograd's minimal filtering
  kMatrix,    // likewise, and multiplied with the input in matrices of bfloat16, of floats three each
  kAll,       // every output was computed from the stored weights, and the winners kept
};

// "stored", "packed", "winograd", "matrix", "all", or "" for kNone.
const char* text(Way way);

// The way of a name, kNone for "" and for anything else.
Way way_named(const std::string& name);

// Makes a layer's way known under its node's name while it lives; of several the youngest counts.
class WayEntry {
 public:
  WayEntry(std::string name, const std::atomic<Way>* way);
  ~WayEntry();
  WayEntry(const WayEntry&) = delete;
  WayEntry& operator=(const WayEntry&) = delete;

  const std::string& name() const { return name_; }
  Way way() const { return way_->load(std::memory_order_relaxed); }

 private:
  std::string name_;
  const std::atomic<Way>* way_;
};

// kNone where no layer of that name lives.
Way find_way(const std::string& name);

}  // namespace compress

#endif  // COMPRESS_WAYS_H_
