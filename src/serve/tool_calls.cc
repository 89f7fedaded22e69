#include "serve/tool_calls.h"

#include <algorithm>
#include <utility>

namespace weft::serve {
namespace {

using openai::Json;

constexpr std::string_view kHermesOpen = "<tool_call>", kHermesClose = "</tool_call>";
constexpr std::string_view kMistralOpen = "[TOOL_CALLS]";
constexpr std::string_view kLlamaOpen = "<|python_tag|>";

std::string_view opening(ToolCallFormat format) {
  switch (format) {
    case ToolCallFormat::kHermes:
      return kHermesOpen;
    case ToolCallFormat::kMistral:
      return kMistralOpen;
    case ToolCallFormat::kLlama3:
      return kLlamaOpen;
  }
  return {};
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Length of the longest end of `text` that begins `marker` without being all of it.
size_t partial_match(std::string_view text, std::string_view marker) {
  for (size_t length = std::min(text.size(), marker.size() - 1); length != 0; --length)
    if (marker.starts_with(text.substr(text.size() - length))) return length;
  return 0;
}

size_t first_of_text(std::string_view text) { return text.find_first_not_of(" \t\r\n"); }

// {"name": ..., "arguments": ...}; Llama 3 says "parameters".
bool read_call(const Json& json, std::vector<ToolCall>& calls) {
  if (!json.is_object()) return false;
  const auto name = json.find("name");
  auto arguments = json.find("arguments");
  if (arguments == json.end()) arguments = json.find("parameters");
  if (name == json.end() || !name->is_string() || arguments == json.end()) return false;
  // Some models write the arguments as JSON inside a string, as OpenAI's wire format does.
  calls.push_back({name->get<std::string>(), arguments->is_string()
                                                 ? arguments->get<std::string>()
                                                 : arguments->dump(-1, ' ', false,
                                                                   Json::error_handler_t::replace)});
  return true;
}

}  // namespace

ToolCallFormat tool_call_format(std::string_view chat_template) {
  if (contains(chat_template, kHermesOpen)) return ToolCallFormat::kHermes;
  if (contains(chat_template, kMistralOpen)) return ToolCallFormat::kMistral;
  if (contains(chat_template, kLlamaOpen) || contains(chat_template, "\"parameters\""))
    return ToolCallFormat::kLlama3;
  return ToolCallFormat::kHermes;
}

std::string ToolCallScanner::push(std::string_view text) {
  held_ += text;
  return scan(false);
}

std::string ToolCallScanner::finish() { return scan(true); }

std::vector<ToolCall> ToolCallScanner::take_calls() { return std::exchange(calls_, {}); }

std::string ToolCallScanner::scan(bool at_end) {
  const std::string_view open = opening(format_);
  std::string shown;
  while (!held_.empty()) {
    if (!in_call_) {
      // White space between a call and the next says nothing.
      if (after_call_) {
        held_.erase(0, std::min(first_of_text(held_), held_.size()));
        if (held_.empty()) break;
        after_call_ = false;
      }
      size_t start = held_.find(open);
      // Llama 3 may begin its answer with the JSON itself.
      if (format_ == ToolCallFormat::kLlama3 && !began_) {
        const size_t first = first_of_text(held_);
        if (first == std::string::npos && !at_end) break;
        if (first != std::string::npos && held_[first] == '{') start = 0;
      }
      if (start == std::string::npos) {
        const size_t keep = at_end ? 0 : partial_match(held_, open);
        shown += held_.substr(0, held_.size() - keep);
        held_.erase(0, held_.size() - keep);
        began_ = began_ || first_of_text(shown) != std::string::npos;
        break;
      }
      shown += held_.substr(0, start);
      held_.erase(0, start);
      in_call_ = true;
    }
    size_t end = held_.size(), close_size = 0;
    if (format_ == ToolCallFormat::kHermes) {
      if (const size_t close = held_.find(kHermesClose); close != std::string::npos) {
        end = close;
        close_size = kHermesClose.size();
      }
    }
    if (close_size == 0 && !at_end) break;
    std::string_view body = std::string_view(held_).substr(0, end);
    if (body.starts_with(open)) body.remove_prefix(open.size());
    after_call_ = parse(body);
    if (!after_call_) shown += held_.substr(0, end + close_size);  // no call after all
    held_.erase(0, end + close_size);
    in_call_ = false;
    began_ = true;
  }
  return shown;
}

bool ToolCallScanner::parse(std::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (json.is_discarded()) return false;
  std::vector<ToolCall> calls;
  if (json.is_array()) {
    for (const Json& entry : json)
      if (!read_call(entry, calls)) return false;
  } else if (!read_call(json, calls)) {
    return false;
  }
  if (calls.empty()) return false;
  calls_.insert(calls_.end(), std::make_move_iterator(calls.begin()),
                std::make_move_iterator(calls.end()));
  return true;
}

std::string describe_tools(const Json& tools) {
  std::string out =
      "You can call functions. Each is described by its name, its purpose and the JSON schema of its "
      "parameters:\n<tools>\n";
  for (const Json& tool : tools) out += tool.dump() + "\n";
  out +=
      "</tools>\nTo call one, answer with its name and arguments as JSON between tags, and nothing "
      "else:\n<tool_call>\n{\"name\": \"function_name\", \"arguments\": {}}\n</tool_call>";
  return out;
}

}  // namespace weft::serve
