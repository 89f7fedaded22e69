// libFuzzer: any text as a chat template, rendered with a small conversation.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nlohmann::ordered_json kContext = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "Be brief."},
                 {"role": "user", "content": "Hi <b> \u00e9 \ud83d\ude42"},
                 {"role": "assistant", "content": null,
                  "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1.5, "y": [1]}}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "unix_time_now": 0})");
  try {
    weft::formats::ChatTemplate(
        std::string_view(reinterpret_cast<const char*>(data), size))
        .render(kContext);
  } catch (const weft::Error&) {
  }
  return 0;
}
