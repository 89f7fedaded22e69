// A conversation to the text that a model was trained to continue.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "formats/chat_template.h"

namespace weft::formats {

struct ChatMessage {
  std::string role;  // system, user, assistant, tool
  std::string content;
  // More fields that templates read (tool_calls, reasoning_content, name, ...): an object or null.
  // A field named role or content replaces the one above (content may be a list of parts).
  nlohmann::ordered_json extra = {};
};

struct ChatOptions {
  bool add_generation_prompt = true;  // end with the opening of the assistant's turn
  std::string bos_token, eos_token;
  nlohmann::ordered_json tools = {};  // JSON schemas of functions, a list; null: none
  nlohmann::ordered_json extra = {};  // more variables, such as enable_thinking: an object or null
};

// Errors are ChatTemplate::render's; kInvalidInput also for an `extra` that is no object.
std::string render_chat(const ChatTemplate& chat_template, std::span<const ChatMessage> messages,
                        const ChatOptions& options);

// ChatML, for models that carry no template: <|im_start|>role, a line end, content, <|im_end|>.
extern const char* const kChatMlTemplate;

}  // namespace weft::formats
