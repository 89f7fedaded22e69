// What `weft bench llm` measures of a model: reading a prompt, and decoding at depths, as far as
// the model's context goes.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace weft::bench {

// One figure. The same for ours and the peer's.
struct LlmTest {
  const char* name;
  size_t prompt_tokens, answer_tokens, depth;  // depth: tokens in the context before
  int rounds, quick_rounds;
  bool quick_all_threads;  // or with the most threads alone

  size_t num_tokens() const { return depth + prompt_tokens + answer_tokens; }
};
inline constexpr size_t kDeep = 4096;  // tokens, where attention is a large part of decoding

struct LlmTests {
  std::vector<LlmTest> fit;                // in order
  std::vector<std::string> left_out = {};  // names of those that are longer than the context
};
LlmTests llm_tests_within(size_t context_length);

}  // namespace weft::bench
