#include "serve/semi_pd/promises.h"

#include <gtest/gtest.h>

namespace weft::serve::semi_pd {
namespace {

constexpr Promises kPromises{
    .ttft_s = 0.5, .tpot_s = 0.04, .longest_gap_s = 0.08, .longest_rest_s = 0.16};
constexpr StepTimes kTimes{.prompt_token_s = 0.001, .answers_s = 0.01, .answers_in_reach_s = 0.005};
constexpr size_t kChunk = 256;

// `ahead_s`: of the promised pace.
AnswerAge answer(text::RequestId id, double ahead_s, size_t tokens = 100) {
  return {.id = id,
          .ttft_s = 0.1,
          .since_first_s = kPromises.tpot_s * static_cast<double>(tokens) - ahead_s,
          .since_last_s = 0.001,
          .tokens = tokens};
}

StepShare share(std::vector<AnswerAge> answers, bool prompts_in_time = true) {
  return share_step(kPromises, answers, kTimes, prompts_in_time, kChunk);
}

TEST(promises, nobody_waits_for_prompts_that_are_read_alone) {
  EXPECT_EQ(share({}).prompt_tokens, kChunk);
}

TEST(promises, prompts_get_the_time_until_the_first_deadline) {
  // Far ahead: the longest gap counts. 80 ms - 1 since the last token - 10 for the answers.
  EXPECT_NEAR(static_cast<double>(share({answer(1, 3)}).prompt_tokens), 69, 1);
  // One is nearly due, 85 % of 40 ms a token: half a token's time, less the step.
  EXPECT_EQ(share({answer(1, 3), answer(2, 0.61)}).prompt_tokens, 16u);
  // The first deadline wins whatever the order.
  EXPECT_EQ(share({answer(2, 0.61), answer(1, 3)}).prompt_tokens, 16u);
}

TEST(promises, a_piece_is_never_so_small_that_it_is_wasted) {
  EXPECT_EQ(share({answer(1, -0.2)}).prompt_tokens, 16u);
  EXPECT_EQ(share_step(kPromises, std::vector{answer(1, 0)}, kTimes, true, 4).prompt_tokens, 4u);
}

TEST(promises, what_is_out_of_reach_rests_while_time_is_short) {
  AnswerAge late = answer(1, 1);
  late.ttft_s = 0.6;
  const AnswerAge behind = answer(2, -0.5), in_reach = answer(3, 1);
  EXPECT_TRUE(is_out_of_reach(kPromises, late));
  EXPECT_TRUE(is_out_of_reach(kPromises, behind));
  EXPECT_FALSE(is_out_of_reach(kPromises, in_reach));
  EXPECT_EQ(share({late, behind, in_reach}).resting, (std::vector<text::RequestId>{1, 2}));
  EXPECT_TRUE(share({late, behind, in_reach}, false).resting.empty()) << "there is time";
}

TEST(promises, nobody_rests_for_ever) {
  AnswerAge late = answer(1, 1);
  late.ttft_s = 0.6;
  late.since_last_s = kPromises.longest_rest_s;
  EXPECT_TRUE(share({late, answer(2, 1)}).resting.empty());
}

// Else a step would do nothing, again and again.
TEST(promises, somebody_goes_on) {
  AnswerAge late = answer(1, 1);
  late.ttft_s = 0.6;
  StepTimes slow = kTimes;
  slow.answers_s = 1;
  EXPECT_TRUE(share_step(kPromises, std::vector{late}, slow, false, kChunk).resting.empty());
}

}  // namespace
}  // namespace weft::serve::semi_pd
