// What one step of the loop that does both phases takes on, so that as many requests as possible keep
// what they were promised. A promise on the mean time of a token (TPOT) is a deadline for each of them:
// token k of an answer k - 1 times that after the first. All answers go on in every step, and prompts
// get the time that is left until the first of these deadlines: a lot while answers are ahead, little
// where one has just begun.
//
// Requests that have missed their promise, or are too far behind, cannot be helped by others waiting
// for them. They rest while time is short, for a few tokens' time at most.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "text/decoder.h"

namespace weft::serve::semi_pd {

struct Promises {
  double ttft_s = 0, tpot_s = 0;
  double longest_gap_s = 0;   // between two tokens, on account of prompts
  double longest_rest_s = 0;  // the same, for those out of reach
};

struct AnswerAge {
  text::RequestId id = 0;
  double ttft_s = 0;         // as it was
  double since_first_s = 0;  // tokens
  double since_last_s = 0;
  size_t tokens = 1;  // so far
};

// It has missed a promise, or could meet it only by a long row of quick tokens.
bool is_out_of_reach(const Promises& promises, const AnswerAge& answer);

struct StepTimes {
  double prompt_token_s = 0;
  double answers_s = 0;           // a step of all answers
  double answers_in_reach_s = 0;  // of those in reach alone
};

struct StepShare {
  size_t prompt_tokens = 0;  // at least 1
  std::vector<text::RequestId> resting;
};

// `prompts_in_time`: prompts wait that can still keep their promise. At most `chunk_tokens`.
StepShare share_step(const Promises& promises, std::span<const AnswerAge> answers,
                     const StepTimes& times, bool prompts_in_time, size_t chunk_tokens);

}  // namespace weft::serve::semi_pd
