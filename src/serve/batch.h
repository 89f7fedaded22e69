// The requests that one loop works on, with their decoder: what every executor does alike. Owned by
// the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "serve/running_job.h"

namespace weft::serve {

// Which prompts are read first when several wait: the short ones, which serves most users sooner.
// Where users were promised a time to first token, those first that can still have it, and then
// those for which it is too late. One older than the bound has waited enough: such prompts go
// before all others, in the order of arrival.
struct PromptOrder {
  double small_first_until_s = 1;  // of age; 0: always in the order of arrival
  std::optional<double> promised_ttft_s = {};
  double s_per_token = 0;  // of reading prompts, to tell which can still have it
};

class Batch {
 public:
  // Tells of a first token, and of an answer's end by its last token.
  using Observer = std::function<void(const Job&)>;

  Batch(std::unique_ptr<text::Decoder> decoder, const formats::Tokenizer& end_tokens,
        Metrics& metrics, const PromptOrder& order)
      : decoder_(std::move(decoder)), end_tokens_(end_tokens), metrics_(metrics), order_(order) {}

  text::Decoder& decoder() { return *decoder_; }
  bool empty() const { return jobs_.empty(); }
  size_t size() const { return jobs_.size(); }
  const std::vector<RunningJob>& jobs() const { return jobs_; }
  bool any_prompt() const;
  bool any_prompt_in_time() const;  // that can still have what was promised
  bool any_answer() const { return num_answers() != 0; }
  size_t num_answers() const;
  size_t mean_answer_context() const;  // tokens; 0 without answers
  size_t prompt_tokens_left() const;   // of all

  // Cache that those in the batch are about to take: the rest of their prompts, and a page each for
  // their answers. Who came in without it would be sent away again by the next step.
  size_t tokens_spoken_for() const;
  size_t room_for(const RunningJob& job) const {
    return decoder_->room_for(job.prompt_size(), job.kv());
  }
  // Whether a request with the same prompt is in prefill: what it leaves in the cache is worth the
  // wait (the n choices of one request).
  bool reads_prompt_of(const RunningJob& job) const;

  // Into the decoder. A request that cannot be started fails alone.
  void start(RunningJob job);
  // One that is in the decoder already, or goes on in another one.
  void add(RunningJob job) { jobs_.push_back(std::move(job)); }
  RunningJob remove(text::RequestId id);

  // True: some were dropped.
  bool drop_cancelled();
  void cancel_all();
  void fail_all(const Error& error);

  struct StepDone {
    size_t prompt_tokens = 0;  // read
    bool ended = false;        // some requests have
  };
  // Nothing: the cache has no room for it (Decoder::step).
  std::optional<StepDone> step(text::Decoder::StepPlan plan);
  // Out of the decoder, to be started again later.
  RunningJob preempt_youngest();

  Observer on_first_token = {}, on_end = {};

 private:
  enum class PromptClass : uint8_t { kOverdue, kInTime, kLate };
  PromptClass prompt_class(const RunningJob& job) const;
  void order_prompts();
  bool deliver(const text::DecodedToken& decoded);
  RunningJob& find(text::RequestId id);

  std::unique_ptr<text::Decoder> decoder_;
  const formats::Tokenizer& end_tokens_;
  Metrics& metrics_;
  PromptOrder order_;
  std::vector<RunningJob> jobs_;  // in the order they came
  std::vector<text::RequestId> prompt_order_;
};

}  // namespace weft::serve
