// A model's own answers, made into a set, and answered from again.
#include "text/vocabtailor/calibrate_vocab.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "base/error.h"
#include "text/test_model.h"
#include "text/vocabtailor/vocab_set.h"

namespace weft::text {
namespace {

const TextModel& model() {
  static const TextModel loaded = load_random_model(
      {.context = 128, .head = models::HeadLoading::kWhenNeeded}, "tiny-wide", 1);
  return loaded;
}

std::vector<std::vector<Token>> prompts() {
  std::vector<std::vector<Token>> out;
  for (int i = 0; i < 24; ++i)
    out.push_back(model().encode_prompt("question " + std::to_string(i * 37 % 24) + " is it so?"));
  return out;
}

TEST(calibrate_vocab, the_same_data_gives_the_same_bytes) {
  const auto all = prompts();
  const auto make = [&](size_t threads, size_t batch) {
    ThreadPool pool(threads);
    const auto documents = answer_prompts(model(), all, {.max_tokens = 16, .samples = 1, .batch = batch},
                                          pool.cores());
    EXPECT_EQ(documents.size(), 48u);
    return calibrate_vocab(model(), documents, all.size(), {.name = "same", .source = "test"},
                           pool.cores());
  };
  const Calibration first = make(1, 8);
  EXPECT_EQ(to_json(first.profile), to_json(make(2, 3).profile));
  EXPECT_EQ(first.profile.documents, 36u) << "three quarters of 24 prompts, two answers each";
  EXPECT_NO_THROW(parse_profile(to_json(first.profile), "made"));
}

TEST(calibrate_vocab, coverage_grows_with_the_set_and_tells_what_answers_will_do) {
  const auto all = prompts();
  const auto documents = answer_prompts(model(), all, {.max_tokens = 16}, CoreSet());
  const Calibration made = calibrate_vocab(model(), documents, all.size(),
                                           {.tolerance = 0, .held_out_share = 0.5}, CoreSet());
  double before = 0;
  for (const CoveragePoint& point : made.profile.curve) {
    EXPECT_GE(point.step_coverage, before);
    EXPECT_LE(point.mass_p1, point.mass_mean + 1e-9);
    EXPECT_LE(point.mass_mean, 1 + 1e-9);
    before = point.step_coverage;
  }
  // The last size is the whole list, and tolerance 0 keeps all of it.
  const CoveragePoint& whole = made.profile.curve.back();
  ASSERT_EQ(whole.size, made.profile.ids.size());
  const auto head = model().make_vocab_head(&made.profile, CoreSet());
  size_t identical = 0, held_out = 0;
  for (size_t i = 1; i < all.size(); i += 2, ++held_out) {
    const auto decoder = model().make_decoder(CoreSet());
    decoder->start(1, {.prompt = all[i],
                       .sampling = {.temperature = 0},
                       .max_tokens = 16,
                       .vocab = {.mode = VocabMode::kHybrid, .head = head}});
    std::vector<Token> answer;
    while (answer.size() < documents[i].answer.size())
      for (const DecodedToken& token : decoder->step({})) answer.push_back(token.sampled.token);
    identical += answer == documents[i].answer ? 1 : 0;
  }
  EXPECT_DOUBLE_EQ(static_cast<double>(identical) / static_cast<double>(held_out),
                   whole.documents_without_miss);
}

TEST(calibrate_vocab, a_set_for_whole_answers_is_the_same_each_time_and_holds_what_was_promised) {
  const auto all = prompts();
  const auto make = [&](size_t threads, size_t batch) {
    ThreadPool pool(threads);
    const auto documents = answer_prompts(
        model(), all, {.max_tokens = 6, .samples = 1, .batch = batch, .runner_ups = kRunnerUps},
        pool.cores());
    return calibrate_vocab(model(), documents, all.size(), {.answers = 0.95}, pool.cores());
  };
  const Calibration made = make(1, 8);
  EXPECT_EQ(to_json(made.profile), to_json(make(2, 3).profile));
  EXPECT_EQ(made.tried, all.size());
  const VocabProfile& profile = made.profile;
  ASSERT_EQ(made.recommended_size, profile.ids.size());
  const auto at = std::find_if(profile.curve.begin(), profile.curve.end(),
                               [&](const auto& point) { return point.size == profile.ids.size(); });
  ASSERT_NE(at, profile.curve.end());
  if (made.reached)
    EXPECT_GE(at->documents_without_miss, 0.95);
  else
    EXPECT_LT(at->documents_without_miss, 0.95);
  const VocabProfile read = parse_profile(to_json(profile), "made");
  EXPECT_EQ(read.answers, 0.95);
  EXPECT_EQ(to_json(read), to_json(profile));
  // More than was said: the rest is what was plausible.
  EXPECT_GT(std::count(profile.df.begin(), profile.df.end(), 0u), 0);
}

// A token that the chosen scripts have not is in no size of the set.
TEST(calibrate_vocab, a_promise_that_the_tokens_cannot_keep_is_not_made) {
  const auto all = prompts();
  auto documents = answer_prompts(model(), all, {.max_tokens = 4}, CoreSet());
  const formats::Tokenizer& tokenizer = model().tokenizer();
  const std::vector<uint32_t> required = required_tokens(tokenizer, model().chat_template_text());
  Token foreign = 0;
  const auto is_foreign = [&](Token token) {
    const std::string piece = tokenizer.piece(token);
    return !std::binary_search(required.begin(), required.end(), static_cast<uint32_t>(token)) &&
           std::any_of(piece.begin(), piece.end(), [](char c) { return (c & 0x80) != 0; });
  };
  while (!is_foreign(foreign)) ASSERT_LT(static_cast<size_t>(++foreign), tokenizer.vocab_size());
  for (TaskDocument& document : documents) document.answer.push_back(foreign);
  CalibrateOptions options;
  options.answers = 0.9;
  EXPECT_TRUE(calibrate_vocab(model(), documents, all.size(), options, CoreSet()).reached);
  options.scripts = {"thai"};
  const Calibration made = calibrate_vocab(model(), documents, all.size(), options, CoreSet());
  EXPECT_FALSE(made.reached);
  EXPECT_EQ(made.recommended_size, made.profile.ids.size());
}

TEST(calibrate_vocab, runner_ups_are_probabilities_of_what_might_have_been_said) {
  const auto all = prompts();
  const std::vector<TaskDocument> documents =
      answer_prompts(model(), std::span(all).first(4),
                     {.max_tokens = 5, .samples = 1, .runner_ups = 3}, CoreSet());
  ASSERT_EQ(documents.size(), 8u);
  for (const TaskDocument& document : documents) {
    double sum = 0;
    for (const TokenShare& share : document.plausible) sum += share.probability;
    EXPECT_LE(sum, static_cast<double>(document.answer.size()) * (1 + 1e-5));
    for (const Token said : document.answer)
      EXPECT_TRUE(std::any_of(document.plausible.begin(), document.plausible.end(),
                              [&](const TokenShare& share) { return share.token == said; }));
  }
  // Three runner-ups at most of each step of a greedy answer, the one that was said among them.
  EXPECT_LE(documents[0].plausible.size(), 3 * documents[0].answer.size());
}

TEST(calibrate_vocab, a_promise_needs_different_prompts) {
  const auto all = prompts();
  std::vector<std::vector<Token>> repeated;
  for (size_t i = 0; i < 24; ++i) repeated.push_back(all[i % 8]);
  const auto documents = answer_prompts(model(), repeated, {.max_tokens = 2}, CoreSet());
  try {
    calibrate_vocab(model(), documents, repeated.size(), {.answers = 0.9}, CoreSet());
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("8 different prompts"), std::string::npos)
        << error.what();
    EXPECT_NE(std::string(error.what()).find("at least 9"), std::string::npos) << error.what();
  }
  EXPECT_THROW(calibrate_vocab(model(), documents, repeated.size(), {.answers = 1}, CoreSet()),
               Error);
}

TEST(calibrate_vocab, needs_some_documents) {
  const auto all = prompts();
  const auto documents =
      answer_prompts(model(), std::span(all).first(2), {.max_tokens = 2}, CoreSet());
  EXPECT_THROW(calibrate_vocab(model(), documents, 2, {}, CoreSet()), Error);
}

// Before anything is answered: that takes minutes.
TEST(calibrate_vocab, too_few_prompts_are_known_from_their_number) {
  EXPECT_NO_THROW(check_enough(4, 1, {}));
  EXPECT_THROW(check_enough(3, 3, {}), Error);
  EXPECT_NO_THROW(check_enough(99, 99, {.answers = 0.99}));
  EXPECT_THROW(check_enough(200, 98, {.answers = 0.99}), Error);
  EXPECT_THROW(check_enough(200, 200, {.answers = 1}), Error);
}

}  // namespace
}  // namespace weft::text
