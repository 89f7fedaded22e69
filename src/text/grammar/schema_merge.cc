#include "text/grammar/schema_merge.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"

namespace weft::text::grammar {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void cannot_merge(const std::string& path, const std::string& keyword) {
  fail(ErrorKind::kInvalidInput,
       "schema at {}: '{}' is given more than once, in a way that cannot be put together. Write "
       "what both mean in one schema.",
       path, keyword);
}

bool one_of(const std::string& keyword, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), keyword) != names.end();
}

Json as_list(const Json& value) { return value.is_array() ? value : Json::array({value}); }

bool holds(const Json& list, const Json& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// What both lists allow; an integer is a number.
Json common_types(const Json& a, const Json& b) {
  Json out = Json::array();
  const auto add = [&](const Json& from, const Json& other) {
    for (const Json& type : from) {
      const bool allowed = holds(other, type) || (type == "integer" && holds(other, "number"));
      if (allowed && !holds(out, type)) out.push_back(type);
    }
  };
  add(as_list(a), as_list(b));
  add(as_list(b), as_list(a));
  return out;
}

// A schema that closes its list of properties says something about those that the other one adds.
void check_properties(const Json& closing, const Json& other, const std::string& path) {
  const auto closed = closing.find("additionalProperties");
  if (closed == closing.end() || *closed == true) return;
  const auto others = other.find("properties");
  if (others == other.end()) return;
  const auto own = closing.find("properties");
  for (const auto& [name, schema] : others->items())
    if (own == closing.end() || !own->contains(name)) cannot_merge(path, "additionalProperties");
}

void merge_properties(Json& into, const Json& from) {
  for (const auto& [name, schema] : from.items()) {
    if (!into.contains(name))
      into[name] = schema;
    else if (into[name] != schema)
      into[name] = Json{{"allOf", Json::array({into[name], schema})}};
  }
}

}  // namespace

bool is_annotation(const std::string& keyword) {
  return one_of(keyword, {"title", "description", "default", "example", "examples", "$schema",
                          "$id", "$anchor", "$comment", "deprecated", "readOnly", "writeOnly",
                          "$defs", "definitions"});
}

Json merge_schemas(const Json& a, const Json& b, const std::string& path) {
  check_properties(a, b, path);
  check_properties(b, a, path);
  Json out = a;
  for (const auto& [keyword, value] : b.items()) {
    if (is_annotation(keyword)) continue;
    if (!out.contains(keyword)) {
      out[keyword] = value;
      continue;
    }
    Json& mine = out[keyword];
    if (mine == value) continue;
    if (keyword == "type") {
      mine = common_types(mine, value);
      if (mine.empty()) cannot_merge(path, keyword);
    } else if (keyword == "properties" && mine.is_object() && value.is_object()) {
      merge_properties(mine, value);
    } else if (keyword == "required" && mine.is_array() && value.is_array()) {
      for (const Json& name : value)
        if (!holds(mine, name)) mine.push_back(name);
    } else if (keyword == "enum" && mine.is_array() && value.is_array()) {
      Json common = Json::array();
      for (const Json& choice : mine)
        if (holds(value, choice)) common.push_back(choice);
      mine = std::move(common);
      if (mine.empty()) cannot_merge(path, keyword);
    } else if (one_of(keyword, {"minimum", "exclusiveMinimum", "minLength", "minItems"}) &&
               mine.is_number() && value.is_number()) {
      mine = std::max(mine, value);
    } else if (one_of(keyword, {"maximum", "exclusiveMaximum", "maxLength", "maxItems"}) &&
               mine.is_number() && value.is_number()) {
      mine = std::min(mine, value);
    } else {
      cannot_merge(path, keyword);
    }
  }
  return out;
}

}  // namespace weft::text::grammar
