// Jobs for the tests of this room: prompts of the test model's tokens, and what becomes of them.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "serve/test_model.h"
#include "text/grammar/gbnf.h"

namespace weft::serve {

inline constexpr auto kLong = std::chrono::seconds(60);  // turns a hang into a failure

// TSan is a hundred times slower: tests that repeat one thing for many systems and requests repeat
// it less there, where races are looked for and not numbers.
#ifdef __SANITIZE_THREAD__
inline constexpr bool kSlow = true;
#else
inline constexpr bool kSlow = false;
#endif

struct Answer {
  std::vector<text::Token> tokens;
  std::vector<float> logprobs;  // each token's own, then those of the likeliest
  void add(const text::Sampled& sampled) {
    tokens.push_back(sampled.token);
    logprobs.push_back(sampled.logprob);
    for (const auto& likely : sampled.top) logprobs.push_back(likely.logprob);
  }
  std::optional<text::FinishReason> finished;
  std::optional<Error> error;
};

// An answer of this form never ends by itself. Its state moves with its request.
inline std::shared_ptr<const text::TokenFilter> endless_form() {
  static const auto model = load_test_model();
  return model->filters().get("endless", formats::LeadingSpace::kAsDecoded, [] {
    return text::grammar::parse_gbnf("root ::= (\"(\" [a-m]{3} \")\" | [n-z ])+");
  });
}

inline std::shared_ptr<Job> make_job(size_t number, size_t prompt_tokens, size_t max_tokens) {
  auto job = std::make_shared<Job>();
  job->id = new_request_id();
  for (size_t t = 0; t < prompt_tokens; ++t)
    job->decode.prompt.push_back(static_cast<text::Token>((t * t * 7 + t * 3 + number * 11) % 200));
  job->decode.sampling.temperature = number % 2 == 0 ? 0.0f : 1.1f;
  job->decode.sampling.repetition_penalty = number % 3 == 0 ? 1.2f : 1.0f;
  job->decode.sampling.seed = number;
  job->decode.max_tokens = max_tokens;
  if (number % 4 == 3) job->decode.filter = endless_form();
  if (number % 5 == 2) {
    job->decode.want_logprobs = true;
    job->decode.num_top_logprobs = 3;
  }
  job->stop_at_end = false;
  job->prompt_tokens = prompt_tokens;
  job->answers = std::make_shared<AnswerQueue>();
  return job;
}

inline std::vector<std::shared_ptr<Job>> make_jobs(size_t count) {
  std::vector<std::shared_ptr<Job>> jobs;
  for (size_t i = 0; i < count; ++i) jobs.push_back(make_job(i, 1 + i * 17 % 150, 3 + i * 5 % 40));
  return jobs;
}

inline Answer collect(const Job& job) {
  Answer answer;
  std::vector<AnswerEvent> events;
  const Clock::time_point deadline = Clock::now() + kLong;
  while (!answer.finished && Clock::now() < deadline) {
    job.answers->wait(events, std::chrono::seconds(1));
    for (const AnswerEvent& event : events) {
      EXPECT_FALSE(answer.finished) << "an event after the end";
      if (event.token) answer.add(*event.token);
      if (event.finished) {
        answer.finished = event.finished;
        answer.error = event.error;
      }
    }
  }
  EXPECT_TRUE(answer.finished) << "the job never ended";
  return answer;
}

inline std::vector<Answer> collect_all(const std::vector<std::shared_ptr<Job>>& jobs) {
  std::vector<Answer> answers;
  for (const auto& job : jobs) answers.push_back(collect(*job));
  return answers;
}

}  // namespace weft::serve
