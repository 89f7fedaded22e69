#include "bench/vocab_tasks.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "base/error.h"
#include "bench/bench.h"

namespace weft::bench {
namespace {

TEST(vocab_tasks, are_the_same_for_a_seed_and_differ_within_a_task) {
  constexpr size_t kMany = 440;  // what the bench takes
  const auto tasks = vocab_tasks(kMany, 1), again = vocab_tasks(kMany, 1),
             other = vocab_tasks(kMany, 2);
  ASSERT_EQ(tasks.size(), 5u);
  for (size_t i = 0; i < tasks.size(); ++i) {
    EXPECT_EQ(tasks[i].prompts, again[i].prompts);
    EXPECT_NE(tasks[i].prompts, other[i].prompts);
    const std::set<std::string> distinct(tasks[i].prompts.begin(), tasks[i].prompts.end());
    EXPECT_EQ(distinct.size(), kMany) << tasks[i].name;
    EXPECT_EQ(tasks[i].name, vocab_task_names()[i]);
  }
}

TEST(vocab_tasks, the_bench_refuses_parts_that_it_does_not_have) {
  BenchOptions options;
  options.models = {"is/not/looked/at.gguf"};
  options.vocab.only = {"head", "heads"};
  try {
    run_vocab(options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("'heads'"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("first-token"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace weft::bench
