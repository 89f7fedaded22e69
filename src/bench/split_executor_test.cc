#include "bench/split_executor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "bench/serve_run.h"
#include "formats/random_model.h"
#include "serve/unified_executor.h"

namespace weft::bench {
namespace {

struct RandomModel {
  RandomModel() {
    const auto path = std::filesystem::path(testing::TempDir()) /
                      ("weft_split_" + std::to_string(getpid()) + ".gguf");
    formats::write_random_model(path, "tiny", formats::quant_mix("q8_0"), 1, CoreSet());
    model.emplace(text::TextModel::load(path, {.context = 256}, CoreSet()));
    std::filesystem::remove(path);  // the map stays
  }
  std::optional<text::TextModel> model;
};

std::vector<LoadRequest> mixed_load() {
  std::vector<LoadRequest> load;
  for (size_t i = 0; i < 24; ++i)
    load.push_back({.prompt_tokens = 1 + i * 17 % 150, .answer_tokens = 3 + i * 5 % 40});
  return load;
}

LoadOutcome run(const text::TextModel& model, const SplitOptions& options,
                SplitCosts* costs = nullptr) {
  const auto executor = make_split_executor(model, options);
  const size_t vocab_size = model.model().config().vocab_size;
  LoadOutcome outcome = run_in_process(*executor, mixed_load(), vocab_size, 3, {});
  if (costs != nullptr) *costs = executor->copied();
  EXPECT_EQ(executor->metrics().finished.load() + executor->metrics().failed.load(), 24u);
  return outcome;
}

TEST(split, every_request_is_copied_once_and_answered) {
  const RandomModel random;
  SplitCosts costs;
  const LoadOutcome outcome = run(*random.model, {.kv_tokens = 8192, .chunk_tokens = 32}, &costs);
  for (const RequestOutcome& request : outcome.requests) EXPECT_TRUE(request.answered);
  EXPECT_EQ(costs.requests, 24u);
  EXPECT_GT(costs.bytes, 0u);
}

// Half of it holds one request of this load, or two short ones: they wait for each other, and none
// for ever.
TEST(split, with_little_room_requests_take_turns) {
  const RandomModel random;
  const LoadOutcome outcome = run(*random.model, {.kv_tokens = 2 * 192, .chunk_tokens = 32});
  for (const RequestOutcome& request : outcome.requests) EXPECT_TRUE(request.answered);
}

TEST(split, one_too_long_for_its_half_fails_alone) {
  const RandomModel random;
  const LoadOutcome outcome = run(*random.model, {.kv_tokens = 2 * 96, .chunk_tokens = 32});
  size_t answered = 0;
  for (const RequestOutcome& request : outcome.requests) answered += request.answered;
  EXPECT_GT(answered, 8u);
  EXPECT_LT(answered, 24u);
}

}  // namespace
}  // namespace weft::bench
