// From logits to a token. Steps in the order of llama.cpp's default chain: penalties and bias, top-k,
// typical-p, top-p, min-p, temperature, then one draw. Temperature 0 is greedy (lowest id wins a tie).
//
// The draw is counter-based, keyed by (seed, request, position): the same request gives the same tokens
// alone, in any batch, preempted or replayed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace weft::text {

using Token = int32_t;

struct SamplingOptions {
  float temperature = 0.8f;         // >= 0
  int top_k = 40;                   // <= 0: off
  float top_p = 0.95f;              // (0, 1]; 1: off
  float min_p = 0.05f;              // [0, 1]; 0: off
  float typical_p = 1.0f;           // (0, 1]; 1: off
  float repetition_penalty = 1.0f;  // > 0; 1: off (CTRL, arXiv 1909.05858)
  float presence_penalty = 0.0f;    // OpenAI's, [-2, 2]
  float frequency_penalty = 0.0f;
  int penalty_last_n = 64;          // tokens that penalties look back on; -1: all, prompt included
  std::vector<std::pair<Token, float>> logit_bias;
  uint64_t seed = 0;
};

// kInvalidInput naming the option, the value and its range.
void validate(const SamplingOptions& options);

struct TokenLogprob {
  Token token;
  float logprob;
};

struct Sampled {
  Token token = 0;
  float logprob = 0;  // of the token under the model's distribution (before any filter)
  std::vector<TokenLogprob> top;  // `num_top` best by the model, best first
};

class Sampler {
 public:
  Sampler(SamplingOptions options, uint64_t request);

  // `logits` (vocab_size) may be changed. `history`: prompt and generated tokens so far; its size is
  // the position of the draw. `want_logprob` costs one pass over the vocabulary.
  Sampled sample(std::span<float> logits, std::span<const Token> history, bool want_logprob = false,
                 size_t num_top = 0);

 private:
  SamplingOptions options_;
  uint64_t request_;
  std::vector<std::pair<float, Token>> candidates_;
  std::vector<float> weights_;
};

}  // namespace weft::text
