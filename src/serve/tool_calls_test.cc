#include "serve/tool_calls.h"

#include <gtest/gtest.h>

namespace weft::serve {
namespace {

struct Scanned {
  std::string text;
  std::vector<ToolCall> calls;
};

// The answer in pieces of `step` bytes.
Scanned scan(ToolCallFormat format, std::string_view answer, size_t step) {
  ToolCallScanner scanner(format);
  Scanned out;
  const auto take = [&](std::string shown) {
    out.text += shown;
    for (ToolCall& call : scanner.take_calls()) out.calls.push_back(std::move(call));
  };
  for (size_t at = 0; at < answer.size(); at += step) take(scanner.push(answer.substr(at, step)));
  take(scanner.finish());
  return out;
}

struct Case {
  const char* name;
  ToolCallFormat format;
  const char* answer;
  const char* text;
  std::vector<std::pair<std::string, std::string>> calls;
};

const std::vector<Case>& cases() {
  using enum ToolCallFormat;
  static const std::vector<Case> all = {
      {"plain text", kHermes, "It is sunny.", "It is sunny.", {}},
      {"a call", kHermes,
       "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>", "",
       {{"weather", "{\"city\":\"Paris\"}"}}},
      {"text, then two calls", kHermes,
       "Let me see.<tool_call>{\"name\": \"a\", \"arguments\": {}}</tool_call>\n"
       "<tool_call>{\"name\": \"b\", \"arguments\": {\"n\": 2}}</tool_call>",
       "Let me see.", {{"a", "{}"}, {"b", "{\"n\":2}"}}},
      {"never closed", kHermes, "<tool_call>{\"name\": \"a\", \"arguments\": {}}", "", {{"a", "{}"}}},
      {"arguments as a string", kHermes,
       "<tool_call>{\"name\": \"a\", \"arguments\": \"{\\\"n\\\": 1}\"}</tool_call>", "",
       {{"a", "{\"n\": 1}"}}},
      {"not JSON", kHermes, "<tool_call>whatever</tool_call>!", "<tool_call>whatever</tool_call>!",
       {}},
      {"a mere beginning", kHermes, "1 <tool_c 2", "1 <tool_c 2", {}},
      {"mistral", kMistral, "[TOOL_CALLS][{\"name\": \"a\", \"arguments\": {\"x\": [1]}}]", "",
       {{"a", "{\"x\":[1]}"}}},
      {"llama", kLlama3, "{\"name\": \"a\", \"parameters\": {\"x\": 1}}", "", {{"a", "{\"x\":1}"}}},
      {"llama with a tag", kLlama3, "<|python_tag|>{\"name\": \"a\", \"parameters\": {}}", "",
       {{"a", "{}"}}},
      {"llama answering in JSON", kLlama3, "{\"answer\": 42}", "{\"answer\": 42}", {}},
      {"llama with braces later", kLlama3, "See {\"name\": 1}", "See {\"name\": 1}", {}},
  };
  return all;
}

TEST(tool_calls, are_taken_out_of_the_text_however_it_is_cut) {
  for (const Case& c : cases()) {
    for (const size_t step : {size_t{1}, size_t{3}, size_t{7}, size_t{1000}}) {
      const Scanned found = scan(c.format, c.answer, step);
      EXPECT_EQ(found.text, c.text) << c.name << ", pieces of " << step;
      ASSERT_EQ(found.calls.size(), c.calls.size()) << c.name << ", pieces of " << step;
      for (size_t i = 0; i < c.calls.size(); ++i) {
        EXPECT_EQ(found.calls[i].name, c.calls[i].first) << c.name;
        EXPECT_EQ(found.calls[i].arguments, c.calls[i].second) << c.name;
      }
    }
  }
}

TEST(tool_calls, the_form_follows_the_template) {
  EXPECT_EQ(tool_call_format("... <tool_call> ..."), ToolCallFormat::kHermes);
  EXPECT_EQ(tool_call_format("{{ '[TOOL_CALLS]' }}"), ToolCallFormat::kMistral);
  EXPECT_EQ(tool_call_format("<|python_tag|>"), ToolCallFormat::kLlama3);
  EXPECT_EQ(tool_call_format("no word of them"), ToolCallFormat::kHermes);
}

}  // namespace
}  // namespace weft::serve
