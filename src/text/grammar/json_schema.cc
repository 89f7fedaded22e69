#include "text/grammar/json_schema.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "text/grammar/json_pattern.h"
#include "text/grammar/json_text.h"
#include "text/grammar/schema_merge.h"

namespace weft::text::grammar {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxValues = 100'000;    // JSON values in a schema
constexpr size_t kMaxMerged = 1'000'000;  // JSON values that merging copies, all together
constexpr int kDeepest = 100;             // schemas within schemas, merged ones too

const char* const kTypes[] = {"object", "array", "string", "number", "integer", "boolean", "null"};

// Keywords by the type that they are about.
const std::map<std::string_view, std::vector<std::string_view>>& keywords() {
  static const std::map<std::string_view, std::vector<std::string_view>> table = {
      {"object", {"properties", "required", "additionalProperties"}},
      {"array", {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}},
      {"string", {"minLength", "maxLength", "pattern", "format"}},
      {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
      {"", {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}}};
  return table;
}

bool is_known(std::string_view keyword) {
  for (const auto& [type, words] : keywords())
    if (std::find(words.begin(), words.end(), keyword) != words.end()) return true;
  return false;
}

// RFC 3339, days as the months have them; February 29 in leap years alone.
const std::map<std::string_view, std::string>& formats_known() {
  static const std::string kDate =
      "((\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|"
      "02-(0[1-9]|1\\d|2[0-8])))|"
      "(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)";
  static const std::string kTime =
      "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)";
  static const std::map<std::string_view, std::string> table = {
      {"date", "^" + kDate + "$"},
      {"time", "^" + kTime + "$"},
      {"date-time", "^" + kDate + "T" + kTime + "$"},
      {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"}};
  return table;
}

size_t count_values(const Json& json) {
  size_t count = 1;
  if (json.is_structured())
    for (const Json& value : json) count += count_values(value);
  return count;
}

// As JSON Pointer writes names.
std::string pointer_part(std::string_view name) {
  std::string out = "/";
  for (const char c : name) out += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  return out;
}

bool has_type(const Json& value, std::string_view type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return value.is_number_integer() ||
         (value.is_number() && std::trunc(value.get<double>()) == value.get<double>());
}

class Converter {
 public:
  Converter(GrammarBuilder& builder, const Json& root)
      : builder_(builder), json_(builder), root_(root) {
    if (count_values(root) > kMaxValues)
      fail(ErrorKind::kInvalidInput, "the schema has more than {} values", kMaxValues);
  }

  Symbol convert_all() {
    const Symbol out = convert(root_, "#", 0);
    // Referred schemas may refer to others.
    while (!open_.empty()) {
      const auto [symbol, schema, path] = open_.front();
      open_.pop_front();
      builder_.add_alternative(symbol, {convert(*schema, path, 0)});
    }
    return out;
  }

 private:
  struct Open {
    Symbol symbol;
    const Json* schema;
    std::string path;
  };

  template <typename... Args>
  [[noreturn]] void error(const std::string& path, fmt::format_string<Args...> format,
                          Args&&... args) const {
    fail(ErrorKind::kInvalidInput, "schema at {}: {}", path,
         fmt::format(format, std::forward<Args>(args)...));
  }

  Symbol convert(const Json& schema, const std::string& path, int depth) {
    if (depth > kDeepest) error(path, "schemas are nested more than {} deep", kDeepest);
    if (schema == true) return json_.value();
    if (schema == false) return builder_.declare();  // which matches nothing
    const Json bare = check(schema, path);
    if (bare.empty()) return json_.value();
    if (bare.contains("$ref") && bare.size() == 1) return refer(bare["$ref"], path);
    if (bare.contains("$ref") || bare.contains("allOf"))
      return convert(flatten(bare, path, depth), path, depth + 1);
    for (const char* const keyword : {"anyOf", "oneOf"})
      if (bare.contains(keyword)) return convert_choices(bare, keyword, path, depth);
    if (bare.contains("const") || bare.contains("enum")) return convert_values(bare, path);
    std::vector<Symbol> choices;
    for (const std::string& type : types_of(bare, path))
      choices.push_back(convert_type(type, bare, path, depth));
    return builder_.one_of(choices);
  }

  // The schema without annotations; every keyword is known.
  Json check(const Json& schema, const std::string& path) const {
    if (!schema.is_object())
      error(path, "must be an object, true or false, but is {}", schema.type_name());
    Json out = Json::object();
    for (const auto& [keyword, value] : schema.items()) {
      if (is_annotation(keyword)) continue;
      if (!is_known(keyword)) error(path, "keyword '{}' is not supported", keyword);
      out[keyword] = value;
    }
    return out;
  }

  const Json& find(const Json& reference, const std::string& path) const {
    if (!reference.is_string()) error(path, "'$ref' must be a string");
    const auto& text = reference.get_ref<const std::string&>();
    if (!text.starts_with('#'))
      error(path, "'$ref' is '{}', but only parts of this schema can be referred to (#/...)", text);
    try {
      return root_.at(Json::json_pointer(text.substr(1)));
    } catch (const Json::exception&) {
      error(path, "'$ref' is '{}', which this schema does not have", text);
    }
  }

  // A rule for each schema that is referred to, so that it may refer to itself.
  Symbol refer(const Json& reference, const std::string& path) {
    const Json& schema = find(reference, path);
    const auto& text = reference.get_ref<const std::string&>();
    const auto [it, is_new] = referred_.try_emplace(text);
    if (is_new) {
      it->second = builder_.declare(text);
      open_.push_back({it->second, &schema, text});
    }
    return it->second;
  }

  Json merge(const Json& a, const Json& b, const std::string& path) {
    merged_ += count_values(a) + count_values(b);
    if (merged_ > kMaxMerged) error(path, "too much has to be put together for allOf or anyOf");
    return merge_schemas(a, b, path);
  }

  // One schema in place of $ref and allOf beside other keywords.
  Json flatten(const Json& bare, const std::string& path, int depth) {
    if (depth > kDeepest) error(path, "schemas are nested more than {} deep", kDeepest);
    Json out = bare;
    std::vector<Json> parts;
    if (bare.contains("$ref")) parts.push_back(find(bare["$ref"], path));
    if (bare.contains("allOf"))
      for (const Json& part : list(bare, "allOf", path)) parts.push_back(part);
    out.erase("$ref");
    out.erase("allOf");
    for (const Json& part : parts) {
      if (part == true) continue;
      if (part == false) error(path, "nothing can match: a part of allOf is false");
      Json plain = check(part, path);
      if (plain.contains("$ref") || plain.contains("allOf"))
        plain = flatten(plain, path, depth + 1);
      out = merge(out, plain, path);
    }
    return out;
  }

  const Json& list(const Json& bare, const char* keyword, const std::string& path) const {
    const Json& value = bare[keyword];
    if (!value.is_array() || value.empty())
      error(path, "'{}' must be a list that is not empty", keyword);
    return value;
  }

  Symbol convert_choices(const Json& bare, const char* keyword, const std::string& path,
                         int depth) {
    Json rest = bare;
    rest.erase(keyword);
    std::vector<Symbol> choices;
    const Json& parts = list(bare, keyword, path);
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::string part_path = fmt::format("{}/{}/{}", path, keyword, i);
      if (rest.empty() || parts[i] == false) {
        choices.push_back(convert(parts[i], part_path, depth + 1));
        continue;
      }
      const Json both{{"allOf", Json::array({rest, parts[i]})}};
      choices.push_back(convert(flatten(both, part_path, depth + 1), part_path, depth + 1));
    }
    return builder_.one_of(choices);
  }

  Symbol convert_values(const Json& bare, const std::string& path) {
    for (const auto& [keyword, value] : bare.items())
      if (keyword != "const" && keyword != "enum" && keyword != "type")
        error(path, "'{}' beside 'enum' or 'const' is not supported", keyword);
    Json values = bare.contains("enum") ? list(bare, "enum", path) : Json::array({bare["const"]});
    const std::vector<std::string> types =
        bare.contains("type") ? types_of(bare, path)
                              : std::vector<std::string>(std::begin(kTypes), std::end(kTypes));
    std::vector<Symbol> choices;
    for (const Json& value : values) {
      const bool typed = std::any_of(types.begin(), types.end(),
                                     [&](const std::string& t) { return has_type(value, t); });
      if (!typed || (bare.contains("const") && value != bare["const"])) continue;
      choices.push_back(
          builder_.literal(value.dump(-1, ' ', false, Json::error_handler_t::replace)));
    }
    if (choices.empty()) error(path, "none of its values has its type");
    return builder_.one_of(choices);
  }

  std::vector<std::string> types_of(const Json& bare, const std::string& path) const {
    std::vector<std::string> out;
    const auto add = [&](const Json& type) {
      const auto known = [&](const char* t) { return type == t; };
      if (!type.is_string() || std::none_of(std::begin(kTypes), std::end(kTypes), known))
        error(path, "type {} is none of object, array, string, number, integer, boolean, null",
              type.dump(-1, ' ', false, Json::error_handler_t::replace));
      out.push_back(type.get<std::string>());
    };
    if (const auto type = bare.find("type"); type != bare.end()) {
      if (!type->is_array()) {
        add(*type);
        return out;
      }
      for (const Json& t : list(bare, "type", path)) add(t);
      return out;
    }
    // What its keywords are about is what it means.
    for (const auto& [type, words] : keywords())
      if (!type.empty() && std::any_of(words.begin(), words.end(), [&](std::string_view word) {
            return bare.contains(std::string(word));
          }))
        out.emplace_back(type);
    return out;
  }

  Symbol convert_type(const std::string& type, const Json& bare, const std::string& path,
                      int depth) {
    if (type == "object") return convert_object(bare, path, depth);
    if (type == "array") return convert_array(bare, path, depth);
    if (type == "string") return convert_string(bare, path);
    if (type == "integer") return convert_integer(bare, path);
    if (type == "boolean")
      return builder_.one_of({builder_.literal("true"), builder_.literal("false")});
    if (type == "null") return builder_.literal("null");
    for (const auto& [keyword, value] : bare.items())
      if (is_bound(keyword))
        error(path, "'{}' is supported for integers only: say \"type\": \"integer\"", keyword);
    return json_.number();
  }

  static bool is_bound(const std::string& keyword) {
    const auto& words = keywords().at("number");
    return std::find(words.begin(), words.end(), keyword) != words.end();
  }

  std::optional<size_t> count(const Json& bare, const char* keyword,
                              const std::string& path) const {
    const auto it = bare.find(keyword);
    if (it == bare.end()) return std::nullopt;
    const bool whole = has_type(*it, "integer");
    if (!whole || it->get<double>() < 0 || it->get<double>() > 1e9)
      error(path, "'{}' must be a whole number from 0 to 1e9", keyword);
    return static_cast<size_t>(it->get<double>());
  }

  // At least and at most; the latter may be missing.
  std::pair<size_t, std::optional<size_t>> counts(const Json& bare, const char* least,
                                                  const char* most, const std::string& path) const {
    const size_t min = count(bare, least, path).value_or(0);
    const std::optional<size_t> max = count(bare, most, path);
    if (max && *max < min) error(path, "'{}' is {}, but '{}' is {}", least, min, most, *max);
    return {min, max};
  }

  Symbol convert_string(const Json& bare, const std::string& path) {
    const bool sized = bare.contains("minLength") || bare.contains("maxLength");
    const bool has_pattern = bare.contains("pattern"), has_format = bare.contains("format");
    if (sized + has_pattern + has_format > 1)
      error(path, "of 'pattern', 'format' and 'minLength' / 'maxLength' only one is supported");
    if (!has_pattern && !has_format) {
      const auto [min, max] = counts(bare, "minLength", "maxLength", path);
      return json_.string(min, max);
    }
    const Json& value = bare[has_pattern ? "pattern" : "format"];
    if (!value.is_string())
      error(path, "'{}' must be a string", has_pattern ? "pattern" : "format");
    std::string_view pattern = value.get_ref<const std::string&>();
    if (has_format) {
      const auto known = formats_known().find(pattern);
      if (known == formats_known().end())
        error(path, "'format' is '{}'; known are date, time, date-time and uuid", pattern);
      pattern = known->second;
    }
    try {
      return add_json_pattern(builder_, json_, pattern);
    } catch (const Error& e) {
      throw e.in("schema at " + path);
    }
  }

  Symbol convert_integer(const Json& bare, const std::string& path) {
    constexpr int64_t kLimit = 1'000'000'000'000'000'000;
    int64_t least = -kLimit, most = kLimit;
    bool bounded = false;
    for (const auto& [keyword, value] : bare.items()) {
      if (!is_bound(keyword)) continue;
      bounded = true;
      if (!value.is_number()) error(path, "'{}' must be a number", keyword);
      const bool lower = keyword == "minimum" || keyword == "exclusiveMinimum";
      const bool exclusive = keyword.starts_with("exclusive");
      int64_t bound;
      bool exact = true;  // the bound is the number itself, which `exclusive` takes away
      if (value.is_number_integer()) {
        bound = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{kLimit}
                    ? kLimit
                    : std::clamp(value.get<int64_t>(), -kLimit, kLimit);
      } else {
        const double number = value.get<double>();
        const double rounded = lower ? std::ceil(number) : std::floor(number);
        exact = rounded == number;
        bound = static_cast<int64_t>(std::clamp(rounded, -1e18, 1e18));
      }
      if (exclusive && exact) bound += lower ? 1 : -1;
      if (lower)
        least = std::max(least, bound);
      else
        most = std::min(most, bound);
    }
    return bounded ? json_.integer_between(least, most) : json_.integer();
  }

  Symbol convert_array(const Json& bare, const std::string& path, int depth) {
    const auto [min, max] = counts(bare, "minItems", "maxItems", path);
    if (const auto it = bare.find("uniqueItems"); it != bare.end() && *it != false)
      error(path, "'uniqueItems' is not supported");
    std::vector<Symbol> first;
    if (bare.contains("prefixItems")) {
      const Json& items = list(bare, "prefixItems", path);
      for (size_t i = 0; i < items.size(); ++i)
        first.push_back(convert(items[i], fmt::format("{}/prefixItems/{}", path, i), depth + 1));
    }
    std::optional<Symbol> rest;
    const auto items = bare.find("items");
    if (items != bare.end() && *items != false)
      rest = convert(*items, path + "/items", depth + 1);
    else if (items == bare.end() && (first.empty() || min > first.size()))
      rest = json_.value();
    return json_.array_of(first, rest, min, max);
  }

  Symbol convert_object(const Json& bare, const std::string& path, int depth) {
    static const Json kNone = Json::object();
    const auto found = bare.find("properties");
    const Json& properties = found == bare.end() ? kNone : *found;
    if (!properties.is_object()) error(path, "'properties' must be an object");
    std::set<std::string> required;
    if (const auto it = bare.find("required"); it != bare.end()) {
      if (!it->is_array()) error(path, "'required' must be a list of names");
      for (const Json& name : *it) {
        if (!name.is_string()) error(path, "'required' must be a list of names");
        required.insert(name.get<std::string>());
      }
    }
    const auto additional = bare.find("additionalProperties");
    const bool open = additional != bare.end() ? *additional != false : properties.empty();
    const Symbol others = !open ? Symbol{}
                          : additional == bare.end()
                              ? json_.value()
                              : convert(*additional, path + "/additionalProperties", depth + 1);

    std::vector<JsonText::Member> members;
    std::vector<std::string> names;
    const auto add = [&](const std::string& name, Symbol value) {
      const std::string key = Json(name).dump(-1, ' ', false, Json::error_handler_t::replace);
      members.push_back({builder_.literal(key), value, required.contains(name)});
      names.push_back(name);
    };
    for (const auto& [name, schema] : properties.items())
      add(name, convert(schema, path + "/properties" + pointer_part(name), depth + 1));
    for (const std::string& name : required) {
      if (properties.contains(name)) continue;
      if (!open) error(path, "'required' names '{}', which is none of its properties", name);
      add(name, others);
    }
    std::optional<JsonText::Member> more;
    if (open) {
      const Symbol key = names.empty() ? json_.string(0, std::nullopt) : json_.key_except(names);
      more = JsonText::Member{key, others, false};
    }
    return json_.object_of(members, more);
  }

  GrammarBuilder& builder_;
  JsonText json_;
  const Json& root_;
  std::map<std::string, Symbol> referred_;
  std::deque<Open> open_;
  size_t merged_ = 0;
};

}  // namespace

Symbol add_json_schema(GrammarBuilder& builder, const Json& schema) {
  return Converter(builder, schema).convert_all();
}

Grammar json_schema_grammar(const Json& schema) {
  GrammarBuilder builder;
  const Symbol document = add_json_schema(builder, schema);
  return builder.build(document);
}

Grammar json_object_grammar() {
  GrammarBuilder builder;
  JsonText json(builder);
  return builder.build(json.object());
}

}  // namespace weft::text::grammar
