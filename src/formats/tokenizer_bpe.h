// Byte pair encoding: a piece starts as single characters (or bytes) and the pair with the lowest
// merge rank becomes one token until no pair has a rank (Sennrich et al. 2016). Two alphabets:
//   bytes:      every byte is a token, written as GPT-2's printable character (Ġ is the space)
//   characters: UTF-8 characters, with <0xNN> tokens for those the vocabulary lacks
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer_model.h"
#include "formats/tokenizer_vocabulary.h"

namespace weft::formats {

// GPT-2's printable stand-in of a byte, as UTF-8 (one or two bytes).
std::string_view byte_letter(uint8_t byte);
// The bytes that a token text in that alphabet stands for; the text itself if it has another
// character.
std::string bytes_of_letters(std::string_view text);

enum class BpeAlphabet { kBytes, kCharacters };

struct BpeOptions {
  BpeAlphabet alphabet = BpeAlphabet::kBytes;
  bool whole_words_first = false;  // `ignore_merges`: a piece that is a token is that token
  bool byte_fallback = false;      // kCharacters: <0xNN> tokens for unknown characters
  std::optional<Token> unknown;    // for what is left; nothing without one
  bool fuse_unknown = false;       // neighbouring unknowns become one
};

struct MergeTexts {
  std::string_view left, right;
};

// (left, right) -> rank and the token they become. Open addressing, one probe in most cases.
class MergeTable {
 public:
  struct Merge {
    uint64_t pair = kEmpty;
    uint32_t rank = 0;
    Token merged = 0;
  };
  explicit MergeTable(size_t expected);
  void insert(Token left, Token right, uint32_t rank,
              Token merged);                         // the first of equal pairs stays
  const Merge* find(Token left, Token right) const;  // nullptr if there is no merge

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  size_t slot(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15u) >> shift_; }
  std::vector<Merge> merges_;
  int shift_;
};

class BpeModel final : public TokenModel {
 public:
  // `vocabulary` outlives the model. kInvalidInput: a merge of or to a text that is no token.
  BpeModel(const Vocabulary& vocabulary, std::span<const MergeTexts> merges, BpeOptions options);
  void encode(std::string_view piece, std::vector<Token>& out) const override;

 private:
  void start(std::string_view piece, std::vector<Token>& out) const;
  void start_with_characters(std::string_view piece, std::vector<Token>& out) const;
  Token whole_piece(std::string_view piece) const;

  const Vocabulary& vocabulary_;
  BpeOptions options_;
  MergeTable merges_;
  std::array<Token, 256> byte_tokens_;   // of a byte, in the model's alphabet; -1 if it has none
  std::array<Token, 128> ascii_tokens_;  // kCharacters: of an ASCII character
};

}  // namespace weft::formats
