#include "serve/batch.h"

#include <algorithm>
#include <tuple>

namespace weft::serve {

bool Batch::any_prompt() const {
  return std::any_of(jobs_.begin(), jobs_.end(),
                     [](const RunningJob& j) { return j.in_prefill(); });
}

size_t Batch::num_answers() const {
  return static_cast<size_t>(std::count_if(jobs_.begin(), jobs_.end(),
                                           [](const RunningJob& j) { return !j.in_prefill(); }));
}

size_t Batch::mean_answer_context() const {
  size_t tokens = 0;
  for (const RunningJob& job : jobs_)
    if (!job.in_prefill()) tokens += job.prompt_size();
  return tokens / std::max<size_t>(1, num_answers());
}

size_t Batch::prompt_tokens_left() const {
  size_t left = 0;
  for (const RunningJob& job : jobs_) left += decoder_->prompt_tokens_left(job.id());
  return left;
}

size_t Batch::tokens_spoken_for() const {
  size_t tokens = jobs_.size() * kernels::kPageTokens;
  for (const RunningJob& job : jobs_) {
    const size_t left = decoder_->prompt_tokens_left(job.id());
    if (left == 0) continue;
    const size_t whole = room_for(job),
                 read = decoder_->room_for(job.prompt_size() - left, job.kv());
    tokens += whole - std::min(whole, read);
  }
  return tokens;
}

bool Batch::reads_prompt_of(const RunningJob& job) const {
  return std::any_of(jobs_.begin(), jobs_.end(), [&](const RunningJob& other) {
    return other.in_prefill() && other.same_prompt(job);
  });
}

void Batch::start(RunningJob job) {
  try {
    decoder_->start(job.id(), job.request());
  } catch (const Error& error) {
    job.fail(metrics_, error);
    return;
  }
  job.started(metrics_, decoder_->reused_prompt_tokens(job.id()));
  jobs_.push_back(std::move(job));
}

RunningJob& Batch::find(text::RequestId id) {
  const auto it = std::find_if(jobs_.begin(), jobs_.end(),
                               [id](const RunningJob& job) { return job.id() == id; });
  WEFT_ASSERT(it != jobs_.end());
  return *it;
}

RunningJob Batch::remove(text::RequestId id) {
  RunningJob& place = find(id);
  RunningJob job = std::move(place);
  jobs_.erase(jobs_.begin() + (&place - jobs_.data()));
  return job;
}

bool Batch::drop_cancelled() {
  return std::erase_if(jobs_, [this](RunningJob& job) {
           if (!job.cancelled()) return false;
           decoder_->finish(job.id());
           job.end(metrics_, text::FinishReason::kCancelled);
           return true;
         }) != 0;
}

void Batch::fail_all(const Error& error) {
  for (RunningJob& job : jobs_) {
    decoder_->finish(job.id());
    job.fail(metrics_, error);
  }
  jobs_.clear();
}

void Batch::cancel_all() {
  for (RunningJob& job : jobs_) {
    decoder_->finish(job.id());
    job.end(metrics_, text::FinishReason::kCancelled);
  }
  jobs_.clear();
}

Batch::PromptClass Batch::prompt_class(const RunningJob& job) const {
  const double age_s = job.age_s();
  if (age_s >= order_.small_first_until_s) return PromptClass::kOverdue;
  if (!order_.promised_ttft_s) return PromptClass::kInTime;
  const auto left = static_cast<double>(decoder_->prompt_tokens_left(job.id()));
  return age_s + left * order_.s_per_token > *order_.promised_ttft_s ? PromptClass::kLate
                                                                     : PromptClass::kInTime;
}

bool Batch::any_prompt_in_time() const {
  return std::any_of(jobs_.begin(), jobs_.end(), [this](const RunningJob& job) {
    return job.in_prefill() && prompt_class(job) != PromptClass::kLate;
  });
}

void Batch::order_prompts() {
  struct Waiting {
    PromptClass its_class;
    size_t tokens;  // 0 if overdue
    Clock::time_point arrival;
    text::RequestId id;
  };
  std::vector<Waiting> prompts;
  for (const RunningJob& job : jobs_) {
    if (!job.in_prefill()) continue;
    const PromptClass its_class = prompt_class(job);
    const size_t left = decoder_->prompt_tokens_left(job.id());
    prompts.push_back({.its_class = its_class,
                       .tokens = its_class == PromptClass::kOverdue ? 0 : left,
                       .arrival = job.arrival(),
                       .id = job.id()});
  }
  std::sort(prompts.begin(), prompts.end(), [](const Waiting& a, const Waiting& b) {
    return std::tie(a.its_class, a.tokens, a.arrival, a.id) <
           std::tie(b.its_class, b.tokens, b.arrival, b.id);
  });
  prompt_order_.clear();
  for (const Waiting& prompt : prompts) prompt_order_.push_back(prompt.id);
}

std::optional<Batch::StepDone> Batch::step(text::Decoder::StepPlan plan) {
  if (plan.advance_prompts) {
    order_prompts();
    plan.prompt_order = prompt_order_;
  }
  const size_t left_before = prompt_tokens_left();
  std::span<const text::DecodedToken> decoded;
  try {
    decoded = decoder_->step(plan);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kOutOfResources) throw;
    return std::nullopt;
  }
  StepDone done{.prompt_tokens = left_before - prompt_tokens_left()};
  metrics_.prompt_tokens.fetch_add(done.prompt_tokens, std::memory_order_relaxed);
  metrics_.prompt_rate.add(done.prompt_tokens);
  metrics_.steps.fetch_add(1, std::memory_order_relaxed);
  for (RunningJob& job : jobs_) job.prompt_left(decoder_->prompt_tokens_left(job.id()));
  for (const text::DecodedToken& token : decoded) done.ended |= deliver(token);
  return done;
}

// True: the request has ended.
bool Batch::deliver(const text::DecodedToken& decoded) {
  // Of several tokens in one step, those after an end.
  if (std::none_of(jobs_.begin(), jobs_.end(),
                   [&](const RunningJob& j) { return j.id() == decoded.request; }))
    return false;
  RunningJob& job = find(decoded.request);
  job.vocab_use(metrics_, decoder_->vocab_use(decoded.request));
  job.kv_use(decoder_->kv_usage(decoded.request));
  const bool ended = job.token(metrics_, decoded, end_tokens_);
  if (on_first_token && job.job().generated.load(std::memory_order_relaxed) == 1)
    on_first_token(job.job());
  if (!ended) return false;
  if (on_end) on_end(job.job());
  decoder_->finish(decoded.request);
  remove(decoded.request);
  return true;
}

RunningJob Batch::preempt_youngest() {
  const auto youngest =
      std::max_element(jobs_.begin(), jobs_.end(), [](const RunningJob& a, const RunningJob& b) {
        return std::make_pair(a.arrival(), a.id()) < std::make_pair(b.arrival(), b.id());
      });
  WEFT_ASSERT(youngest != jobs_.end());
  RunningJob job = std::move(*youngest);
  jobs_.erase(youngest);
  decoder_->finish(job.id());
  return job;
}

}  // namespace weft::serve
