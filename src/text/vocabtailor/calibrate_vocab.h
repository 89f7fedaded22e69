// Makes a task's profile: the model answers the prompts itself (a set must hold what it would say, not
// what a reference says), the answers are counted, and those held out tell how sizes of the set do.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "text/text_model.h"
#include "text/vocabtailor/profile_builder.h"
#include "text/vocabtailor/vocab_profile.h"

namespace weft::text {

// What the hundredth answer asks for was never more than a faint possibility in the others. Taste: with
// 20 and 64, sets that hold 99 % whole were a fifth smaller for the larger in two tasks of four.
inline constexpr size_t kRunnerUps = 512;

struct AnswerOptions {
  size_t max_tokens = 128;
  size_t samples = 0;        // of each prompt, besides the greedy answer; for counting alone
  float temperature = 0.8f;  // of them
  uint64_t seed = 0;
  size_t batch = 8;
  size_t runner_ups = 0;  // of each step, so many of the likeliest tokens count as plausible
};

// The model's own answers, the greedy ones first, then `samples` times all prompts. An end token is
// part of its answer. Prompts that leave no room in the context are an error: kInvalidInput.
std::vector<TaskDocument> answer_prompts(const TextModel& model,
                                         std::span<const std::vector<Token>> prompts,
                                         const AnswerOptions& options, const CoreSet& cores,
                                         StopToken stop = {}, const ProgressFn& progress = {});

struct CalibrateOptions {
  std::string name = "task", source = {};
  double tolerance = 0.01;       // §2.2: tokens that a document may lack, on average
  double held_out_share = 0.25;  // of the prompts, every so many
  double target = 0.99;          // share of held-out answers without a miss that a size must reach
  size_t size = 0;               // of the static set; 0: by the tolerance
  // Above 0: so large that this share of new answers is whole (token_order.h), instead of both.
  // Below 1.
  double answers = 0;
  std::vector<std::string> scripts = {};  // stage 2; none: all
};

struct Calibration {
  VocabProfile profile;
  double overlap = 0;           // share of the answers' tokens that prompts bring
  // The smallest that reaches the target; 0 with `reached` false: none. By answers: the chosen one,
  // not `reached` where requests would not gather one that is large enough (kLargestSetShare).
  size_t recommended_size = 0;
  bool reached = false;
  size_t tried = 0;  // by answers: different prompts that were held out in turn
  double miss_recall = 1, escape_share = 0;  // of the chosen verify signals, held out
};

// What calibrate_vocab() asks of its prompts, to be known before they are answered. kInvalidInput: fewer
// than 4, or too few different ones for the share of answers.
void check_enough(size_t num_prompts, size_t num_different, const CalibrateOptions& options);

// `documents`: the first `num_prompts` are greedy answers, then samples of the same prompts in
// order. Deterministic. kInvalidInput: fewer than 4 prompts, or too few for the share of answers.
Calibration calibrate_vocab(const TextModel& model, std::span<const TaskDocument> documents,
                            size_t num_prompts, const CalibrateOptions& options,
                            const CoreSet& cores, StopToken stop = {},
                            const ProgressFn& progress = {});

}  // namespace weft::text
