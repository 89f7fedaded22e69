// Schemas: random documents of their grammars are valid JSON that matches them, by a validator that
// reads the schema anew; chosen documents are taken or not; what is not known is refused.
#include "text/grammar/json_schema.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/grammar/automaton.h"
#include "text/grammar/matcher.h"
#include "text/grammar/test_tokenizer.h"

namespace weft::text::grammar {
namespace {

using Json = nlohmann::ordered_json;

// As JSON Schema defines validity.
bool valid(const Json& schema, const Json& doc, const Json& root) {
  if (schema.is_boolean()) return schema.get<bool>();
  const auto is = [&](const std::string& type) {
    if (type == "integer") return doc.is_number_integer();
    if (type == "number") return doc.is_number();
    return type == doc.type_name();
  };
  const auto each = [&](const char* keyword, const auto& check) {
    return !schema.contains(keyword) || check(schema[keyword]);
  };
  const auto num = [&](const char* keyword, bool holds_for_type, const auto& check) {
    return !holds_for_type || !schema.contains(keyword) || check(schema[keyword].get<double>());
  };
  if (!each("$ref", [&](const Json& r) {
        return valid(root.at(Json::json_pointer(r.get<std::string>().substr(1))), doc, root);
      }))
    return false;
  if (!each("type", [&](const Json& t) {
        if (t.is_string()) return is(t);
        return std::any_of(t.begin(), t.end(), [&](const Json& x) { return is(x); });
      }))
    return false;
  if (!each("enum", [&](const Json& e) { return std::find(e.begin(), e.end(), doc) != e.end(); }))
    return false;
  if (!each("const", [&](const Json& c) { return c == doc; })) return false;
  const auto any = [&](const Json& list) {
    return std::any_of(list.begin(), list.end(),
                       [&](const Json& s) { return valid(s, doc, root); });
  };
  if (!each("anyOf", any) || !each("oneOf", any)) return false;
  if (!each("allOf", [&](const Json& list) {
        return std::all_of(list.begin(), list.end(),
                           [&](const Json& s) { return valid(s, doc, root); });
      }))
    return false;
  const double number = doc.is_number() ? doc.get<double>() : 0;
  if (!num("minimum", doc.is_number(), [&](double b) { return number >= b; }) ||
      !num("maximum", doc.is_number(), [&](double b) { return number <= b; }) ||
      !num("exclusiveMinimum", doc.is_number(), [&](double b) { return number > b; }) ||
      !num("exclusiveMaximum", doc.is_number(), [&](double b) { return number < b; }))
    return false;
  if (doc.is_string()) {
    const auto text = doc.get<std::string>();
    const auto length = static_cast<double>(std::count_if(
        text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
    if (!num("minLength", true, [&](double b) { return length >= b; }) ||
        !num("maxLength", true, [&](double b) { return length <= b; }) ||
        !each("pattern", [&](const Json& p) {
          return std::regex_search(text, std::regex(p.get<std::string>()));
        }))
      return false;
  }
  if (doc.is_array()) {
    const auto size = static_cast<double>(doc.size());
    if (!num("minItems", true, [&](double b) { return size >= b; }) ||
        !num("maxItems", true, [&](double b) { return size <= b; }))
      return false;
    const size_t prefix = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
    for (size_t i = 0; i < doc.size(); ++i) {
      const Json* item = nullptr;
      if (i < prefix)
        item = &schema["prefixItems"][i];
      else if (schema.contains("items"))
        item = &schema["items"];
      if (item != nullptr && !valid(*item, doc[i], root)) return false;
    }
  }
  if (doc.is_object()) {
    if (!each("required", [&](const Json& names) {
          return std::all_of(names.begin(), names.end(),
                             [&](const Json& n) { return doc.contains(n.get<std::string>()); });
        }))
      return false;
    for (const auto& [name, value] : doc.items()) {
      if (schema.contains("properties") && schema["properties"].contains(name)) {
        if (!valid(schema["properties"][name], value, root)) return false;
      } else if (!each("additionalProperties",
                       [&, &member = value](const Json& s) { return valid(s, member, root); })) {
        return false;
      }
    }
  }
  return true;
}

Automaton compile(const std::string& schema) {
  return Automaton(std::make_shared<const Grammar>(json_schema_grammar(Json::parse(schema))));
}

bool takes(Automaton& automaton, std::string_view text) {
  Automaton::State state = automaton.start();
  for (const char c : text) state = automaton.next(state, static_cast<uint8_t>(c));
  return automaton.can_end(state);
}

void expect_takes(const std::string& schema, const std::vector<std::string>& yes,
                  const std::vector<std::string>& no) {
  Automaton automaton = compile(schema);
  for (const auto& text : yes) EXPECT_TRUE(takes(automaton, text)) << schema << "\n" << text;
  for (const auto& text : no) EXPECT_FALSE(takes(automaton, text)) << schema << "\n" << text;
}

std::string error_of(const std::string& schema) {
  try {
    json_schema_grammar(Json::parse(schema));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
    return error.what();
  }
  return "none";
}

const char* const kSchemas[] = {
    R"({})",
    R"({"type": "object"})",
    R"({"type": ["array", "null"], "maxItems": 3})",
    R"({"type": "object", "properties": {"name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "sex": {"enum": ["f", "m", null, 3.5, ["\u00e9\"", {"a": 1}]]}},
        "required": ["name", "sex"]})",
    R"({"type": "object", "properties": {"a": {"type": "boolean"}, "ab": {"const": 7}},
        "additionalProperties": {"type": "integer", "exclusiveMinimum": -3.5, "maximum": 20}})",
    R"({"type": "object", "required": ["id"], "additionalProperties": {"type": "number"}})",
    R"({"type": "array", "items": {"type": "integer", "minimum": -105, "exclusiveMaximum": 1002},
        "minItems": 2, "maxItems": 4})",
    R"({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 1})",
    R"({"prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 3,
        "maxItems": 5})",
    R"({"type": "string", "minLength": 2, "maxLength": 4})",
    R"({"type": "string", "pattern": "^(\\d{3}-|[A-F]\\.)?[a-z_\"\\\\]+(x|yz){1,2}$"})",
    R"({"anyOf": [{"type": "integer", "minimum": 995, "maximum": 1005}, {"type": "null"}],
        "title": "T", "default": null, "description": "d"})",
    R"({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        "properties": {"a": {"type": "null"}, "b": {"type": "null"}}})",
    R"({"allOf": [{"$ref": "#/$defs/base"},
                  {"properties": {"b": {"type": "string", "maxLength": 3}}, "required": ["b"]}],
        "$defs": {"base": {"type": "object", "properties": {"a": {"type": "integer"},
                           "b": {"minLength": 1}}, "required": ["a"]}}})",
    R"({"$ref": "#/definitions/node", "definitions": {"node": {"type": "object",
        "properties": {"value": {"type": "integer"},
                       "next": {"anyOf": [{"$ref": "#/definitions/node"}, {"type": "null"}]},
                       "many": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
        "required": ["value", "next"], "additionalProperties": false}}})",
    R"({"oneOf": [{"type": "string", "format": "uuid"}, {"const": {"x": [1, "\n"]}}]})",
    R"({"properties": {"x/y": {"$ref": "#/properties/z"}, "z": {"type": "boolean"},
        "never": false}, "required": ["x/y"]})",
};

// Characters at random would hardly ever close what they open: what closes is preferred, more so as
// the document grows.
std::string random_document(TokenFilterState& state, std::mt19937& random) {
  std::string out;
  while (true) {
    const TokenMask& mask = state.mask();
    std::vector<Token> allowed, closing;
    for (Token token = 0; token < 256; ++token) {
      if (!mask.allows(token)) continue;
      allowed.push_back(token);
      if (std::string_view("\"}]{[:,0123456789").find(static_cast<char>(token)) !=
          std::string_view::npos)
        closing.push_back(token);
    }
    if (state.can_end() && (allowed.empty() || random() % 4 == 0)) return out;
    if (allowed.empty()) return "no way on after " + out;
    const bool close = random() % 100 < 30 + out.size() / 4 && !closing.empty();
    std::vector<Token>& from = close ? closing : allowed;
    Token token = from[random() % from.size()];
    if (out.size() > 300)  // for good: as little as possible is opened
      for (const char c : {']', '}', '"', 'n', 'u', 'l'})
        if (mask.allows(c)) token = c;
    if (out.size() > 4000) return "no end of " + out;
    state.accept(token);
    out += static_cast<char>(token);
  }
}

TEST(json_schema, random_documents_are_valid) {
  constexpr uint32_t kSeed = 11;
  std::mt19937 random(kSeed);
  const TestTokenizer tokenizer(byte_pieces());
  const auto vocabulary = std::make_shared<const Vocabulary>(tokenizer);
  for (const char* const text : kSchemas) {
    const Json schema = Json::parse(text);
    const auto filter = make_grammar_filter(json_schema_grammar(schema), vocabulary);
    std::vector<std::string> seen;
    for (int i = 0; i < 150; ++i) {
      const auto state = filter->start();
      const std::string document = random_document(*state, random);
      Json parsed;
      // Keys that a schema leaves open may repeat.
      parsed = Json::parse(document, nullptr, false);
      ASSERT_FALSE(parsed.is_discarded()) << text << "\n" << document;
      ASSERT_TRUE(valid(schema, parsed, schema)) << text << "\n" << document;
      seen.push_back(document);
    }
    std::sort(seen.begin(), seen.end());
    const auto distinct = std::unique(seen.begin(), seen.end()) - seen.begin();
    EXPECT_GE(distinct, 3) << text;
  }
}

TEST(json_schema, objects) {
  expect_takes(
      kSchemas[3],
      {R"({"name": "Ann", "age": 130, "sex": "f"})", R"({"name":"","sex":["é\"",{"a":1}]})",
       "{\n  \"name\": \"x\",\n  \"sex\": null\n}"},
      {R"({"sex": "f", "name": "Ann"})", R"({"name": "Ann"})",
       R"({"name": "Ann", "age": 131, "sex": "f"})", R"({"name": "toolong", "sex": "f"})",
       R"({"name": "Ann", "sex": "f", "more": 1})", R"({"name": "Ann",, "sex": "f"})",
       R"({, "name": "Ann", "sex": "f"})", R"({"name": "Ann", "sex": "f"} )"});
  expect_takes(kSchemas[4], {"{}", R"({"a": true})", R"({"a": true, "ab": 7, "abc": -3, "": 20})"},
               {R"({"a": 1})", R"({"ab": 7, "ab": 7})", R"({"c": 21})", R"({"c": -4})"});
  expect_takes(kSchemas[5], {R"({"id": 1})", R"({"id": 1, "ie": 2})"}, {"{}", R"({"ie": 2})"});
  expect_takes(R"({"additionalProperties": false})", {"{}", "{ }"}, {R"({"a": 1})"});
}

TEST(json_schema, integers_exactly) {
  for (const auto& [least, most] : std::vector<std::pair<int, int>>{{0, 0},
                                                                    {0, 9},
                                                                    {1, 10},
                                                                    {-5, 5},
                                                                    {-120, -7},
                                                                    {99, 101},
                                                                    {123, 4567},
                                                                    {-1005, 998},
                                                                    {7, 3}}) {
    const std::string schema = fmt::format(
        R"({{"anyOf": [{{"type": "integer", "minimum": {}, "maximum": {}}}, {{"type": "null"}}]}})",
        least, most);
    Automaton automaton = compile(schema);
    for (int i = -5000; i <= 5000; ++i)
      ASSERT_EQ(takes(automaton, std::to_string(i)), i >= least && i <= most) << schema << i;
    for (const char* const text : {"-0", "00", "01", "+1", "1.0", "1e1", "", "-"})
      EXPECT_FALSE(takes(automaton, text)) << text;
  }
  expect_takes(R"({"type": "integer", "minimum": 995.5})", {"996", "1000", "999999999999999999"},
               {"995", "-1000", "1000000000000000000"});
  expect_takes(R"({"type": "integer", "exclusiveMaximum": -1e30})", {}, {"-1"});
  expect_takes(R"({"type": "integer", "exclusiveMaximum": 18446744073709551615})", {"-7", "0"}, {});
}

TEST(json_schema, strings) {
  expect_takes(R"({"type": "string", "minLength": 1, "maxLength": 2})",
               {"\"a\"", "\"語é\"", R"("\u00e9\n")", R"("\ud7ff\"")"},
               {"\"\"", "\"abc\"", "\"a", "\"\n\"", R"("\ud800")", R"("\x")"});
  expect_takes(R"({"format": "date"})", {"\"2024-02-29\"", "\"2026-12-31\"", "\"2000-02-29\""},
               {"\"2023-02-29\"", "\"1900-02-29\"", "\"2026-04-31\"", "\"2026-13-01\""});
  expect_takes(R"({"format": "date-time"})",
               {"\"2026-07-11T23:59:00Z\"", "\"2026-07-11T00:00:00.5+02:00\""},
               {"\"2026-07-11 00:00:00Z\"", "\"2026-07-11T24:00:00Z\""});
  expect_takes(R"({"format": "time"})", {"\"12:00:00Z\""}, {"\"12:00:00\""});
  expect_takes(R"({"pattern": "^[^a-z]\\w.\\u00e9?$"})", {R"("\"_\\")", "\"Aa é\"", R"("\tx語")"},
               {"\"a_a\"", "\"A-a\"", R"("A_\n")"});
}

TEST(json_schema, refused_with_keyword_and_path) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"properties": {"a/b": {"not": {}}}})", "#/properties/a~1b: keyword 'not'"},
      {R"({"items": {"type": "number", "minimum": 1}})", "#/items: 'minimum' is supported for"},
      {R"({"type": "array", "contains": {}})", "keyword 'contains'"},
      {R"({"type": "object", "patternProperties": {}})", "keyword 'patternProperties'"},
      {R"({"type": "strin"})", "type \"strin\" is none of"},
      {R"({"type": []})", "'type' must be a list that is not empty"},
      {R"({"enum": []})", "'enum' must be"},
      {R"({"enum": ["a"], "type": "integer"})", "none of its values has its type"},
      {R"({"enum": ["a"], "minLength": 1})", "'minLength' beside 'enum'"},
      {R"({"format": "email"})", "'format' is 'email'; known are"},
      {R"({"pattern": "a"})", "must begin with ^"},
      {R"({"pattern": "^a"})", "must end with $"},
      {R"({"pattern": "^a|b$"})", "put it into parentheses"},
      {R"({"pattern": "^(?=a)$"})", "only (?: is known"},
      {R"({"pattern": "^a+?$"})", "repetition after a repetition"},
      {R"({"pattern": "^\\b$"})", "an escape that is not known"},
      {R"({"pattern": "^[z-a]$"})", "ends before it begins"},
      {R"({"pattern": "^(a$"})", "lacks a )"},
      {R"({"pattern": "^a$", "maxLength": 3})", "only one is supported"},
      {R"({"$ref": "other.json"})", "only parts of this schema"},
      {R"({"$ref": "#/$defs/x"})", "which this schema does not have"},
      {R"({"$ref": 1})", "'$ref' must be a string"},
      {R"({"$ref": "#"})", "never ends"},
      {R"({"uniqueItems": true})", "'uniqueItems' is not supported"},
      {R"({"minItems": 3, "maxItems": 2})", "'minItems' is 3, but 'maxItems' is 2"},
      {R"({"minLength": -1})", "'minLength' must be a whole number"},
      {R"({"required": ["a"], "additionalProperties": false})", "none of its properties"},
      {R"({"required": [1]})", "list of names"},
      {R"({"properties": []})", "'properties' must be an object"},
      {R"([])", "must be an object, true or false, but is array"},
      {R"(false)", "never ends"},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})", "never ends"},
      {R"({"allOf": [{"pattern": "^a$"}, {"pattern": "^b$"}]})",
       "'pattern' is given more than once"},
      {R"({"allOf": [{"type": "null"}, {"type": "string"}]})", "'type' is given more than once"},
      {R"({"allOf": [{"properties": {"a": {}}, "additionalProperties": false},
                     {"properties": {"b": {}}}]})",
       "'additionalProperties' is given more than once"},
      {R"({"type": "object", "anyOf": [{"$ref": "#"}, {"$ref": "#"}]})", ""},
      {R"({"allOf": [{"$ref": "#"}]})", "nested more than"},
      {R"({"maxLength": 1000000})", "too large"},
      {R"({"minItems": 1000000000})", "too large"},
  };
  for (const auto& [schema, wanted] : cases) {
    const std::string got = error_of(schema);
    EXPECT_NE(got, "none") << schema;
    EXPECT_NE(got.find(wanted), std::string::npos) << schema << ": " << got;
  }
}

}  // namespace
}  // namespace weft::text::grammar
