#include "text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace weft::text {
namespace {

// Length of the longest end of `text` that begins `stop` without being all of it.
size_t partial_match(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length != 0; --length)
    if (stop.starts_with(text.substr(text.size() - length))) return length;
  return 0;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_)
    if (stop.empty()) fail(ErrorKind::kInvalidInput, "a stop string is empty: leave it out");
}

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  size_t first = std::string::npos, held = 0;
  for (const std::string& stop : stops_) {
    first = std::min(first, held_.find(stop));
    held = std::max(held, partial_match(held_, stop));
  }
  stopped_ = first != std::string::npos;
  std::string shown = held_.substr(0, stopped_ ? first : held_.size() - held);
  held_ = stopped_ ? std::string() : held_.substr(shown.size());
  return shown;
}

std::string StopStrings::finish() { return std::exchange(held_, {}); }

}  // namespace weft::text
