// SentencePiece's BPE (Llama 2, Mistral v0.1): no merge list; of all neighbours whose concatenation
// is a token, the one with the highest score becomes that token, the leftmost of equals. Characters
// that the vocabulary lacks become their <0xNN> tokens.
#pragma once

#include <optional>
#include <vector>

#include "formats/tokenizer_model.h"
#include "formats/tokenizer_vocabulary.h"

namespace weft::formats {

class SpmModel final : public TokenModel {
 public:
  // `vocabulary` outlives the model; one score for each of its tokens.
  SpmModel(const Vocabulary& vocabulary, std::vector<float> scores);
  void encode(std::string_view piece, std::vector<Token>& out) const override;

 private:
  Token find(std::string_view text) const;

  const Vocabulary& vocabulary_;
  std::vector<float> scores_;
};

}  // namespace weft::formats
