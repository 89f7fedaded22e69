// The one Tokenizer: parts that a loader fills, put in a row.
//   text -> added tokens -> normalizer -> added tokens that are searched in normalized text
//        -> pre-tokenizer -> token model
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "formats/pre_tokenizer.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_added.h"
#include "formats/tokenizer_model.h"
#include "formats/tokenizer_normalizer.h"
#include "formats/tokenizer_vocabulary.h"

namespace weft::formats {

// How a token's text becomes bytes.
struct PieceDecoder {
  bool letters = false;                                           // GPT-2's byte alphabet
  std::vector<std::pair<std::string, std::string>> replacements;  // {"▁", " "}
  bool strip_first_space = false;  // decode() takes one space off the front
  std::string separator;           // between tokens, in decode() only
};

struct TokenizerParts {
  std::unique_ptr<Vocabulary> vocabulary;  // on the heap: the model refers to it
  std::unique_ptr<TokenModel> model;
  AddedTokens added, added_in_normalized;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<Token> prefix, suffix;  // with EncodeOptions::add_special
  PieceDecoder decoder;
};

std::unique_ptr<Tokenizer> make_tokenizer(TokenizerParts parts);

// "▁", SentencePiece's visible space
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
// True if no token has `mark` behind another character, so that cutting before a run of marks cuts
// no token. Then a text without other pre-tokenizer can be encoded word by word.
bool marks_only_lead(const Vocabulary& vocabulary, std::string_view mark);

}  // namespace weft::formats
