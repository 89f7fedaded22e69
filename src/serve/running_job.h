// What an executor keeps of a job that it works on: the tokens it has got, so that it can make room
// and go on later, and the bookkeeping that every executor does alike. Owned by one thread at a time.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "formats/tokenizer.h"
#include "serve/job.h"
#include "serve/metrics.h"

namespace weft::serve {

class RunningJob {
 public:
  explicit RunningJob(std::shared_ptr<Job> job) : job_(std::move(job)) {}

  const Job& job() const { return *job_; }
  text::RequestId id() const { return job_->id; }
  Clock::time_point arrival() const { return job_->arrival; }
  Clock::time_point last_token() const {
    return job_->arrival + std::chrono::duration_cast<Clock::duration>(
                               std::chrono::duration<double>(job_->last_token_s.load()));
  }
  double age_s() const { return job_->age_s(); }
  // Choices of one request and prompt.
  bool same_prompt(const RunningJob& other) const {
    return job_->answers == other.job_->answers && job_->decode.prompt == other.job_->decode.prompt;
  }
  bool cancelled() const { return job_->cancelled.load(std::memory_order_relaxed); }
  bool in_prefill() const { return job_->phase.load(std::memory_order_relaxed) == JobPhase::kPrefill; }
  // Tokens to read before the next one can be sampled.
  size_t prompt_size() const { return job_->decode.prompt.size() + answer_.size(); }

  const text::KvPolicy* kv() const { return job_->decode.kv.get(); }  // its own; null: the decoder's

  // For Decoder::start: the prompt and the answer so far.
  text::DecodeRequest request() const;

  void started(Metrics& metrics, size_t reused_tokens);
  void prompt_left(size_t tokens);  // after each step
  void kv_use(const text::KvUsage& use);  // before each token
  void vocab_use(Metrics& metrics, const text::VocabUse& use);  // before each token
  // Hands a token out. True: the job has ended (its last token, an end token, an error).
  bool token(Metrics& metrics, const text::DecodedToken& decoded,
             const formats::Tokenizer& end_tokens);
  RunningJob preempted(Metrics& metrics) &&;  // to wait again
  void end(Metrics& metrics, text::FinishReason reason);
  void fail(Metrics& metrics, const Error& error);
  void fail_for_room(Metrics& metrics);  // alone in the cache, and still too large

 private:
  void finish(Metrics& metrics, text::FinishReason reason, std::optional<Error> error);

  std::shared_ptr<Job> job_;
  std::vector<text::Token> answer_;
  text::VocabUse vocab_;  // as of the last token
};

// kOutOfResources: as many are queued as may be. Else counts one request more.
void check_queue(size_t queued, size_t max_queued, Metrics& metrics);
void drop_cancelled(std::deque<RunningJob>& waiting, Metrics& metrics);

}  // namespace weft::serve
