#include "serve/semi_pd/promises.h"

#include <algorithm>

namespace weft::serve::semi_pd {
namespace {

// Of the promised time of a token, to be kept by a step that takes longer than expected.
constexpr double kPace = 0.85;
// An answer further behind than so many tokens' time is given up: at half the promised time for each
// token, it would need as many more to catch up.
constexpr double kTokensBehind = 10;
// Of a token's time: what prompts and answers share where an answer is behind already.
constexpr double kLeast = 0.5;
// A smaller piece costs nearly as much: below it a product reads its weights for a few rows.
constexpr double kLeastPiece = 16;

double time_to_deadline(const Promises& promises, const AnswerAge& answer) {
  const double of_mean = kPace * promises.tpot_s * static_cast<double>(answer.tokens);
  return std::min(std::max(of_mean, promises.longest_gap_s) - answer.since_first_s,
                  promises.longest_gap_s - answer.since_last_s);
}

}  // namespace

bool is_out_of_reach(const Promises& promises, const AnswerAge& answer) {
  const double behind =
      answer.since_first_s - promises.tpot_s * static_cast<double>(answer.tokens);
  return answer.ttft_s > promises.ttft_s || behind > kTokensBehind * promises.tpot_s;
}

StepShare share_step(const Promises& promises, std::span<const AnswerAge> answers,
                     const StepTimes& times, bool prompts_in_time, size_t chunk_tokens) {
  StepShare share;
  const bool short_of_time = prompts_in_time || times.answers_s > kPace * promises.tpot_s;
  bool any_in_reach = false;
  double left_s = promises.longest_gap_s;
  for (const AnswerAge& answer : answers) {
    if (is_out_of_reach(promises, answer)) {
      if (short_of_time && answer.since_last_s < promises.longest_rest_s)
        share.resting.push_back(answer.id);
    } else {
      any_in_reach = true;
      left_s = std::min(left_s, time_to_deadline(promises, answer));
    }
  }
  if (!any_in_reach && !prompts_in_time) share.resting.clear();  // somebody has to go on
  const double step_s = share.resting.empty() ? times.answers_s : times.answers_in_reach_s;
  double tokens = static_cast<double>(chunk_tokens);
  if (any_in_reach) {
    left_s = std::max(left_s, kLeast * promises.tpot_s) - step_s;
    tokens = std::clamp(left_s / times.prompt_token_s, std::min(kLeastPiece, tokens), tokens);
  }
  share.prompt_tokens = std::max<size_t>(1, static_cast<size_t>(tokens));
  return share;
}

}  // namespace weft::serve::semi_pd
