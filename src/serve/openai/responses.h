// The bodies of answers, as OpenAI's clients read them.
#pragma once

#include <string>
#include <vector>

#include "serve/openai/answer.h"

namespace weft::serve::openai {

struct ResponseHead {
  std::string id;  // chatcmpl-..., cmpl-...
  int64_t created = 0;
  std::string model;
};
ResponseHead new_head(const Answer& answer);

// The whole answer at once: collects pieces until the answer is done.
class WholeResponse {
 public:
  explicit WholeResponse(const Answer& answer);
  void add(const Answer::Piece& piece);
  Json body(const ResponseHead& head, const Answer& answer) const;

 private:
  struct Choice {
    Delta all;
    std::string finish_reason;
  };
  std::vector<Choice> choices_;
  bool chat_;
};

// The same piece by piece: server-sent events, "data: {...}\n\n", closed by "data: [DONE]\n\n".
class StreamedResponse {
 public:
  StreamedResponse(ResponseHead head, const Answer& answer);
  std::string begin() const;  // chat: one event for each choice that names the role
  std::string event(const Answer::Piece& piece);
  std::string end(const Answer& answer) const;  // usage where asked for, and [DONE]
  static std::string error_event(const ApiError& error);

 private:
  Json chunk() const;

  ResponseHead head_;
  const AnswerRequest& request_;
  std::vector<size_t> calls_;        // so far, of each choice
  std::vector<size_t> text_offset_;  // bytes, of each choice
  std::vector<Json> echo_logprobs_;  // of each choice's prompt; null: not asked for
};

}  // namespace weft::serve::openai
