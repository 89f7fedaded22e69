// A vocabulary that is a list of pieces, for the tests and fuzzers of this room.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "formats/tokenizer.h"

namespace weft::text::grammar {

// Token i is pieces[i]; the last tokens are `num_ends` end tokens. Encodes by the longest match.
class TestTokenizer final : public formats::Tokenizer {
 public:
  explicit TestTokenizer(std::vector<std::string> pieces, size_t num_ends = 1,
                         bool strips_first_space = false)
      : pieces_(std::move(pieces)), strips_first_space_(strips_first_space) {
    first_end_ = pieces_.size();
    for (size_t i = 0; i < num_ends; ++i) pieces_.push_back("<end" + std::to_string(i) + ">");
  }

  std::vector<formats::Token> encode(std::string_view text,
                                     formats::EncodeOptions = {}) const override {
    std::vector<formats::Token> out;
    while (!text.empty()) {
      size_t best = first_end_, length = 0;
      for (size_t i = 0; i < first_end_; ++i) {
        if (pieces_[i].size() <= length || !text.starts_with(pieces_[i])) continue;
        best = i;
        length = pieces_[i].size();
      }
      if (length == 0) return {};
      out.push_back(static_cast<formats::Token>(best));
      text.remove_prefix(length);
    }
    return out;
  }
  std::string piece(formats::Token token, bool show_special) const override {
    return is_end(token) && !show_special ? std::string() : pieces_[static_cast<size_t>(token)];
  }
  std::string decode(std::span<const formats::Token> tokens, bool show_special) const override {
    std::string out;
    for (const formats::Token token : tokens) out += piece(token, show_special);
    if (strips_first_space_ && out.starts_with(' ')) out.erase(0, 1);
    return out;
  }
  size_t vocab_size() const override { return pieces_.size(); }
  formats::TokenKind kind(formats::Token token) const override {
    return is_end(token) ? formats::TokenKind::kControl : formats::TokenKind::kNormal;
  }
  std::string_view text(formats::Token token) const override {
    return pieces_[static_cast<size_t>(token)];
  }
  std::optional<formats::Token> find(std::string_view) const override { return std::nullopt; }
  const Special& special() const override { return special_; }
  bool is_end(formats::Token token) const override {
    return static_cast<size_t>(token) >= first_end_;
  }

 private:
  std::vector<std::string> pieces_;
  size_t first_end_ = 0;
  bool strips_first_space_;
  Special special_;
};

// Every byte, and so every text.
inline std::vector<std::string> byte_pieces() {
  std::vector<std::string> out;
  for (int byte = 0; byte < 256; ++byte) out.emplace_back(1, static_cast<char>(byte));
  return out;
}

}  // namespace weft::text::grammar
