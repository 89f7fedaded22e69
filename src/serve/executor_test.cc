// Every executor's promises: what a request answers does not depend on its company, on how prompts
// are cut, on who reads them or on requests that had to make room, and every job ends exactly once.
#include "serve/phase_executor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

#include "serve/test_jobs.h"

namespace weft::serve {
namespace {

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

// A request's end is told before its blocks are given back.
void expect_all_room_back(const ServedModel& served) {
  const Clock::time_point deadline = Clock::now() + kLong;
  ExecutorState state = served.executor().state();
  while (state.free_tokens != state.capacity_tokens && Clock::now() < deadline) {
    std::this_thread::yield();
    state = served.executor().state();
  }
  EXPECT_EQ(state.free_tokens, state.capacity_tokens) << "a block was lost";
}

struct System {
  std::string name;
  TestModelOptions options;
};

std::vector<System> all_systems() {
  std::vector<System> systems;
  for (const UnifiedPolicy policy :
       {UnifiedPolicy::kChunked, UnifiedPolicy::kPrefillFirst, UnifiedPolicy::kDecodeFirst})
    systems.push_back({"policy " + std::to_string(static_cast<int>(policy)),
                       {.executor = {.policy = policy}}});
  for (const char* partition : {"unified", "1:1", "1:1,strict", "2/2:0.35", "2/2:0.8", "2/2:4ms", "2/2:free"})
    systems.push_back({partition, {.partition = partition}});
  return systems;
}

TEST(phase, token_exact) {
  constexpr size_t kCount = kSlow ? 8 : 24;
  const std::vector<Answer> alone = one_at_a_time(kCount);
  for (System& system : all_systems()) {
    for (const size_t chunk : {size_t{7}, size_t{128}}) {
      if (kSlow && chunk == 7) continue;
      SCOPED_TRACE(system.name + ", chunk " + std::to_string(chunk));
      system.options.executor.chunk_tokens = chunk;
      std::unique_ptr<ServedModel> served;
      const auto together = all_at_once(kCount, system.options, nullptr, served);
      for (size_t i = 0; i < kCount; ++i) {
        EXPECT_EQ(together[i].tokens, alone[i].tokens) << "request " << i;
        EXPECT_EQ(together[i].logprobs, alone[i].logprobs) << "request " << i;
        EXPECT_EQ(together[i].finished, text::FinishReason::kLength);
      }
      EXPECT_EQ(served->executor().metrics().finished.load(), kCount);
    }
  }
}

// Far too little room for all: requests take turns, and nobody's answer shows it.
TEST(phase, retract_exact) {
  constexpr size_t kCount = kSlow ? 9 : 24;
  const std::vector<Answer> alone = one_at_a_time(kCount);
  for (System& system : all_systems()) {
    SCOPED_TRACE(system.name);
    system.options.executor.chunk_tokens = 32;
    system.options.kv_tokens = 288;
    const Metrics* metrics = nullptr;
    std::unique_ptr<ServedModel> served;
    const auto squeezed = all_at_once(kCount, system.options, &metrics, served);
    for (size_t i = 0; i < kCount; ++i)
      EXPECT_EQ(squeezed[i].tokens, alone[i].tokens) << "request " << i;
    for (size_t i = 0; i < kCount; ++i)
      EXPECT_EQ(squeezed[i].logprobs, alone[i].logprobs) << "request " << i;
    if (system.name == "policy 0") {
      EXPECT_GT(metrics->preemptions.load(), 0u) << "the test did not squeeze anybody";
    }
    expect_all_room_back(*served);
  }
}

// As above with keys and values in fewer bits: every executor, squeezed, gives the tokens that one
// request at a time gets.
TEST(phase, retract_exact_with_narrow_keys_and_values) {
  constexpr size_t kCount = kSlow ? 3 : 8;
  const auto make = [] {
    std::vector<std::shared_ptr<Job>> jobs;
    for (size_t i = 0; i < kCount; ++i)
      jobs.push_back(make_job(i, 200 + i * 29 % 150, kSlow ? 20 : 40));
    return jobs;
  };
  const size_t block_bytes = load_test_model()->memory_plan().kv_bytes / (256 / kernels::kPageTokens);
  const text::KvPolicyOptions policies[] = {
      {.mode = text::KvMode::kDirect, .widths = {4, 4}},
      {.mode = text::KvMode::kProgressive, .widths = {2, 2}, .budget_bytes = 12 * block_bytes}};
  for (const text::KvPolicyOptions& kv : policies) {
    TestModelOptions options{.kv_tokens = 12 * kernels::kPageTokens,
                             .model = {.context = 400, .kv = kv}};
    std::vector<std::vector<text::Token>> alone;
    {
      const auto served = serve_test_model(options);
      for (const auto& job : make()) {
        served->submit(job);
        alone.push_back(collect(*job).tokens);
      }
    }
    for (const System& system : all_systems()) {
      if (kSlow && !system.options.partition && system.name != "policy 0") continue;
      SCOPED_TRACE(system.name);
      options.executor.policy = system.options.executor.policy;
      options.executor.chunk_tokens = 64;
      options.partition = system.options.partition;
      const auto served = serve_test_model(options);
      const auto jobs = make();
      for (const auto& job : jobs) served->submit(job);
      for (size_t i = 0; i < kCount; ++i)
        EXPECT_EQ(collect(*jobs[i]).tokens, alone[i]) << "request " << i;
      expect_all_room_back(*served);
    }
  }
}

// Where plain requests would be sent away and read again, narrower keys and values make the room.
TEST(executor, under_pressure_nobody_is_sent_away) {
  const auto run = [](const text::KvPolicyOptions& kv, size_t& preemptions, size_t& narrow_bytes) {
    const auto served = serve_test_model(
        {.executor = {.chunk_tokens = 64},
         .kv_tokens = 28 * kernels::kPageTokens,
         .model = {.context = 500, .kv = kv}});
    std::vector<std::shared_ptr<Job>> jobs;
    // 13 pages each at their start, 15 at their end.
    for (size_t i = 0; i < 2; ++i) jobs.push_back(make_job(4 * i, 390 + i, 80));
    for (const auto& job : jobs) served->submit(job);
    for (const auto& job : jobs) {
      const Answer answer = collect(*job);
      EXPECT_FALSE(answer.error) << answer.error->what();
      EXPECT_EQ(answer.tokens.size(), 80u);
      for (size_t i = 1; i < 4; ++i) narrow_bytes += job->kv_code_bytes[i].load();
    }
    preemptions = served->executor().metrics().preemptions.load();
    expect_all_room_back(*served);
  };
  size_t preemptions = 0, narrow_bytes = 0;
  run({}, preemptions, narrow_bytes);
  EXPECT_EQ(narrow_bytes, 0u);
  EXPECT_GT(preemptions, 0u) << "the test did not squeeze anybody";
  run({.mode = text::KvMode::kPressure, .widths = {2, 2}}, preemptions, narrow_bytes);
  EXPECT_EQ(preemptions, 0u);
  EXPECT_GT(narrow_bytes, 0u);
}

// The border between the phases moves all the time, to one loop and back too.
TEST(phase, token_exact_while_the_partition_changes) {
  constexpr size_t kCount = 48;
  const std::vector<Answer> alone = one_at_a_time(kCount);
  auto [served, executor] =
      serve_partitioned_test_model({.executor = {.chunk_tokens = 16}, .partition = "1:1"});
  const auto jobs = make_jobs(kCount);
  std::atomic<bool> done{false};
  std::thread mover([&, executor = executor] {
    auto partitions = semi_pd::all_partitions(2);
    partitions.push_back(semi_pd::by_steps(2, 0.004));
    for (size_t i = 0; !done.load(); ++i) {
      executor->apply(partitions[i % partitions.size()]);
      std::this_thread::yield();
    }
  });
  for (const auto& job : jobs) served->submit(job);
  for (size_t i = 0; i < kCount; ++i)
    EXPECT_EQ(collect(*jobs[i]).tokens, alone[i].tokens) << "request " << i;
  done.store(true);
  mover.join();
}

TEST(phase, cancel_ends_a_job_once_wherever_it_is) {
  for (System& system : all_systems()) {
    SCOPED_TRACE(system.name);
    system.options.executor.max_running = 2;
    const auto served = serve_test_model(system.options);
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
}

// The choices of one request read their prompt once.
TEST(phase, choices_share_their_prompt) {
  for (const System& system : all_systems()) {
    SCOPED_TRACE(system.name);
    const auto served = serve_test_model(system.options);
    std::vector<std::shared_ptr<Job>> jobs;
    for (size_t i = 0; i < 4; ++i) {
      jobs.push_back(make_job(1, 150, 20));
      jobs.back()->choice = i;
      jobs.back()->decode.random_stream = i;
      jobs.back()->answers = jobs.front()->answers;
    }
    for (const auto& job : jobs) served->submit(job);
    size_t ended = 0;
    std::vector<AnswerEvent> events;
    while (ended < 4 && jobs.front()->answers->wait(events, kLong))
      for (const AnswerEvent& event : events) ended += event.finished.has_value();
    EXPECT_EQ(ended, 4u);
    for (size_t i = 1; i < 4; ++i) EXPECT_EQ(jobs[i]->reused_tokens.load(), 128u) << i;
  }
}

TEST(executor, its_end_cancels_what_is_left) {
  for (const System& system : all_systems()) {
    SCOPED_TRACE(system.name);
    auto served = serve_test_model(system.options);
    const auto job = make_job(1, 100, 150), other = make_job(2, 100, 150);
    served->submit(job);
    served->submit(other);
    served.reset();
    EXPECT_EQ(collect(*job).finished, text::FinishReason::kCancelled);
    EXPECT_EQ(collect(*other).finished, text::FinishReason::kCancelled);
  }
}

TEST(executor, a_request_that_cannot_start_fails_alone) {
  for (const System& system : all_systems()) {
    SCOPED_TRACE(system.name);
    const auto served = serve_test_model(system.options);
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
}

TEST(executor, a_request_too_large_for_the_cache_fails_and_the_next_goes_on) {
  for (System& system : all_systems()) {
    SCOPED_TRACE(system.name);
    system.options.kv_tokens = 96;
    const auto served = serve_test_model(system.options);
    const auto large = make_job(0, 120, 5), good = make_job(1, 40, 20);
    served->submit(large);
    served->submit(good);
    EXPECT_TRUE(collect(*large).error);
    EXPECT_EQ(collect(*good).tokens.size(), 20u);
  }
}

// Two long prompts and a short one: the short one does not wait for both, unless all are too old for
// that.
TEST(phase, small_first_age_bound) {
  for (const bool small_first : {true, false}) {
    const auto served = serve_test_model(
        {.executor = {.chunk_tokens = 1, .order = {.small_first_until_s = small_first ? 1e6 : 0}}});
    const auto first = make_job(0, 200, 1), second = make_job(1, 200, 1), small = make_job(2, 5, 1);
    for (const auto& job : {first, second, small}) served->submit(job);
    for (const auto& job : {first, second, small}) collect(*job);
    EXPECT_EQ(small->first_token_s.load() < first->first_token_s.load(), small_first);
  }
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

}  // namespace
}  // namespace weft::serve
