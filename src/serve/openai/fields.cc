#include "serve/openai/fields.h"

#include <cmath>

#include "formats/bounded_json.h"

namespace weft::serve::openai {
namespace {

constexpr int kDeepest = 64;  // schemas of tools nest; nobody's nest deeper

[[noreturn]] void wrong_type(const std::string& field, const char* wanted, const Json& found) {
  throw ApiError(400, fmt::format("'{}' must be {}, but is {}", field, wanted, found.type_name()),
                 field, "invalid_type");
}

}  // namespace

Json parse_body(std::string_view body) {
  try {
    Json parsed = formats::parse_bounded_ordered_json(body, "the request body", kDeepest);
    if (!parsed.is_object())
      throw ApiError(400, fmt::format("the request body must be a JSON object, but is {}",
                                      parsed.type_name()));
    return parsed;
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
}

Fields::Fields(const Json& object, std::string path) : object_(&object), path_(std::move(path)) {}

const Json* Fields::find(const std::string& name) const {
  const auto it = object_->find(name);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

std::optional<double> Fields::number(const std::string& name, double least, double most) const {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) wrong_type(path(name), "a number", *value);
  const auto number = value->get<double>();
  if (!(number >= least && number <= most))
    bad_field(path(name), "must be between {} and {}, but is {}", least, most, number);
  return number;
}

std::optional<int64_t> Fields::integer(const std::string& name, int64_t least, int64_t most) const {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  const bool whole = value->is_number_integer() ||
                     (value->is_number() && std::trunc(value->get<double>()) == value->get<double>());
  if (!whole) wrong_type(path(name), "an integer", *value);
  // As a double: a value beyond int64 is out of range as well, not wrapped.
  const auto approximate = value->get<double>();
  if (approximate < static_cast<double>(least) || approximate > static_cast<double>(most))
    bad_field(path(name), "must be between {} and {}, but is {}", least, most, value->dump());
  return value->is_number_integer() ? value->get<int64_t>() : static_cast<int64_t>(approximate);
}

std::optional<bool> Fields::boolean(const std::string& name) const {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) wrong_type(path(name), "true or false", *value);
  return value->get<bool>();
}

std::optional<std::string> Fields::string(const std::string& name) const {
  const Json* const value = find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) wrong_type(path(name), "a string", *value);
  return value->get<std::string>();
}

std::string Fields::need_string(const std::string& name) const {
  auto value = string(name);
  if (!value)
    throw ApiError(400, fmt::format("'{}' is missing", path(name)), path(name),
                   "missing_required_parameter");
  return *std::move(value);
}

const Json* Fields::array(const std::string& name) const {
  const Json* const value = find(name);
  if (value != nullptr && !value->is_array()) wrong_type(path(name), "a list", *value);
  return value;
}

const Json* Fields::object(const std::string& name) const {
  const Json* const value = find(name);
  if (value != nullptr && !value->is_object()) wrong_type(path(name), "an object", *value);
  return value;
}

std::vector<std::string> Fields::strings(const std::string& name, size_t most) const {
  const Json* const value = find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) wrong_type(path(name), "a string or a list of strings", *value);
  if (value->size() > most) bad_field(path(name), "has {} entries, {} at most", value->size(), most);
  std::vector<std::string> out;
  for (const Json& entry : *value) {
    if (!entry.is_string()) wrong_type(path(name), "a string or a list of strings", entry);
    out.push_back(entry.get<std::string>());
  }
  return out;
}

}  // namespace weft::serve::openai
