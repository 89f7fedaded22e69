// From logits to a token. Steps in the order of llama.cpp's default chain: the tokens that are
// allowed at all, penalties and bias, top-k, typical-p, top-p, min-p, temperature, then one draw. Temperature 0 is greedy (lowest id
// wins a tie).
//
// The draw is counter-based, keyed by (seed, request, position): the same request gives the same
// tokens alone, in any batch, preempted or replayed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "text/token_mask.h"

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
  int penalty_last_n = 64;  // tokens that penalties look back on; -1: all, prompt included
  std::vector<std::pair<Token, float>> logit_bias = {};
  uint64_t seed = 0;
};

// kInvalidInput naming the option, the value and its range.
void validate(const SamplingOptions& options);

// How far below the best logit a token may lie and still be drawn with more than a thousandth of its
// weight; 0: only the best is.
float logit_reach(const SamplingOptions& options);
// The end of `history` that penalties look back on.
std::span<const Token> penalised(const SamplingOptions& options, std::span<const Token> history);
// Penalties lower those (a repetition penalty below 1, or negative ones, raise them).
bool lowers_used_tokens(const SamplingOptions& options);

struct TokenLogprob {
  Token token;
  float logprob;
};

struct Sampled {
  Token token = 0;
  float logprob = 0;              // of the token under the model's distribution (before any filter)
  std::vector<TokenLogprob> top;  // `num_top` best by the model, best first
};

// Owned by one thread. Steady state allocates nothing, save `Sampled::top` where it is asked for.
class Sampler {
 public:
  Sampler(SamplingOptions options, uint64_t request);  // validates

  const SamplingOptions& options() const { return options_; }

  // `logits` (vocab_size) is written to and restored. `history`: prompt and generated tokens so
  // far, all in the vocabulary; its size is the position of the draw. `want_logprob` costs one pass
  // over the vocabulary, and num_top > 0 asks for it. kInvalidInput: a NaN or +inf logit, a biased
  // token outside the vocabulary, or no token left because all are banned. With `allowed`, no other
  // token is drawn; logprobs stay those of the model.
  Sampled sample(std::span<float> logits, std::span<const Token> history, bool want_logprob = false,
                 size_t num_top = 0, const TokenMask* allowed = nullptr);

 private:
  struct Candidate {
    float logit;
    Token token;
    double weight;  // its share of the draw, before division by the sum
  };
  // Sorts before `b`: likelier, then lower id.
  static bool better(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }
  static void select_best(std::span<const float> logits, size_t count, size_t position,
                          std::vector<Candidate>& best);

  std::span<float> masked(std::span<const float> logits, const TokenMask& allowed);
  Token choose_from(std::span<float> logits, std::span<const Token> history);
  void change(std::span<float> logits, Token token, float logit);
  void apply_bias(std::span<float> logits);
  void apply_penalties(std::span<float> logits, std::span<const Token> history);
  void undo_changes(std::span<float> logits);
  Token choose(std::span<const float> logits, size_t position);
  void take_all(std::span<const float> logits, size_t position);
  double weigh(float temperature);
  void keep_typical();
  void keep_top_p();
  void keep_min_p();
  template <typename Before>
  void keep_mass(double mass, Before before);
  Token draw(size_t position);

  SamplingOptions options_;
  uint64_t request_;
  std::vector<Candidate> candidates_, best_;
  std::vector<std::pair<Token, float>> changed_;  // by bias and penalties: (token, logit before)
  std::vector<float> masked_;                     // logits, those of banned tokens -inf
  std::vector<Token> recent_;                     // what penalties look at, sorted
};

}  // namespace weft::text
