#include "serve/running_job.h"

#include <utility>

namespace weft::serve {

text::DecodeRequest RunningJob::request() const {
  text::DecodeRequest request = job_->decode;
  request.prompt.insert(request.prompt.end(), answer_.begin(), answer_.end());
  request.num_generated = answer_.size();
  return request;
}

void RunningJob::started(Metrics& metrics, size_t reused_tokens) {
  vocab_ = {};  // each start counts from zero
  job_->phase.store(JobPhase::kPrefill);
  job_->prompt_done.store(reused_tokens);
  if (job_->started_s.load() >= 0) return;  // it comes back from a preemption
  job_->started_s.store(job_->age_s());
  job_->reused_tokens.store(reused_tokens);
  metrics.reused_tokens.fetch_add(reused_tokens, std::memory_order_relaxed);
  metrics.queue.add(job_->age_s());
}

void RunningJob::prompt_left(size_t tokens) {
  if (!in_prefill()) return;
  job_->prompt_done.store(prompt_size() - tokens, std::memory_order_relaxed);
  if (tokens == 0) job_->phase.store(JobPhase::kDecode);
}

void RunningJob::kv_use(const text::KvUsage& use) {
  for (size_t i = 0; i < use.code_bytes.size(); ++i)
    job_->kv_code_bytes[i].store(use.code_bytes[i], std::memory_order_relaxed);
  job_->kv_meta_bytes.store(use.meta_bytes, std::memory_order_relaxed);
}

void RunningJob::vocab_use(Metrics& metrics, const text::VocabUse& use) {
  if (use.mode == text::VocabMode::kOff) return;
  const size_t escapes = use.escapes - vocab_.escapes, misses = use.misses - vocab_.misses;
  metrics.vocab_steps.fetch_add(use.steps - vocab_.steps, std::memory_order_relaxed);
  metrics.vocab_escapes.fetch_add(escapes, std::memory_order_relaxed);
  metrics.vocab_misses.fetch_add(misses, std::memory_order_relaxed);
  job_->vocab_escapes.fetch_add(escapes, std::memory_order_relaxed);
  job_->vocab_misses.fetch_add(misses, std::memory_order_relaxed);
  job_->vocab_screened.fetch_add(use.screened - vocab_.screened, std::memory_order_relaxed);
  job_->vocab_rejected.fetch_add(use.rejected - vocab_.rejected, std::memory_order_relaxed);
  job_->vocab_size.store(use.size, std::memory_order_relaxed);
  job_->vocab_static.store(use.static_size, std::memory_order_relaxed);
  job_->vocab_dynamic.store(use.dynamic_size, std::memory_order_relaxed);
  job_->vocab_whole.store(use.whole, std::memory_order_relaxed);
  vocab_ = use;
}

bool RunningJob::token(Metrics& metrics, const text::DecodedToken& decoded,
                       const formats::Tokenizer& end_tokens) {
  if (decoded.error) {
    fail(metrics, *decoded.error);
    return true;
  }
  const double now = job_->age_s();
  if (job_->first_token_s.load() < 0) {
    job_->first_token_s.store(now);
    metrics.ttft.add(now);
  } else {
    const double gap = now - job_->last_token_s.load();
    metrics.gap.add(gap);
    if (gap > job_->longest_gap_s.load()) job_->longest_gap_s.store(gap);
  }
  job_->last_token_s.store(now);
  job_->generated.fetch_add(1, std::memory_order_relaxed);
  metrics.generated_tokens.fetch_add(1, std::memory_order_relaxed);
  metrics.generated_rate.add(1);

  const text::Token token = decoded.sampled.token;
  answer_.push_back(token);
  job_->answers->push({.choice = job_->choice, .token = decoded.sampled});
  if (job_->stop_at_end && end_tokens.is_end(token)) {
    end(metrics, text::FinishReason::kStop);
    return true;
  }
  if (decoded.last)
    end(metrics, decoded.complete ? text::FinishReason::kStop : text::FinishReason::kLength);
  return decoded.last;
}

RunningJob RunningJob::preempted(Metrics& metrics) && {
  job_->phase.store(JobPhase::kQueued);
  job_->preemptions.fetch_add(1, std::memory_order_relaxed);
  metrics.preemptions.fetch_add(1, std::memory_order_relaxed);
  return std::move(*this);
}

void RunningJob::end(Metrics& metrics, text::FinishReason reason) {
  finish(metrics, reason, std::nullopt);
}

void RunningJob::fail(Metrics& metrics, const Error& error) {
  finish(metrics, text::FinishReason::kCancelled, error);
}

void RunningJob::fail_for_room(Metrics& metrics) {
  fail(metrics, Error(ErrorKind::kOutOfResources,
                      "the KV cache has no room for this request alone. Start the server with more "
                      "--kv-tokens."));
}

void RunningJob::finish(Metrics& metrics, text::FinishReason reason, std::optional<Error> error) {
  Metrics::Counter& how = error ? metrics.failed
                          : reason == text::FinishReason::kCancelled ? metrics.cancelled
                                                                     : metrics.finished;
  how.fetch_add(1, std::memory_order_relaxed);
  if (reason != text::FinishReason::kCancelled) {
    metrics.e2e.add(job_->age_s());
    const size_t count = job_->generated.load();
    if (count > 1)
      metrics.tpot.add((job_->last_token_s.load() - job_->first_token_s.load()) /
                       static_cast<double>(count - 1));
  }
  job_->phase.store(JobPhase::kDone);
  job_->answers->push({.choice = job_->choice, .finished = reason, .error = std::move(error)});
}

void check_queue(size_t queued, size_t max_queued, Metrics& metrics) {
  if (queued >= max_queued) {
    metrics.refused.fetch_add(1, std::memory_order_relaxed);
    fail(ErrorKind::kOutOfResources,
         "{} requests are waiting already, the most that are kept. Try again later.", max_queued);
  }
  metrics.requests.fetch_add(1, std::memory_order_relaxed);
}

void drop_cancelled(std::deque<RunningJob>& waiting, Metrics& metrics) {
  std::erase_if(waiting, [&](RunningJob& job) {
    if (!job.cancelled()) return false;
    job.end(metrics, text::FinishReason::kCancelled);
    return true;
  });
}

}  // namespace weft::serve
