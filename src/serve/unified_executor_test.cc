// The unified executor's promises: what a request answers does not depend on its company, on how
// prompts are cut or on requests that had to make room, and every job ends exactly once.
#include "serve/unified_executor.h"

#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "serve/test_model.h"

namespace weft::serve {
namespace {

constexpr auto kLong = std::chrono::seconds(60);  // turns a hang into a failure

struct Answer {
  std::vector<text::Token> tokens;
  std::optional<text::FinishReason> finished;
  std::optional<Error> error;
};

std::shared_ptr<Job> make_job(size_t number, size_t prompt_tokens, size_t max_tokens) {
  auto job = std::make_shared<Job>();
  job->id = new_request_id();
  for (size_t t = 0; t < prompt_tokens; ++t)
    job->decode.prompt.push_back(static_cast<text::Token>((t * t * 7 + t * 3 + number * 11) % 200));
  job->decode.sampling.temperature = number % 2 == 0 ? 0.0f : 1.1f;
  job->decode.sampling.repetition_penalty = number % 3 == 0 ? 1.2f : 1.0f;
  job->decode.sampling.seed = number;
  job->decode.max_tokens = max_tokens;
  job->stop_at_end = false;
  job->prompt_tokens = prompt_tokens;
  job->answers = std::make_shared<AnswerQueue>();
  return job;
}

std::vector<std::shared_ptr<Job>> make_jobs(size_t count) {
  std::vector<std::shared_ptr<Job>> jobs;
  for (size_t i = 0; i < count; ++i) jobs.push_back(make_job(i, 1 + i * 17 % 150, 3 + i * 5 % 40));
  return jobs;
}

Answer collect(const Job& job) {
  Answer answer;
  std::vector<AnswerEvent> events;
  const Clock::time_point deadline = Clock::now() + kLong;
  while (!answer.finished && Clock::now() < deadline) {
    job.answers->wait(events, std::chrono::seconds(1));
    for (const AnswerEvent& event : events) {
      EXPECT_FALSE(answer.finished) << "an event after the end";
      if (event.token) answer.tokens.push_back(event.token->token);
      if (event.finished) {
        answer.finished = event.finished;
        answer.error = event.error;
      }
    }
  }
  EXPECT_TRUE(answer.finished) << "the job never ended";
  return answer;
}

std::vector<Answer> one_at_a_time(size_t count) {
  const auto served = serve_test_model();
  std::vector<Answer> answers;
  for (const auto& job : make_jobs(count)) {
    served->submit(job);
    answers.push_back(collect(*job));
  }
  return answers;
}

std::vector<Answer> all_at_once(size_t count, const TestModelOptions& options, Metrics const** metrics,
                                std::unique_ptr<ServedModel>& served) {
  served = serve_test_model(options);
  if (metrics != nullptr) *metrics = &served->executor().metrics();
  const auto jobs = make_jobs(count);
  for (const auto& job : jobs) served->submit(job);
  std::vector<Answer> answers;
  for (const auto& job : jobs) answers.push_back(collect(*job));
  return answers;
}

TEST(phase, token_exact) {
  constexpr size_t kCount = 24;
  const std::vector<Answer> alone = one_at_a_time(kCount);
  for (const UnifiedPolicy policy :
       {UnifiedPolicy::kChunked, UnifiedPolicy::kPrefillFirst, UnifiedPolicy::kDecodeFirst}) {
    for (const size_t chunk : {size_t{7}, size_t{64}, size_t{512}}) {
      std::unique_ptr<ServedModel> served;
      const auto together = all_at_once(
          kCount, {.executor = {.policy = policy, .chunk_tokens = chunk}}, nullptr, served);
      for (size_t i = 0; i < kCount; ++i) {
        EXPECT_EQ(together[i].tokens, alone[i].tokens)
            << "request " << i << ", policy " << static_cast<int>(policy) << ", chunk " << chunk;
        EXPECT_EQ(together[i].finished, text::FinishReason::kLength);
      }
    }
  }
}

// Far too little room for all: requests take turns, and nobody's answer shows it.
TEST(phase, retract_exact) {
  constexpr size_t kCount = 24;
  const std::vector<Answer> alone = one_at_a_time(kCount);
  const Metrics* metrics = nullptr;
  std::unique_ptr<ServedModel> served;
  const auto squeezed = all_at_once(
      kCount, {.executor = {.chunk_tokens = 32}, .kv_tokens = 288}, &metrics, served);
  for (size_t i = 0; i < kCount; ++i)
    EXPECT_EQ(squeezed[i].tokens, alone[i].tokens) << "request " << i;
  EXPECT_GT(metrics->preemptions.load(), 0u) << "the test did not squeeze anybody";
}

TEST(phase, cancel_ends_a_job_once_wherever_it_is) {
  const auto served = serve_test_model({.executor = {.max_running = 2}});
  std::vector<std::shared_ptr<Job>> jobs;
  for (size_t i = 0; i < 8; ++i) jobs.push_back(make_job(i, 100, 100));
  for (const auto& job : jobs) served->submit(job);
  for (size_t i = 0; i < jobs.size(); i += 2) served->cancel(*jobs[i]);
  for (size_t i = 0; i < jobs.size(); ++i) {
    const Answer answer = collect(*jobs[i]);
    if (i % 2 == 0)
      EXPECT_EQ(answer.finished, text::FinishReason::kCancelled) << i;
    else
      EXPECT_EQ(answer.tokens.size(), 100u) << i;
  }
  EXPECT_TRUE(served->jobs().empty());
}

TEST(unified_executor, a_full_queue_refuses) {
  const auto served = serve_test_model({.executor = {.max_running = 1, .max_queued = 4}});
  std::vector<std::shared_ptr<Job>> taken;
  size_t refused = 0;
  for (size_t i = 0; i < 32; ++i) {
    auto job = make_job(i, 120, 100);
    try {
      served->submit(job);
      taken.push_back(job);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kOutOfResources);
      ++refused;
    }
  }
  EXPECT_GT(refused, 0u);
  for (const auto& job : taken) EXPECT_EQ(collect(*job).tokens.size(), 100u);
}

TEST(unified_executor, its_end_cancels_what_is_left) {
  auto served = serve_test_model();
  const auto job = make_job(1, 100, 150);
  served->submit(job);
  served.reset();
  EXPECT_EQ(collect(*job).finished, text::FinishReason::kCancelled);
}

TEST(unified_executor, a_request_that_cannot_start_fails_alone) {
  const auto served = serve_test_model();
  const auto bad = make_job(0, 10, 5);
  bad->decode.prompt[3] = 1 << 20;
  const auto good = make_job(1, 10, 5);
  served->submit(bad);
  served->submit(good);
  const Answer failed = collect(*bad);
  ASSERT_TRUE(failed.error);
  EXPECT_EQ(failed.error->kind(), ErrorKind::kInvalidInput);
  EXPECT_EQ(collect(*good).tokens.size(), 5u);
}

TEST(unified_executor, a_stall_bound_cuts_prompts_while_answers_run) {
  const auto served = serve_test_model({.executor = {.chunk_tokens = 256, .max_stall_s = 1e-6}});
  const auto answer = make_job(1, 4, 120);
  const auto prompt = make_job(2, 200, 4);
  served->submit(answer);
  std::vector<AnswerEvent> events;
  ASSERT_TRUE(answer->answers->wait(events, kLong));  // it decodes
  served->submit(prompt);
  collect(*answer);
  // Whole, the prompt would be read in one step; one token at a time, it is not done when the answer
  // is: 200 tokens, at most 120 steps.
  EXPECT_EQ(prompt->generated.load(), 0u);
  EXPECT_EQ(collect(*prompt).tokens.size(), 4u);
}

}  // namespace
}  // namespace weft::serve
