#include "formats/chat.h"

#include "base/error.h"

namespace weft::formats {
namespace {

void merge(nlohmann::ordered_json& into, const nlohmann::ordered_json& extra, const char* what) {
  if (extra.is_null()) return;
  if (!extra.is_object()) {
    fail(ErrorKind::kInvalidInput, "the extra fields of {} must be a JSON object, not {}", what,
         extra.type_name());
  }
  for (const auto& [name, value] : extra.items()) into[name] = value;
}

}  // namespace

const char* const kChatMlTemplate =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

std::string render_chat(const ChatTemplate& chat_template, std::span<const ChatMessage> messages,
                        const ChatOptions& options) {
  nlohmann::ordered_json context;
  context["messages"] = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages) {
    nlohmann::ordered_json one = {{"role", message.role}, {"content", message.content}};
    merge(one, message.extra, "a chat message");
    context["messages"].push_back(std::move(one));
  }
  context["tools"] = options.tools;  // null too: templates ask whether tools is none
  context["documents"] = nullptr;
  context["add_generation_prompt"] = options.add_generation_prompt;
  context["bos_token"] = options.bos_token;
  context["eos_token"] = options.eos_token;
  merge(context, options.extra, "the chat options");
  return chat_template.render(context);
}

}  // namespace weft::formats
