#include "serve/chunk_bound.h"

#include <gtest/gtest.h>

namespace weft::serve {
namespace {

TEST(chunk_bound, without_a_bound_pieces_are_whole) {
  ChunkBound bound(256, std::nullopt);
  bound.measured(256, 10.0);
  EXPECT_EQ(bound.tokens(true), 256u);
}

TEST(chunk_bound, pieces_fit_between_two_answers_tokens) {
  ChunkBound bound(256, 0.050);
  EXPECT_LE(bound.tokens(true), 32u) << "cautious until a step was measured";
  for (int i = 0; i < 100; ++i) {
    bound.measured(0, 0.010);                 // a step of answers alone
    bound.measured(100, 0.010 + 100 * 0.001);  // a millisecond for each token of prompt
  }
  EXPECT_NEAR(static_cast<double>(bound.tokens(true)), 40, 1);
  EXPECT_EQ(bound.tokens(false), 256u) << "nobody waits";
  for (int i = 0; i < 100; ++i) bound.measured(0, 0.100);
  EXPECT_EQ(bound.tokens(true), 1u) << "prompts never stop";
}

}  // namespace
}  // namespace weft::serve
