#include "bench/llm_tests.h"

#include <gtest/gtest.h>

namespace weft::bench {
namespace {

std::vector<std::string> names_within(size_t context_length) {
  std::vector<std::string> names;
  for (const LlmTest& test : llm_tests_within(context_length).fit) names.emplace_back(test.name);
  return names;
}

TEST(llm_tests, a_context_holds_those_that_end_within_it) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(names_within(131072), (Names{"pp512", "tg64@16", "tg64@4096"}));
  EXPECT_EQ(names_within(4096 + 64), (Names{"pp512", "tg64@16", "tg64@4096"}));
  EXPECT_EQ(names_within(4096 + 63), (Names{"pp512", "tg64@16"}));
  EXPECT_EQ(names_within(2560), (Names{"pp512", "tg64@16"})) << "the reasoners'";
  EXPECT_EQ(names_within(511), (Names{"tg64@16"}));
  EXPECT_EQ(names_within(80), (Names{"tg64@16"}));
  EXPECT_EQ(names_within(79), Names{});
}

TEST(llm_tests, the_others_are_named) {
  EXPECT_EQ(llm_tests_within(4160).left_out, std::vector<std::string>{});
  EXPECT_EQ(llm_tests_within(2560).left_out, std::vector<std::string>{"tg64@4096"});
  EXPECT_EQ(llm_tests_within(79).left_out.size(), 3U);
}

}  // namespace
}  // namespace weft::bench
