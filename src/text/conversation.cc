#include "text/conversation.h"

#include <utility>

#include "base/error.h"

namespace weft::text {
namespace {

bool starts_with_system(const std::vector<ChatMessage>& messages) {
  return !messages.empty() && messages.front().role == "system";
}

// A turn is worth starting with room for this part of the context (taste).
size_t room_for_answer(size_t context_length) { return context_length / 8 + 1; }

}  // namespace

void Conversation::set_system(std::string content) {
  if (starts_with_system(messages_)) messages_.erase(messages_.begin());
  if (!content.empty())
    messages_.insert(messages_.begin(), {.role = "system", .content = std::move(content)});
}

void Conversation::clear() { messages_.resize(starts_with_system(messages_) ? 1 : 0); }

Conversation::Turn Conversation::ask(std::string question, const GenerateOptions& options,
                                     const TextFn& on_text, StopToken stop,
                                     const ProgressFn& prefill) {
  std::vector<ChatMessage> messages = messages_;
  messages.push_back({.role = "user", .content = std::move(question)});
  const auto first_turn = static_cast<ptrdiff_t>(starts_with_system(messages) ? 1 : 0);
  const size_t longest = model_.context_length() - room_for_answer(model_.context_length());
  Turn turn;
  std::vector<Token> prompt = model_.encode_chat(messages);
  while (prompt.size() > longest) {
    if (messages.size() == static_cast<size_t>(first_turn) + 1)
      fail(ErrorKind::kInvalidInput,
           "the message has {} tokens with what belongs to it, but a context of {} takes {} at "
           "most. Shorten it, or ask for a longer context.",
           prompt.size(), model_.context_length(), longest);
    // A question with its answer.
    messages.erase(messages.begin() + first_turn, messages.begin() + first_turn + 2);
    turn.dropped_messages += 2;
    prompt = model_.encode_chat(messages);
  }
  turn.generation = generate(decoder_, model_.tokenizer(), prompt, options, on_text, stop, prefill);
  messages.push_back({.role = "assistant", .content = turn.generation.text});
  messages_ = std::move(messages);
  return turn;
}

}  // namespace weft::text
