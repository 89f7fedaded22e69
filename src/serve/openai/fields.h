// Reads the fields of a request's JSON object. An absent field and null are the same; a field of
// the wrong type or out of its range is a 400 that names it; fields nobody asks for are ignored.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/openai/api_error.h"

namespace weft::serve::openai {

using Json = nlohmann::ordered_json;

// 400: not JSON, not an object, nested too deep.
Json parse_body(std::string_view body);

class Fields {
 public:
  // `path` goes in front of the names in messages: "messages[2]." The object outlives the Fields.
  explicit Fields(const Json& object, std::string path = {});

  const Json* find(const std::string& name) const;  // null when absent
  std::string path(const std::string& name) const { return path_ + name; }

  std::optional<double> number(const std::string& name, double least, double most) const;
  std::optional<int64_t> integer(const std::string& name, int64_t least, int64_t most) const;
  std::optional<bool> boolean(const std::string& name) const;
  std::optional<std::string> string(const std::string& name) const;
  std::string need_string(const std::string& name) const;
  const Json* array(const std::string& name) const;
  const Json* object(const std::string& name) const;
  // A string or a list of them.
  std::vector<std::string> strings(const std::string& name, size_t most) const;

 private:
  const Json* object_;
  std::string path_;
};

}  // namespace weft::serve::openai
