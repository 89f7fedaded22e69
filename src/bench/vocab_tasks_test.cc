#include "bench/vocab_tasks.h"

#include <gtest/gtest.h>

#include <set>

namespace weft::bench {
namespace {

TEST(vocab_tasks, are_the_same_for_a_seed_and_differ_within_a_task) {
  const auto tasks = vocab_tasks(40, 1), again = vocab_tasks(40, 1), other = vocab_tasks(40, 2);
  ASSERT_EQ(tasks.size(), 5u);
  for (size_t i = 0; i < tasks.size(); ++i) {
    EXPECT_EQ(tasks[i].prompts, again[i].prompts);
    EXPECT_NE(tasks[i].prompts, other[i].prompts);
    const std::set<std::string> distinct(tasks[i].prompts.begin(), tasks[i].prompts.end());
    EXPECT_GT(distinct.size(), 25u) << tasks[i].name;
  }
}

}  // namespace
}  // namespace weft::bench
