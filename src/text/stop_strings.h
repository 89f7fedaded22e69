// Stop strings: text goes through here on its way out, and ends before the first of them. What
// might be the beginning of one is held back until it is known, so no part of a stop string is ever
// shown, however tokens cut it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);  // kInvalidInput: an empty one

  std::string push(std::string_view text);  // what may be shown now
  std::string finish();                     // the end of the text: what was held back
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace weft::text
