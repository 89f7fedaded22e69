// A request under way: its choices as jobs of an executor, and what they have said so far. Owned by
// the thread that writes the answer out; gone, its jobs are cancelled.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "serve/openai/choice_text.h"
#include "serve/served_model.h"

namespace weft::serve::openai {

struct Usage {
  size_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

// Of a request with a tailored vocabulary: the first choice's set, all choices' counts.
struct VocabUsage {
  text::VocabMode mode = text::VocabMode::kOff;
  std::string profile;
  size_t size = 0, static_size = 0, dynamic_size = 0, escapes = 0, misses = 0, screened = 0,
         rejected = 0;
  bool whole = false;
};

// Where the keys and values of a request were at its end, all choices together, under a policy.
struct KvUsage {
  std::string policy;
  std::array<size_t, 4> code_bytes{};  // in 16, 8, 4 and 2 bit
  size_t meta_bytes = 0;
};

class Answer {
 public:
  // Submits every choice of every prompt. ApiError as the executor refuses. `model` outlives it.
  Answer(ServedModel& model, AnswerRequest request);
  ~Answer();
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  struct Piece {
    size_t choice = 0;
    Delta delta;
    std::string finish_reason;  // set on a choice's last piece: stop, length or tool_calls
  };
  // What has come, waiting up to `patience`; empty: nothing. ApiError: a choice has failed.
  std::vector<Piece> wait(std::chrono::milliseconds patience);

  bool done() const { return num_open_ == 0; }
  const AnswerRequest& request() const { return request_; }
  const std::string& model_name() const { return model_.name(); }
  size_t num_choices() const { return choices_.size(); }
  // Of the prompt's tokens, where `echo` and `logprobs` ask for both; else empty.
  std::span<const LogprobEntry> echo_logprobs(size_t choice) const;
  Usage usage() const;
  std::optional<VocabUsage> vocab_usage() const;  // nothing without tailoring
  std::optional<KvUsage> kv_usage() const;        // nothing where all are kept in 16 bit
  // What experts were read for while the answer was made (for all that were made at that time); nothing
  // where all are in memory.
  std::optional<text::ExpertCounters> expert_usage() const;
  Json timings() const;  // llama.cpp's names: prompt_n, prompt_ms, predicted_n, predicted_ms ...

 private:
  struct Choice {
    std::shared_ptr<Job> job;
    ChoiceText text;
    size_t num_tokens = 0;
    bool open = true;
  };
  std::vector<LogprobEntry> score(const std::vector<text::Token>& prompt) const;
  void close(Choice& choice, text::FinishReason reason, Piece& piece);

  ServedModel& model_;
  const AnswerRequest request_;
  text::ExpertCounters experts_before_;
  std::shared_ptr<AnswerQueue> queue_;
  std::vector<Choice> choices_;  // prompt by prompt
  std::vector<std::vector<LogprobEntry>> echo_logprobs_;  // of each prompt
  std::vector<AnswerEvent> events_;
  size_t num_open_ = 0;
};

}  // namespace weft::serve::openai
