#include "tasks/reason.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "base/error.h"

namespace weft::tasks {
namespace {

struct Texts {
  std::string prompt, completion;
};
Texts texts(const ReasonProblem& problem, uint64_t seed, uint64_t index) {
  const ReasonPieces pieces = write_reason(problem, seed, index);
  return {join_pieces(pieces.prompt), join_pieces(pieces.completion)};
}

ReasonProblem example() {
  return {.modulus = 100,
          .first_name = 6,
          .start = 47,
          .steps = {{'+', 12, {}}, {'*', 3, {}}, {'-', 59, 1}}};
}

TEST(reason, the_text_is_what_the_header_shows) {
  const Texts said = texts(example(), 1, 2);
  EXPECT_EQ(said.prompt, "Let g = 47, h = g + 12, i = h * 03, j = i - h. Find j mod 100.");
  EXPECT_TRUE(same_meaning(said.completion.substr(0, said.completion.find('\n')),
                           "Hence h = 47 + 12 yields 59."));
  EXPECT_EQ(said.completion.substr(said.completion.rfind('\n') + 1), "Answer 18.");
}

TEST(reason, problem_to_text_and_back) {
  for (const ReasonLevel level : kReasonLevels)
    for (const unsigned modulus : {100u, 1000u})
      for (uint64_t index = 0; index < 200; ++index) {
        ReasonOptions options = options_of(level);
        options.modulus = modulus;
        const ReasonProblem problem = make_reason(options, ReasonSplit::kTrain, 3, index);
        ASSERT_GE(problem.steps.size(), options.min_steps);
        ASSERT_LE(problem.steps.size(), options.max_steps);
        const Texts said = texts(problem, 3, index);
        const std::optional<ReasonProblem> read = parse_reason(said.prompt);
        ASSERT_TRUE(read) << said.prompt;
        EXPECT_EQ(texts(*read, 3, index).prompt, said.prompt);
        EXPECT_EQ(read->values(), problem.values());
        const ReasonVerdict verdict = check_reason(*read, said.completion);
        EXPECT_TRUE(verdict.right && verdict.finished) << said.completion;
        EXPECT_EQ(verdict.right_steps, problem.steps.size());
      }
}

TEST(reason, depends_on_its_arguments_alone) {
  const ReasonOptions options = options_of(ReasonLevel::kMedium);
  std::set<std::string> prompts;
  for (uint64_t index = 0; index < 300; ++index) {
    const Texts once = texts(make_reason(options, ReasonSplit::kTest, 7, index), 7, index);
    const Texts again = texts(make_reason(options, ReasonSplit::kTest, 7, index), 7, index);
    EXPECT_EQ(once.prompt, again.prompt);
    EXPECT_EQ(once.completion, again.completion);
    prompts.insert(once.prompt);
    prompts.insert(texts(make_reason(options, ReasonSplit::kTest, 8, index), 8, index).prompt);
  }
  EXPECT_EQ(prompts.size(), 600u);
  // As it always was: the committed models were trained on these.
  EXPECT_EQ(
      texts(make_reason(options_of(ReasonLevel::kEasy), ReasonSplit::kTrain, 1, 0), 1, 0).prompt,
      "Let c = 90, d = c - 90, e = d - 63, f = e + 56, g = f + 65. Find g mod 100.");
}

// By what the problem is, however it is named and worded: a test problem written with other names
// is a test problem.
TEST(reason, no_training_problem_is_a_test_problem) {
  ReasonOptions few{.operators = "+", .min_steps = 1, .max_steps = 1};
  std::set<std::pair<unsigned, unsigned>> split[2];  // all 9,900 problems of one addition
  for (const ReasonSplit which : {ReasonSplit::kTrain, ReasonSplit::kTest})
    for (uint64_t index = 0; index < 20000; ++index) {
      const ReasonProblem problem = make_reason(few, which, 5, index);
      split[which == ReasonSplit::kTest].insert({problem.start, problem.steps[0].operand});
    }
  for (const auto& problem : split[1]) EXPECT_FALSE(split[0].contains(problem));
  EXPECT_GT(split[0].size(), 7500u);  // of 8,910 after 20,000 draws: 89 %
  EXPECT_NEAR(static_cast<double>(split[1].size()), 990, 100);

  for (uint64_t index = 0; index < 1000; ++index) {
    ReasonProblem problem =
        make_reason(options_of(ReasonLevel::kMixed), ReasonSplit::kTest, 5, index);
    problem.first_name = (problem.first_name + 1) % (kMaxReasonSteps - problem.steps.size() + 1);
    EXPECT_EQ(split_of(problem), ReasonSplit::kTest);
    EXPECT_EQ(split_of(*parse_reason(texts(problem, 9, 1).prompt)), ReasonSplit::kTest);
  }
}

TEST(reason, any_other_digit_is_wrong) {
  const ReasonProblem problem =
      make_reason(options_of(ReasonLevel::kMedium), ReasonSplit::kTest, 1, 1);
  const std::string right = texts(problem, 1, 1).completion;
  for (size_t i = 0; i < right.size(); ++i) {
    if (right[i] < '0' || right[i] > '9') continue;
    for (char digit = '0'; digit <= '9'; ++digit) {
      if (digit == right[i]) continue;
      std::string wrong = right;
      wrong[i] = digit;
      const ReasonVerdict verdict = check_reason(problem, wrong);
      const size_t line = static_cast<size_t>(std::count(right.begin(), right.begin() + i, '\n'));
      EXPECT_EQ(verdict.right_steps, line);
      EXPECT_EQ(verdict.right, line < problem.steps.size()) << wrong;  // the answer alone counts
      EXPECT_TRUE(verdict.finished);
    }
  }
}

TEST(reason, synonyms_mean_the_same_and_digits_do_not) {
  EXPECT_TRUE(same_meaning("So h = 47 + 12 gives 59.", "Next h = 47 + 12 is 59.\n"));
  EXPECT_FALSE(same_meaning("So h = 47 + 12 gives 59.", "So h = 47 + 12 gives 58."));
  EXPECT_FALSE(same_meaning("So h = 47 + 12 gives 59.", "So h = 47 - 12 gives 59."));
  EXPECT_FALSE(same_meaning("So h = 47 + 12 gives 59.", "So i = 47 + 12 gives 59."));
  EXPECT_FALSE(same_meaning("So h = 47 + 12 gives 59.", "So h = 47 + 12 gives"));
  EXPECT_TRUE(same_meaning("Answer 59.", "Answer 59.\n"));
  EXPECT_FALSE(same_meaning("Answer 59.", "Answer 5."));
  EXPECT_TRUE(same_meaning("neither", "neither"));
  EXPECT_FALSE(same_meaning("neither", "nor"));
}

TEST(reason, an_answer_must_be_the_last_line_and_whole) {
  const ReasonProblem problem = example();
  const std::string working =
      "So h = 47 + 12 gives 59.\nSo i = 59 * 03 gives 77.\n"
      "So j = 77 - 59 gives 18.\n";
  EXPECT_TRUE(check_reason(problem, working + "Answer 18.").right);
  EXPECT_TRUE(check_reason(problem, working + "Answer 18.\n").right);
  EXPECT_TRUE(check_reason(problem, "Answer 18.").right);  // without the working
  EXPECT_EQ(check_reason(problem, "Answer 18.").right_steps, 0u);
  for (const char* end : {"Answer 1", "Answer 18", "Answer 018.", "Answer 8.",
                          "Answer 18. Answer 18.", "Answer 18.\nAnswer 18.", "answer 18.",
                          "Answer  18.", "18.", "", "Answer 18.\nSo j = 77 - 59 gives 18."})
    EXPECT_FALSE(check_reason(problem, working + end).right) << end;
  EXPECT_TRUE(check_reason(problem, working + "Answer 81.").finished);
  EXPECT_FALSE(check_reason(problem, working).finished);
  EXPECT_EQ(check_reason(problem, working).right_steps, 3u);
}

TEST(reason, other_prompts_are_no_problems) {
  for (const char* prompt :
       {"", "Let", "Let g = 47. Find g mod 100.", "Let g = 47, h = g + 12. Find h mod 1000.",
        "Let g = 47, h = g + 12. Find g mod 100.", "Let g = 47, i = g + 12. Find i mod 100.",
        "Let g = 47, h = g / 12. Find h mod 100.", "Let g = 47, h = g + h. Find h mod 100.",
        "Let g = 47, h = g + f. Find h mod 100.", "Let g = 47, h = g + 12. Find h mod 100. ",
        "Let g = 4, h = g + 1. Find h mod 10.", "Let cz = 47, da = cz + 12. Find da mod 100.",
        "Let g = 47, h = g + 123. Find h mod 100.", "Let g = 47,h = g + 12. Find h mod 100."})
    EXPECT_FALSE(parse_reason(prompt)) << prompt;
}

TEST(reason, mixed_has_a_long_tail) {
  size_t most = 0, total = 0;
  std::vector<size_t> lengths;
  for (uint64_t index = 0; index < 2000; ++index) {
    const ReasonProblem p =
        make_reason(options_of(ReasonLevel::kMixed), ReasonSplit::kTest, 1, index);
    lengths.push_back(write_reason(p, 1, index).completion.size());
    most = std::max(most, lengths.back());
    total += lengths.back();
  }
  std::sort(lengths.begin(), lengths.end());
  EXPECT_GT(most, 1400u);
  EXPECT_GT(total / lengths.size(), lengths[lengths.size() / 2] * 3 / 2);  // mean over median
}

struct BadOptions {
  const char* name;
  ReasonOptions options;
  const char* message;
};

TEST(reason, bad_options_are_named) {
  const BadOptions kBad[] = {
      {"modulus", {.modulus = 10}, "modulus is 10"},
      {"no steps", {.min_steps = 0}, "from 0 to 12 steps"},
      {"turned round", {.min_steps = 9, .max_steps = 8}, "from 9 to 8 steps"},
      {"too many", {.max_steps = 104}, "from 1 to 103"},
      {"no operators", {.operators = ""}, "operators are ''"},
      {"unknown operator", {.operators = "+/"}, "operators are '+/'"},
      {"operator twice", {.operators = "++"}, "each once"},
      {"factors", {.max_factor = 1}, "factors up to 1"},
      {"large factors", {.max_factor = 100}, "from 2 to 99"},
      {"links", {.link_share = 1.5}, "share of links is 1.5"},
  };
  for (const BadOptions& bad : kBad) {
    try {
      make_reason(bad.options, ReasonSplit::kTrain, 1, 1);
      ADD_FAILURE() << bad.name << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
      EXPECT_NE(std::string(error.what()).find(bad.message), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(reason_level("hard"), ReasonLevel::kHard);
  EXPECT_THROW(reason_level("harder"), Error);
  EXPECT_THROW(reason_split("dev"), Error);
}

TEST(reason, a_level_with_other_settings) {
  const ReasonOptions o =
      reason_options("mixed:steps=1-2:operators=+-:modulus=1000:links=0.5:factor=12");
  EXPECT_EQ(o.min_steps, 1U);
  EXPECT_EQ(o.max_steps, 2U);
  EXPECT_EQ(o.operators, "+-");
  EXPECT_EQ(o.modulus, 1000U);
  EXPECT_EQ(o.link_share, 0.5);
  EXPECT_EQ(o.max_factor, 12U);
  EXPECT_FALSE(o.many_short);
  EXPECT_EQ(reason_options("easy:steps=7").max_steps, 7U);
  EXPECT_EQ(reason_options("hard").min_steps, options_of(ReasonLevel::kHard).min_steps);
  for (const char* wrong :
       {"", "easier", "easy:", "easy:step=1", "easy:steps", "easy:steps=", "easy:steps=2-1",
        "easy:steps=1-", "easy:steps=1-2-3", "easy:steps=-1", "easy:steps=1-104",
        "easy:operators=/", "easy:operators=++", "easy:modulus=10", "easy:links=1.5",
        "easy:links=nan", "easy:factor=1", "easy:steps=99999999999999999999", ":steps=1"})
    EXPECT_THROW(reason_options(wrong), Error) << wrong;
}

}  // namespace
}  // namespace weft::tasks
