// From a request's JSON to what the engine needs: prompts in tokens, sampling values, and how the
// answer is wanted.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "serve/openai/fields.h"
#include "serve/tool_calls.h"
#include "text/decoder.h"
#include "text/text_model.h"

namespace weft::serve::openai {

// What a server gives to a request that asks for nothing else.
struct RequestDefaults {
  text::SamplingOptions sampling = {};
  size_t max_choices = 16;  // of all prompts of a request together
};

// The sampling values under the names that requests give them; not the seed.
Json to_json(const text::SamplingOptions& sampling);

struct AnswerRequest {
  bool chat = false;
  std::vector<std::vector<text::Token>> prompts;  // one, or several of /v1/completions
  size_t num_choices = 1;                         // n, of each prompt
  text::SamplingOptions sampling;
  size_t max_tokens = SIZE_MAX;
  std::vector<std::string> stop;
  bool stop_at_end = true;  // false: ignore_eos
  bool stream = false, include_usage = false;
  bool want_logprobs = false;
  size_t num_top_logprobs = 0;
  bool echo = false;                    // completions: the prompt in front of the answer
  std::vector<std::string> echo_texts;  // of each prompt
  std::optional<ToolCallFormat> tools;  // chat: calls are looked for in the answer
  bool parallel_tool_calls = true;
  std::shared_ptr<const text::TokenFilter> filter;  // the form of the answer; null: any
  text::VocabChoice vocab;    // vocab_profile, vocab_mode
  std::shared_ptr<const text::KvPolicy> kv;  // kv, kv_k, kv_v; null: the server's
  uint64_t prefix_scope = 0;  // as in text::DecodeRequest; the server's to set
};

// ApiError says which field is wrong. `model` is the one that the request names.
AnswerRequest parse_chat_request(const Json& body, const text::TextModel& model,
                                 const RequestDefaults& defaults);
AnswerRequest parse_completion_request(const Json& body, const text::TextModel& model,
                                       const RequestDefaults& defaults);

// A string, tokens, or a list of either: the `prompt` of completions, the `input` of embeddings.
struct PromptList {
  std::vector<std::vector<text::Token>> tokens;
  std::vector<std::string> texts;  // as given, or decoded
};
PromptList parse_prompts(const Fields& fields, const std::string& name,
                         const text::TextModel& model, size_t most);

}  // namespace weft::serve::openai
