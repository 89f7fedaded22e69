// Function calls in a model's answer. Models are trained to write them in a form of their own; a
// scanner takes them out of the text as it streams by. What looks like a call and is none stays text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "serve/openai/fields.h"

namespace weft::serve {

enum class ToolCallFormat : uint8_t {
  kHermes,   // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, any number (Qwen, Hermes)
  kMistral,  // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
  kLlama3,   // the whole answer is {"name": ..., "parameters": {...}}, after <|python_tag|> or not
};

// By what the chat template mentions; Hermes' form where it says nothing about tools.
ToolCallFormat tool_call_format(std::string_view chat_template);

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON text
};

class ToolCallScanner {
 public:
  explicit ToolCallScanner(ToolCallFormat format) : format_(format) {}

  // Text that is no part of a call, as far as that is known now.
  std::string push(std::string_view text);
  std::string finish();
  // The calls that are complete and were not taken before.
  std::vector<ToolCall> take_calls();

 private:
  std::string scan(bool at_end);
  bool parse(std::string_view text);

  ToolCallFormat format_;
  std::string held_;
  bool began_ = false;   // something other than white space has been shown
  bool in_call_ = false, after_call_ = false;
  std::vector<ToolCall> calls_;
};

// For models whose template takes no tools: what a system message must say to get calls in Hermes'
// form. `tools` is the request's list.
std::string describe_tools(const openai::Json& tools);

}  // namespace weft::serve
