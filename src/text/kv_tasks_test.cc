#include "text/kv_tasks.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "text/test_model.h"

namespace weft::text {
namespace {

const TextModel& model() {
  static const TextModel loaded = load_random_model({.context = 512});
  return loaded;
}

constexpr KvTaskOptions kSmall{.context_tokens = 300, .num_contexts = 2, .questions = 3};

TEST(kv_tasks, contexts_hold_the_answers_and_have_the_length_that_was_asked_for) {
  const formats::Tokenizer& tokenizer = model().tokenizer();
  for (const KvTask task : {KvTask::kNeedle, KvTask::kSums}) {
    std::set<std::string> texts;
    for (size_t context = 0; context < 3; ++context) {
      const KvTaskContext c = make_kv_task(task, tokenizer, {.context_tokens = 1000}, context);
      EXPECT_EQ(make_kv_task(task, tokenizer, {.context_tokens = 1000}, context).text, c.text);
      EXPECT_TRUE(texts.insert(c.text).second) << "the same text twice";
      EXPECT_EQ(c.questions.size(), 8u);
      if (task != KvTask::kNeedle) continue;
      for (const KvQuestion& q : c.questions) {
        const size_t at = q.question.find("The secret code of");
        const std::string said = q.question.substr(at) + " " + q.answer + ".";
        EXPECT_NE(c.text.find(said), std::string::npos) << said;
      }
    }
  }
}

TEST(kv_tasks, sums_are_what_they_are) {
  const KvTaskContext c = make_kv_task(KvTask::kSums, model().tokenizer(), kSmall, 0);
  ASSERT_EQ(c.questions.size(), 3u);
  for (const KvQuestion& q : c.questions) {
    int sum = 0;
    for (size_t at = 0; at < q.question.size(); ++at)
      if (q.question[at] >= '0' && q.question[at] <= '9') sum += q.question[at] - '0';  // one digit
    EXPECT_EQ(q.answer, fmt::format("The answer is {}.", sum)) << q.question;
  }
}

TEST(kv_tasks, only_the_answer_itself_is_right) {
  const KvQuestion code{.question = "", .answer = "4711"};
  EXPECT_TRUE(is_right(KvTask::kNeedle, code, " 4711."));
  EXPECT_TRUE(is_right(KvTask::kNeedle, code, "4711"));
  for (const char* wrong : {"", " ", " 471", " 47112", " is 4711", " 4712"})
    EXPECT_FALSE(is_right(KvTask::kNeedle, code, wrong)) << wrong;
  const KvQuestion sum{.question = "", .answer = "The answer is 16."};
  EXPECT_TRUE(is_right(KvTask::kSums, sum, " 9 + 7 = 16. The answer is 16."));
  EXPECT_FALSE(is_right(KvTask::kSums, sum, " 9 + 7 = 16. The answer is 160."));
}

// Agresti and Coull 1998, table: 0 of 10 gives 0 to 0.2775, 8 of 10 gives 0.490 to 0.943.
TEST(kv_tasks, intervals) {
  EXPECT_EQ(wilson(0, 10).low, 0);
  EXPECT_NEAR(wilson(0, 10).high, 0.2775, 1e-4);
  EXPECT_NEAR(wilson(8, 10).low, 0.4902, 1e-4);
  EXPECT_NEAR(wilson(8, 10).high, 0.9433, 1e-4);
  EXPECT_EQ(wilson(0, 0).high, 1);
  const std::vector<double> same(12, 0.25);
  EXPECT_EQ(bootstrap_mean(same, 4, 1).low, 0.25);
  EXPECT_EQ(bootstrap_mean(same, 4, 1).high, 0.25);
  // 100 independent values of variance 1/4: the mean's 95 % are +- 1.96 * 0.05; 2000 draws give that to
  // some 5 %. In groups of ten equal ones, sqrt(10) times as much.
  std::vector<double> coin(100), groups(100);
  for (size_t i = 0; i < 100; ++i) {
    coin[i] = static_cast<double>(i % 2);
    groups[i] = static_cast<double>(i / 10 % 2);
  }
  const Interval a = bootstrap_mean(coin, 1, 7), b = bootstrap_mean(groups, 10, 7);
  EXPECT_NEAR((a.high - a.low) / 2, 0.098, 0.012);
  EXPECT_NEAR((b.high - b.low) / 2, 0.31, 0.04);
}

// A method that is 16 bit under another name answers as 16 bit does, question by question.
TEST(kv_tasks, methods_answer_the_same_questions) {
  const std::vector<ReplayMethod> methods = {
      {.name = "again"},
      {.name = "direct 2", .policy = {.mode = KvMode::kDirect, .widths = {2, 2}}}};
  KvTaskOptions options = kSmall;
  options.context_tokens = 260;
  const auto run = [&] {
    return run_kv_task(model().model(), model().tokenizer(), KvTask::kSums, methods, options,
                       CoreSet());
  };
  const auto results = run();
  ASSERT_EQ(results.size(), 3u);
  for (const KvTaskResult& r : results) EXPECT_EQ(r.right.size(), 6u);
  EXPECT_EQ(results[0].right, results[1].right);
  EXPECT_LT(results[2].peak_bytes, results[0].peak_bytes);
  options.context_tokens = 100000;
  EXPECT_THROW(run(), Error);
}

}  // namespace
}  // namespace weft::text
