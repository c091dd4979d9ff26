#include "ways.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace compress {

namespace {

struct Entries {
  std::mutex mutex;
  std::vector<const WayEntry*> list;
};

// Never destroyed: a session may outlive static objects at the end of the process.
Entries& entries() {
  static Entries* const instance = new Entries;
  return *instance;
}

}  // namespace

const char* text(Way way) {
  switch (way) {
    case Way::kStored:
      return "stored";
    case Way::kPacked:
      return "packed";
    case Way::kWinograd:
      return "winograd";
    case Way::kMatrix:
      return "matrix";
    case Way::kAll:
      return "all";
    case Way::kNone:
      break;
  }
  return "";
}

Way way_named(const std::string& name) {
  for (const Way way : {Way::kStored, Way::kPacked, Way::kWinograd, Way::kMatrix, Way::kAll}) {
    if (name == text(way)) return way;
  }
  return Way::kNone;
}

WayEntry::WayEntry(std::string name, const std::atomic<Way>* way) : name_(std::move(name)), way_(way) {
  const std::lock_guard<std::mutex> lock(entries().mutex);
  entries().list.push_back(this);
}

WayEntry::~WayEntry() {
  const std::lock_guard<std::mutex> lock(entries().mutex);
  std::erase(entries().list, this);
}

Way find_way(const std::string& name) {
  const std::lock_guard<std::mutex> lock(entries().mutex);
  const auto& list = entries().list;
  const auto found =
      std::find_if(list.rbegin(), list.rend(), [&](const WayEntry* entry) { return entry->name() == name; });
  return found == list.rend() ? Way::kNone : (*found)->way();
}

}  // namespace compress
