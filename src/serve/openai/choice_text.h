// One choice's tokens on their way to text: whole characters, no stop string, calls of tools taken
// out, log-probabilities kept in step with the text that they belong to. Owned by one thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/tokenizer.h"
#include "serve/openai/requests.h"
#include "serve/tool_calls.h"
#include "text/generate.h"
#include "text/stop_strings.h"

namespace weft::serve::openai {

struct TokenText {
  std::string bytes;
  std::optional<float> logprob = 0;  // none: a prompt's first token, which nothing precedes
};
struct LogprobEntry {
  TokenText token;
  std::vector<TokenText> top;
};

struct Delta {
  std::string text;
  std::vector<ToolCall> calls;
  std::vector<LogprobEntry> logprobs;
  bool empty() const { return text.empty() && calls.empty() && logprobs.empty(); }
};

LogprobEntry logprob_entry(const formats::Tokenizer& tokenizer, const text::Sampled& sampled);

class ChoiceText {
 public:
  // Both outlive it.
  ChoiceText(const formats::Tokenizer& tokenizer, const AnswerRequest& request);

  Delta push(const text::Sampled& sampled);
  Delta finish();  // what was held back; once, at the end
  bool stopped() const { return stop_.stopped(); }  // by a stop string: no more tokens are wanted
  bool has_calls() const { return num_calls_ != 0; }

 private:
  Delta show(std::string text);

  const formats::Tokenizer& tokenizer_;
  const AnswerRequest& request_;
  formats::TokenStream stream_;
  text::StopStrings stop_;
  std::optional<ToolCallScanner> tools_;
  std::vector<LogprobEntry> held_;  // of tokens whose text has not been shown yet
  size_t num_calls_ = 0;
};

}  // namespace weft::serve::openai
