#include "formats/chat.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"

namespace weft::formats {
namespace {

const std::vector<ChatMessage> kMessages = {{"system", "Be brief."}, {"user", "Hi\n"}};

TEST(chat, chatml_is_the_fallback) {
  const ChatTemplate chatml(kChatMlTemplate);
  EXPECT_EQ(render_chat(chatml, kMessages, {}),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n"
            "<|im_start|>assistant\n");
  ChatOptions closed;
  closed.add_generation_prompt = false;
  EXPECT_EQ(render_chat(chatml, {}, closed), "");
}

TEST(chat, options_and_extra_fields_reach_the_template) {
  const ChatTemplate all(
      "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ enable_thinking }}"
      "{{ messages[0].name }}{{ messages[0].content }}");
  ChatOptions options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  options.extra = {{"enable_thinking", false}};
  std::vector<ChatMessage> messages = {{"user", "replaced"}};
  messages[0].extra = {{"name", "Ann"}, {"content", "parts"}};
  EXPECT_EQ(render_chat(all, messages, options), "<s></s>TrueFalseAnnparts");
}

TEST(chat, extra_must_be_an_object) {
  ChatOptions options;
  options.extra = {1, 2};
  EXPECT_THROW(render_chat(ChatTemplate(""), kMessages, options), Error);
}

}  // namespace
}  // namespace weft::formats
