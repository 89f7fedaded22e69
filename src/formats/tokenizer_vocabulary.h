// The tokens of a model: their texts, kinds and special roles, and the look-up by text.
// Texts are views into the model file's memory map where there is one; 150k tokens cost no
// allocation each. Immutable once loaded.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "formats/tokenizer.h"

namespace weft::formats {

// Hash of a short text, of a good 64 bits.
uint64_t hash_text(std::string_view text);

// Text to id. Open addressing; a slot keeps part of the hash, so that a miss rarely touches a text.
class TextIndex {
 public:
  explicit TextIndex(size_t expected);
  // False if the text is already there; the first id stays.
  bool insert(std::span<const std::string_view> texts, Token id, uint64_t hash);
  Token find(std::span<const std::string_view> texts, std::string_view text) const;  // -1 if absent
  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & mask_]); }

 private:
  struct Slot {
    uint32_t tag = 0;
    uint32_t next_id = 0;  // id + 1; 0: empty
  };
  std::vector<Slot> slots_;
  size_t mask_;
};

class Vocabulary {
 public:
  // Takes views whose bytes live as long as `owner`. An empty text (ids that no token uses) can't
  // be found; one that comes twice is kInvalidInput.
  Vocabulary(std::vector<std::string_view> texts, std::vector<TokenKind> kinds,
             std::shared_ptr<const void> owner);

  size_t size() const { return texts_.size(); }
  std::string_view text(Token token) const { return texts_[static_cast<size_t>(token)]; }
  TokenKind kind(Token token) const { return kinds_[static_cast<size_t>(token)]; }
  bool contains(int64_t token) const {
    return token >= 0 && token < static_cast<int64_t>(texts_.size());
  }
  Token find(std::string_view text) const { return index_.find(texts_, text); }  // -1 if absent
  // The id of "<0x41>" for 'A', -1 if absent.
  Token byte_token(uint8_t byte) const;
  uint64_t text_hash(Token token) const { return hashes_[static_cast<size_t>(token)]; }
  size_t longest_text() const { return longest_; }

  // Whether text can become this token by itself: control, unknown and byte tokens never come from
  // letters that happen to spell them.
  bool is_from_text(Token token) const {
    const TokenKind kind = this->kind(token);
    return kind == TokenKind::kNormal || kind == TokenKind::kUserDefined ||
           kind == TokenKind::kUnused;
  }

  void set_kind(Token token, TokenKind kind) { kinds_[static_cast<size_t>(token)] = kind; }

  Tokenizer::Special special;
  bool is_end(Token token) const;
  // Tokens that end an answer: special.eos, special.eot and those of well-known texts. Marks them
  // control. Call after `special` is filled.
  void find_end_tokens(std::span<const Token> more = {});

 private:
  std::shared_ptr<const void> owner_;
  std::vector<std::string_view> texts_;
  std::vector<TokenKind> kinds_;
  std::vector<uint64_t> hashes_;  // of the texts
  TextIndex index_;
  size_t longest_ = 0;
  std::vector<Token> ends_;  // sorted
};

// Copies of texts in one block, for sources that don't outlive the loading.
class TextArena {
 public:
  explicit TextArena(size_t bytes) { block_.reserve(bytes); }
  // At most the bytes announced, all texts together.
  std::string_view add(std::string_view text) {
    const size_t start = block_.size();
    WEFT_ASSERT(text.size() <= block_.capacity() - start);
    block_.insert(block_.end(), text.begin(), text.end());
    return {block_.data() + start, text.size()};
  }

 private:
  std::vector<char> block_;
};

}  // namespace weft::formats
