#include "serve/openai/choice_text.h"

#include <utility>

namespace weft::serve::openai {

LogprobEntry logprob_entry(const formats::Tokenizer& tokenizer, const text::Sampled& sampled) {
  LogprobEntry out{{tokenizer.piece(sampled.token, true), sampled.logprob}, {}};
  for (const text::TokenLogprob& top : sampled.top)
    out.top.push_back({tokenizer.piece(top.token, true), top.logprob});
  return out;
}

ChoiceText::ChoiceText(const formats::Tokenizer& tokenizer, const AnswerRequest& request)
    : tokenizer_(tokenizer),
      request_(request),
      // Some models open a call with a control token. A continued text keeps its leading space.
      stream_(tokenizer, request.tools.has_value(),
              request.chat ? formats::LeadingSpace::kAsDecoded : formats::LeadingSpace::kKept),
      stop_(request.stop) {
  if (request.tools) tools_.emplace(*request.tools);
}

Delta ChoiceText::push(const text::Sampled& sampled) {
  if (stopped()) return {};
  if (request_.want_logprobs) held_.push_back(logprob_entry(tokenizer_, sampled));
  if (request_.stop_at_end && tokenizer_.is_end(sampled.token)) return {};
  return show(stop_.push(stream_.push(sampled.token)));
}

Delta ChoiceText::finish() {
  std::string rest;
  if (!stopped()) {
    rest = stop_.push(stream_.finish());
    rest += stop_.finish();
  }
  Delta delta;
  if (tools_) {
    rest = tools_->push(rest) + tools_->finish();
    delta.calls = tools_->take_calls();
    num_calls_ += delta.calls.size();
  }
  delta.text = std::move(rest);
  if (!stopped()) delta.logprobs = std::exchange(held_, {});
  return delta;
}

Delta ChoiceText::show(std::string text) {
  Delta delta;
  if (tools_) {
    text = tools_->push(text);
    delta.calls = tools_->take_calls();
    if (!request_.parallel_tool_calls && num_calls_ + delta.calls.size() > 1)
      delta.calls.resize(num_calls_ == 0 ? 1 : 0);
    num_calls_ += delta.calls.size();
  }
  delta.text = std::move(text);
  if (!delta.text.empty() || !delta.calls.empty()) delta.logprobs = std::exchange(held_, {});
  return delta;
}

}  // namespace weft::serve::openai
