#include "bench/serve_load.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "base/error.h"

namespace weft::bench {
namespace {

double cv_of_gaps(const std::vector<LoadRequest>& load) {
  double sum = 0, squares = 0;
  for (size_t i = 1; i < load.size(); ++i) {
    const double gap = load[i].arrival_s - load[i - 1].arrival_s;
    EXPECT_GE(gap, 0);
    sum += gap;
    squares += gap * gap;
  }
  const auto n = static_cast<double>(load.size() - 1);
  return std::sqrt(squares / n - sum / n * (sum / n)) / (sum / n);
}

TEST(serve_load, arrivals_have_the_rate_and_the_burstiness) {
  for (const double cv : {1.0, 2.0}) {
    const auto load = make_load({.rate = 5, .arrival_cv = cv, .count = 20000});
    EXPECT_NEAR(20000 / load.back().arrival_s, 5, 0.15);
    EXPECT_NEAR(cv_of_gaps(load), cv, 0.1);
  }
}

TEST(serve_load, chats_have_the_mean_of_sharegpt) {
  double prompts = 0;
  const auto load = make_load({.shape = "chat", .max_tokens = 1 << 20, .count = 20000});
  for (const LoadRequest& request : load) prompts += static_cast<double>(request.prompt_tokens);
  EXPECT_NEAR(prompts / 20000, 246, 10);  // 120 exp(1.2^2 / 2)
}

TEST(serve_load, a_rate_changes_arrivals_alone) {
  const auto slow = make_load({.rate = 1}), fast = make_load({.rate = 10});
  ASSERT_EQ(slow.size(), 100u);
  for (size_t i = 0; i < slow.size(); ++i) {
    EXPECT_EQ(slow[i].prompt_tokens, fast[i].prompt_tokens);
    EXPECT_NEAR(slow[i].arrival_s, 10 * fast[i].arrival_s, 1e-9);
    EXPECT_LE(slow[i].prompt_tokens + slow[i].answer_tokens, 4096u);
  }
}

TEST(serve_load, traces_are_read_in_both_forms) {
  const std::string azure = ::testing::TempDir() + "azure.csv";
  std::ofstream(azure) << "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,480,10\n"
                          "2023-11-16 18:17:04,7,8\n";
  auto load = make_load({.trace = azure, .divide_lengths = 2, .count = 2, .seed = 0});
  EXPECT_EQ(load[0].prompt_tokens, 240u);
  EXPECT_EQ(load[1].answer_tokens, 4u);
  const std::string mooncake = ::testing::TempDir() + "mooncake.jsonl";
  std::ofstream(mooncake) << R"({"timestamp": 0, "input_length": 6758, "output_length": 500})" << "\n";
  load = make_load({.trace = mooncake, .max_tokens = 8192, .count = 3});
  EXPECT_EQ(load[2].prompt_tokens, 6758u);
  std::ofstream(azure, std::ios::app) << "nonsense\n";
  EXPECT_THROW(make_load({.trace = azure}), Error);
  EXPECT_THROW(make_load({.trace = "no such file"}), Error);
  EXPECT_THROW(make_load({.shape = "no such shape"}), Error);
}

}  // namespace
}  // namespace weft::bench
