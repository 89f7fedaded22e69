// A conversation with a model: keeps the messages, asks for the next answer, and makes room by
// dropping the oldest turns when the context is full.
#pragma once

#include <string>
#include <vector>

#include "text/generate.h"
#include "text/text_model.h"

namespace weft::text {

// The model and the decoder outlive it. The decoder keeps what it computed for earlier turns, so
// each turn reads the new part only.
class Conversation {
 public:
  Conversation(const TextModel& model, Decoder& decoder) : model_(model), decoder_(decoder) {}

  void set_system(std::string content);  // empty: none; the other messages stay
  void clear();                          // all but the system message
  const std::vector<ChatMessage>& messages() const { return messages_; }

  struct Turn {
    Generation generation;
    size_t dropped_messages = 0;  // the oldest, to make room
  };
  // Adds `question` and the answer, as far as it came if it was stopped. After an Error the
  // messages are as before. kInvalidInput: a question that alone leaves no room for an answer.
  Turn ask(std::string question, const GenerateOptions& options, const TextFn& on_text = {},
           StopToken stop = {}, const ProgressFn& prefill = {});

 private:
  const TextModel& model_;
  Decoder& decoder_;
  std::vector<ChatMessage> messages_;
};

}  // namespace weft::text
