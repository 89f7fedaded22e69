// JSON from files that nobody vouches for: nesting is bounded while parsing, and a key that appears
// twice in one object is refused (which of the two holds would be the parser's whim).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace weft::formats {

// kInvalidInput with `name` and the byte where the text stops being JSON.
nlohmann::json parse_bounded_json(std::string_view text, const std::string& name,
                                  int max_depth = 32);
// The same with the order of keys kept, of which an object has 8192 at most.
nlohmann::ordered_json parse_bounded_ordered_json(std::string_view text, const std::string& name,
                                                  int max_depth = 32);

}  // namespace weft::formats
