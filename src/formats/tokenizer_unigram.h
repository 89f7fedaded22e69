// SentencePiece's unigram model (Kudo 2018): every token has a log probability, and a text becomes
// the tokens with the highest sum, found by Viterbi. Characters that no token covers are unknown,
// at a penalty of 10 below the worst token.
#pragma once

#include <optional>
#include <vector>

#include "formats/tokenizer_model.h"
#include "formats/tokenizer_vocabulary.h"

namespace weft::formats {

class UnigramModel final : public TokenModel {
 public:
  // `vocabulary` outlives the model; one score for each of its tokens. `byte_fallback`: unknown
  // characters become <0xNN> tokens.
  UnigramModel(const Vocabulary& vocabulary, std::vector<float> scores,
               std::optional<Token> unknown, bool byte_fallback);
  void encode(std::string_view piece, std::vector<Token>& out) const override;

 private:
  void emit_unknown(std::string_view text, std::vector<Token>& out) const;

  const Vocabulary& vocabulary_;
  std::vector<float> scores_;
  std::optional<Token> unknown_;
  bool byte_fallback_;
  double unknown_score_;
  std::vector<uint16_t> longest_;  // bytes of the longest token, by its first two bytes; 0: none
};

}  // namespace weft::formats
