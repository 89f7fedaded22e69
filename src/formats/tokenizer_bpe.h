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

// (left, right) -> rank and the token they become. Open addressing. A pair is known by the 64-bit
// hash of its two texts: loading then needs no look-up of the parts, which would miss the cache
// 100k times (measured on Llama 3's 280k merges: 160 ms with look-ups, 12 without).
class MergeTable {
 public:
  struct Merge {
    uint64_t pair = 0;  // 0: empty slot
    uint32_t rank = 0;
    Token merged = 0;
  };
  static uint64_t pair_of(uint64_t left_hash, uint64_t right_hash);

  explicit MergeTable(size_t expected);
  void insert(Merge merge);                // the first of equal pairs stays
  const Merge* find(uint64_t pair) const;  // nullptr if there is no merge
  void prefetch(uint64_t pair) const { __builtin_prefetch(&merges_[slot(pair)]); }

 private:
  size_t slot(uint64_t pair) const { return pair & (merges_.size() - 1); }
  std::vector<Merge> merges_;
};

class BpeModel final : public TokenModel {
 public:
  // `vocabulary` outlives the model. kInvalidInput: a merge to a text that is no token. (A merge
  // *of* such a text can never happen and is not looked for.)
  BpeModel(const Vocabulary& vocabulary, std::span<const MergeTexts> merges, BpeOptions options);
  void encode(std::string_view piece, std::vector<Token>& out) const override;

 private:
  void start(std::string_view piece, std::vector<Token>& out) const;
  void start_with_characters(std::string_view piece, std::vector<Token>& out) const;
  Token whole_piece(std::string_view piece) const;
  const MergeTable::Merge* find_merge(Token left, Token right) const;
  uint32_t rank_of(Token left, Token right) const;
  void load_merges(std::span<const MergeTexts> merges);
  size_t merge_by_scanning(Token* tokens, size_t count) const;
  size_t merge_by_heap(Token* tokens, size_t count) const;

  const Vocabulary& vocabulary_;
  BpeOptions options_;
  MergeTable merges_;
  std::array<Token, 256> byte_tokens_;   // of a byte, in the model's alphabet; -1 if it has none
  std::array<Token, 128> ascii_tokens_;  // kCharacters: of an ASCII character
};

}  // namespace weft::formats
