// VocabTailor (arXiv 2508.15229): an answer needs few of the vocabulary's tokens, those of its own
// prompt and those that are typical of the task. The head is then a packed copy of those rows. Ids
// are the tokenizer's everywhere: a set says which ones a packed head computes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"
#include "text/token_mask.h"

namespace weft::text {

using Token = int32_t;

// Immutable, so thread-safe.
class VocabSet {
 public:
  // `ids` in any order, repeated or not, all below vocab_size.
  VocabSet(size_t vocab_size, std::vector<uint32_t> ids);

  size_t size() const { return ids_.size(); }
  size_t vocab_size() const { return mask_.size(); }
  std::span<const uint32_t> ids() const { return ids_; }  // ascending, each once
  bool contains(Token token) const { return mask_.allows(token); }
  const TokenMask& mask() const { return mask_; }

 private:
  std::vector<uint32_t> ids_;
  TokenMask mask_;
};

// What no set may lack: the tokens that end an answer, the control tokens that `chat_template` names,
// all single bytes (so that any text can be written), digits and runs of white space. Ascending.
std::vector<uint32_t> required_tokens(const formats::Tokenizer& tokenizer,
                                      std::string_view chat_template);

// Tells tokenizers apart: of all tokens' texts and kinds, and of how a text with many merges is cut.
std::string tokenizer_hash(const formats::Tokenizer& tokenizer);

}  // namespace weft::text
