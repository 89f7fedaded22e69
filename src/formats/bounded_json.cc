#include "formats/bounded_json.h"

#include <set>
#include <vector>

#include "base/error.h"

namespace weft::formats {

nlohmann::json parse_bounded_json(std::string_view text, const std::string& name, int max_depth) {
  using nlohmann::json;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    const bool opens =
        event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth >= max_depth)
      fail(ErrorKind::kInvalidInput, "{}: JSON nested deeper than {} levels", name, max_depth);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        fail(ErrorKind::kInvalidInput, "{}: key '{}' appears twice in one object", name, key);
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::parse_error& error) {
    fail(ErrorKind::kInvalidInput, "{}: not valid JSON at byte {}", name, error.byte);
  } catch (const json::out_of_range&) {  // the parser's only one
    fail(ErrorKind::kInvalidInput, "{}: its JSON has a number too large for a double", name);
  }
}

}  // namespace weft::formats
