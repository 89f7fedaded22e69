// What a model must write to call a function, in each form; and that the scanner finds the call.
#include "serve/tool_call_grammar.h"

#include <gtest/gtest.h>

#include "text/grammar/automaton.h"

namespace weft::serve {
namespace {

using openai::Json;
using text::grammar::Automaton;

const Json kTools = Json::parse(R"([
  {"type": "function", "function": {"name": "weather", "strict": true, "parameters": {
      "type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}},
      "required": ["city"], "additionalProperties": false}}},
  {"type": "function", "function": {"name": "now"}},
  {"type": "function", "function": {"name": "odd", "parameters": {"not": {}}}}])");

bool takes(const ToolCallRules& rules, std::string_view text) {
  Automaton automaton(
      std::make_shared<const text::grammar::Grammar>(tool_call_grammar(kTools, rules)));
  Automaton::State state = automaton.start();
  for (const char c : text) state = automaton.next(state, static_cast<uint8_t>(c));
  return automaton.can_end(state);
}

const std::string kParis = R"({"name": "weather", "arguments": {"city": "Paris"}})";
const std::string kNow = R"({"name": "now", "arguments": {}})";
const std::string kOdd = R"({"name": "odd", "arguments": {"any": ["thing"]}})";
const std::string kOslo = R"({"name": "weather", "arguments": {"city": "Oslo"}})";

std::string hermes(const std::string& call) { return "<tool_call>\n" + call + "\n</tool_call>"; }

TEST(tool_call_grammar, hermes) {
  const ToolCallRules any;
  for (const std::string& call : {kParis, kNow, kOdd}) {
    EXPECT_TRUE(takes(any, hermes(call))) << call;
    ToolCallScanner scanner(ToolCallFormat::kHermes);
    scanner.push(hermes(call));
    EXPECT_EQ(scanner.take_calls().size(), 1u) << call;
  }
  EXPECT_FALSE(takes(any, hermes(kOslo)));
  EXPECT_FALSE(takes(any, "Well. " + hermes(kNow)));
  EXPECT_FALSE(takes(any, ""));
  EXPECT_TRUE(takes(any, hermes(kNow) + "\n" + hermes(kParis)));
  EXPECT_FALSE(takes({.parallel = false}, hermes(kNow) + "\n" + hermes(kParis)));
  EXPECT_TRUE(takes({.function = "now"}, hermes(kNow)));
  EXPECT_FALSE(takes({.function = "now"}, hermes(kParis)));
}

TEST(tool_call_grammar, mistral_and_llama) {
  const ToolCallRules mistral{.format = ToolCallFormat::kMistral};
  EXPECT_TRUE(takes(mistral, "[TOOL_CALLS][" + kNow + ", " + kParis + "]"));
  EXPECT_FALSE(takes(mistral, "[TOOL_CALLS][]"));
  EXPECT_FALSE(takes({.format = ToolCallFormat::kMistral, .parallel = false},
                     "[TOOL_CALLS][" + kNow + ", " + kParis + "]"));
  const ToolCallRules llama{.format = ToolCallFormat::kLlama3};
  EXPECT_TRUE(takes(llama, R"({"name": "weather", "parameters": {"city": "Rome"}})"));
  EXPECT_FALSE(takes(llama, kParis));
}

TEST(tool_call_grammar, allowed_calls_are_as_they_should_be_and_text_is_free) {
  for (const auto format : {ToolCallFormat::kHermes, ToolCallFormat::kMistral}) {
    const ToolCallRules rules{.format = format, .wanted = CallsWanted::kAllowed};
    const bool is_hermes = format == ToolCallFormat::kHermes;
    const std::string open = is_hermes ? "<tool_call>" : "[TOOL_CALLS]";
    const std::string good = is_hermes ? hermes(kNow) : "[TOOL_CALLS][" + kNow + "]";
    const std::string bad = is_hermes ? hermes(kOslo) : "[TOOL_CALLS][" + kOslo + "]";
    for (const std::string& text :
         {std::string(), std::string("It is 5 < 6 [TOOL <tool <<tool_cal"), good, "See: " + good,
          open.substr(0, 5) + good})
      EXPECT_TRUE(takes(rules, text)) << text;
    for (const std::string& text : {open, "See: " + bad, good + "!", open + open})
      EXPECT_FALSE(takes(rules, text)) << text;
  }
  const ToolCallRules llama{.format = ToolCallFormat::kLlama3, .wanted = CallsWanted::kAllowed};
  EXPECT_TRUE(takes(llama, ""));
  EXPECT_TRUE(takes(llama, "It is {sunny}."));
  EXPECT_TRUE(takes(llama, R"({"name": "now", "parameters": {}})"));
  EXPECT_FALSE(takes(llama, R"({"name": "then", "parameters": {}})"));
  EXPECT_FALSE(takes(llama, R"( {"name": "then"})"));
}

TEST(tool_call_grammar, a_strict_schema_that_is_not_known_is_refused) {
  Json tools = kTools;
  EXPECT_TRUE(any_strict(tools));
  tools[2]["function"]["strict"] = true;
  EXPECT_THROW(tool_call_grammar(tools, {}), openai::ApiError);
  tools.erase(0);
  tools.erase(1);
  EXPECT_FALSE(any_strict(tools));
}

}  // namespace
}  // namespace weft::serve
