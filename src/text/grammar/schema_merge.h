// Two JSON schemas as one that is met where both are: for allOf, and for keywords beside anyOf.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace weft::text::grammar {

// Both are objects without $ref, allOf, or keywords that nobody knows. kInvalidInput with `path`:
// they have something in common that cannot be said in one schema here.
nlohmann::ordered_json merge_schemas(const nlohmann::ordered_json& a,
                                     const nlohmann::ordered_json& b, const std::string& path);

// Says something about a schema, and nothing about what matches it.
bool is_annotation(const std::string& keyword);

}  // namespace weft::text::grammar
