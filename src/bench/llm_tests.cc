#include "bench/llm_tests.h"

namespace weft::bench {
namespace {

constexpr size_t kPromptTokens = 512;  // pp512, in one pass
constexpr size_t kAnswerTokens = 64;   // tg64
constexpr size_t kShallow = 16;        // tokens in the context before the answer

constexpr LlmTest kTests[] = {
    {"pp512", kPromptTokens, 0, 0, 5, 1, true},
    {"tg64@16", 0, kAnswerTokens, kShallow, 7, 3, true},
    {"tg64@4096", 0, kAnswerTokens, kDeep, 3, 1, false},
};

}  // namespace

LlmTests llm_tests_within(size_t context_length) {
  LlmTests tests;
  for (const LlmTest& test : kTests) {
    if (test.num_tokens() <= context_length)
      tests.fit.push_back(test);
    else
      tests.left_out.emplace_back(test.name);
  }
  return tests;
}

}  // namespace weft::bench
