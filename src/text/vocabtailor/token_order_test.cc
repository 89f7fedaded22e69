#include "text/vocabtailor/token_order.h"

#include <gtest/gtest.h>

#include <string>

#include "text/grammar/test_tokenizer.h"

namespace weft::text {
namespace {

// Six words and an end token.
const formats::Tokenizer& tokenizer() {
  static const grammar::TestTokenizer made({"w0", "w1", "w2", "w3", "w4", "w5"}, 1);
  return made;
}

TEST(token_order, what_was_said_then_what_was_plausible_then_the_merges) {
  const std::vector<TokenCount> counted = {{.id = 4, .df = 2}, {.id = 1, .df = 1}};
  const std::vector<float> plausible = {0, 9, 0.25f, 0, 0, 0.5f, 1};
  EXPECT_EQ(order_tokens(counted, plausible, tokenizer()),
            (std::vector<uint32_t>{4, 1, 5, 2, 0, 3}))
      << "w1 and w4 were said; w5 is likelier than w2; w0 and w3 are merges; the end is in every "
         "set";
  const std::vector<float> none(tokenizer().vocab_size());
  EXPECT_EQ(order_tokens({}, none, tokenizer()), (std::vector<uint32_t>{0, 1, 2, 3, 4, 5}));
}

TEST(token_order, sizes_are_places_in_the_order) {
  const std::vector<uint32_t> order = {4, 1, 5}, always = {1, 2};
  const OrderedSizes sizes(order, always, 7);
  EXPECT_EQ(sizes.size_with(4), 1u);
  EXPECT_EQ(sizes.size_with(1), 0u) << "always there, wherever it stands";
  EXPECT_EQ(sizes.size_with(2), 0u);
  EXPECT_EQ(sizes.size_with(5), 3u);
  EXPECT_EQ(sizes.size_with(0), OrderedSizes::kNever);
}

TEST(token_order, few_answers_promise_little) {
  EXPECT_EQ(fewest_answers(0.5), 1u);
  EXPECT_EQ(fewest_answers(0.9), 9u);
  EXPECT_EQ(fewest_answers(0.95), 19u);
  EXPECT_EQ(fewest_answers(0.99), 99u);
  std::vector<size_t> needed;
  for (size_t i = 1; i <= 98; ++i) needed.push_back(i);
  EXPECT_EQ(size_for_answers(needed, 0.99), std::nullopt);
  needed.insert(needed.begin(), 99);
  EXPECT_EQ(size_for_answers(needed, 0.99), 99u);
  for (size_t i = 100; i <= 240; ++i) needed.insert(needed.begin(), i);
  EXPECT_EQ(size_for_answers(needed, 0.99), 239u) << "one of 240 may be larger";
  EXPECT_EQ(size_for_answers({}, 0.5), std::nullopt);
}

// Of n + 1 answers each is as likely as any other to be the new one: then exactly the promised
// share of them is held by what the others ask for.
TEST(token_order, a_new_answer_is_held_as_often_as_promised) {
  for (const double share : {0.5, 0.8, 0.9}) {
    constexpr size_t kAll = 20;
    size_t held = 0;
    for (size_t left_out = 0; left_out < kAll; ++left_out) {
      std::vector<size_t> others;
      for (size_t i = 0; i < kAll; ++i)
        if (i != left_out) others.push_back(i * i + 3);
      held += left_out * left_out + 3 <= *size_for_answers(others, share) ? 1 : 0;
    }
    EXPECT_EQ(held, static_cast<size_t>(share * kAll + 0.5)) << share;
  }
}

}  // namespace
}  // namespace weft::text
