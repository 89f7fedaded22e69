// How well a model solves the reasoners' task (tasks/reason.h): many problems at once through the
// engine's own decoder, every answer checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "tasks/reason.h"
#include "text/text_model.h"

namespace weft::text {

struct ReasonEvalOptions {
  tasks::ReasonOptions task = {};
  tasks::ReasonSplit split = tasks::ReasonSplit::kTest;
  size_t num_problems = 200;
  uint64_t seed = 1;       // of problems and, with a temperature, of the answers
  double temperature = 0;  // 0: the likeliest token
  size_t batch = 16;       // problems at a time
};

struct ReasonAnswer {
  size_t steps = 0;   // of the problem
  size_t tokens = 0;  // of the answer, its end token too
  bool cut = false;   // not ended by the model: twice as long as a right one, or no more room
  tasks::ReasonVerdict verdict = {};
};

struct ReasonScore {
  std::vector<ReasonAnswer> answers;  // in the order of the problems
  double seconds = 0;

  size_t num_right() const;
  size_t num_unfinished() const;  // cut, or without an answer's line at the end
  size_t num_tokens() const;
  size_t token_quantile(double share) const;  // 0.5: the median; needs answers
  double tokens_per_second() const;
};

// kInvalidInput: options out of range, or a problem that the model's context has no room for.
ReasonScore eval_reason(const TextModel& model, const ReasonEvalOptions& options,
                        const CoreSet& cores, StopToken stop = {}, const ProgressFn& progress = {});

}  // namespace weft::text
