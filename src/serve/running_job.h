// What an executor keeps of a job that it works on: the tokens it has got, so that it can make room
// and go on later, and the bookkeeping that every executor does alike. Owned by one thread at a time.
#pragma once

#include <memory>
#include <vector>

#include "formats/tokenizer.h"
#include "serve/job.h"
#include "serve/metrics.h"

namespace weft::serve {

class RunningJob {
 public:
  explicit RunningJob(std::shared_ptr<Job> job) : job_(std::move(job)) {}

  text::RequestId id() const { return job_->id; }
  bool cancelled() const { return job_->cancelled.load(std::memory_order_relaxed); }
  bool in_prefill() const { return job_->phase.load(std::memory_order_relaxed) == JobPhase::kPrefill; }
  // Tokens to read before the next one can be sampled.
  size_t prompt_size() const { return job_->decode.prompt.size() + answer_.size(); }

  // For Decoder::start: the prompt and the answer so far.
  text::DecodeRequest request() const;

  void started(Metrics& metrics, size_t reused_tokens);
  void prompt_left(size_t tokens);  // after each step
  // Hands a token out. True: the job has ended (its last token, an end token, an error).
  bool token(Metrics& metrics, const text::DecodedToken& decoded,
             const formats::Tokenizer& end_tokens);
  void preempted(Metrics& metrics);
  void end(Metrics& metrics, text::FinishReason reason);
  void fail(Metrics& metrics, const Error& error);

 private:
  void finish(Metrics& metrics, text::FinishReason reason, std::optional<Error> error);

  std::shared_ptr<Job> job_;
  std::vector<text::Token> answer_;
};

}  // namespace weft::serve
