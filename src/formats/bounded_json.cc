#include "formats/bounded_json.h"

#include <set>
#include <vector>

#include "base/error.h"

namespace weft::formats {
namespace {

template <typename Json>
Json parse(std::string_view text, const std::string& name, int max_depth, size_t max_keys) {
  using Event = typename Json::parse_event_t;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, Event event, Json& parsed) {
    const bool opens =
        event == Event::object_start || event == Event::array_start;
    if (opens && depth >= max_depth)
      fail(ErrorKind::kInvalidInput, "{}: JSON nested deeper than {} levels", name, max_depth);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      const auto& key = parsed.template get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        fail(ErrorKind::kInvalidInput, "{}: key '{}' appears twice in one object", name, key);
      if (keys.back().size() > max_keys)
        fail(ErrorKind::kInvalidInput, "{}: an object has more than {} keys", name, max_keys);
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), check);
  } catch (const typename Json::parse_error& error) {
    fail(ErrorKind::kInvalidInput, "{}: not valid JSON at byte {}", name, error.byte);
  } catch (const typename Json::out_of_range&) {  // the parser's only one
    fail(ErrorKind::kInvalidInput, "{}: its JSON has a number too large for a double", name);
  }
}

}  // namespace

nlohmann::json parse_bounded_json(std::string_view text, const std::string& name, int max_depth) {
  return parse<nlohmann::json>(text, name, max_depth, SIZE_MAX);
}

nlohmann::ordered_json parse_bounded_ordered_json(std::string_view text, const std::string& name,
                                                  int max_depth) {
  constexpr size_t kMaxKeys = 8192;  // an ordered object looks through all of them for each
  return parse<nlohmann::ordered_json>(text, name, max_depth, kMaxKeys);
}

}  // namespace weft::formats
