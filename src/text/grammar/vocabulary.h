// A vocabulary's bytes as a trie, so that what tokens have in common is matched once for all of
// them. Control tokens, unused ones and those without bytes are not in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"

namespace weft::text::grammar {

// Immutable, and so thread-safe. Keeps nothing of the tokenizer.
class Vocabulary {
 public:
  explicit Vocabulary(const formats::Tokenizer& tokenizer);

  size_t size() const { return pieces_.size() - 1; }
  // Of a token that is in the trie; else empty.
  std::string_view bytes(formats::Token token) const {
    const auto i = static_cast<size_t>(token);
    return std::string_view(text_).substr(pieces_[i], pieces_[i + 1] - pieces_[i]);
  }
  std::span<const formats::Token> end_tokens() const { return end_tokens_; }
  bool is_end(formats::Token token) const;
  // Whether the text of an answer loses a space that its first token begins with.
  bool strips_first_space() const { return strips_first_space_; }

  // In preorder: a node's first child follows it, and `skip` is the next node that is not below it.
  struct Node {
    uint32_t skip;
    uint32_t first_token;  // in tokens(); they end where the next node's begin
    uint16_t depth;        // of the root's children 1
    uint8_t byte;
  };
  std::span<const Node> nodes() const { return std::span(nodes_).first(nodes_.size() - 1); }
  std::span<const formats::Token> tokens_of(size_t node) const {
    return std::span(tokens_).subspan(nodes_[node].first_token,
                                      nodes_[node + 1].first_token - nodes_[node].first_token);
  }
  size_t max_depth() const { return max_depth_; }

 private:
  std::string text_;
  std::vector<size_t> pieces_;  // where each token's begins in text_, and the end
  std::vector<formats::Token> end_tokens_;
  std::vector<Node> nodes_;  // and one behind the last
  std::vector<formats::Token> tokens_;
  size_t max_depth_ = 0;
  bool strips_first_space_ = false;
};

}  // namespace weft::text::grammar
