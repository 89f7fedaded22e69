#include "text/grammar/vocabulary.h"

#include <algorithm>
#include <numeric>

namespace weft::text::grammar {
namespace {

using formats::Token;
using formats::TokenKind;

// Longer ones are in no vocabulary that anybody made on purpose, and are left out.
constexpr size_t kMaxPiece = 4096;

std::string piece_of(const formats::Tokenizer& tokenizer, Token token) {
  switch (tokenizer.kind(token)) {
    case TokenKind::kControl:
    case TokenKind::kUnknown:
    case TokenKind::kUnused:
      return {};
    case TokenKind::kNormal:
    case TokenKind::kUserDefined:
    case TokenKind::kByte:
      break;
  }
  if (tokenizer.is_end(token)) return {};
  std::string piece = tokenizer.piece(token);
  return piece.size() <= kMaxPiece ? piece : std::string();
}

}  // namespace

Vocabulary::Vocabulary(const formats::Tokenizer& tokenizer) {
  const size_t count = tokenizer.vocab_size();
  pieces_.push_back(0);
  for (size_t i = 0; i < count; ++i) {
    const auto token = static_cast<Token>(i);
    if (tokenizer.is_end(token)) end_tokens_.push_back(token);
    const std::string piece = piece_of(tokenizer, token);
    text_ += piece;
    pieces_.push_back(text_.size());
    if (!strips_first_space_ && piece.starts_with(' '))
      strips_first_space_ = tokenizer.decode({&token, 1}) != piece;
  }

  std::vector<Token> sorted(count);
  std::iota(sorted.begin(), sorted.end(), 0);
  std::erase_if(sorted, [this](Token token) { return bytes(token).empty(); });
  std::sort(sorted.begin(), sorted.end(), [this](Token a, Token b) {
    const int order = bytes(a).compare(bytes(b));
    return order < 0 || (order == 0 && a < b);
  });
  std::vector<size_t> path;  // nodes from the root down to the last token's
  const auto close = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back())
      nodes_[path.back()].skip = static_cast<uint32_t>(nodes_.size());
  };
  std::string_view last;
  for (const Token token : sorted) {
    const std::string_view piece = bytes(token);
    const auto common = static_cast<size_t>(
        std::mismatch(piece.begin(), piece.end(), last.begin(), last.end()).first - piece.begin());
    close(common);
    for (size_t depth = common; depth < piece.size(); ++depth) {
      path.push_back(nodes_.size());
      nodes_.push_back({.skip = 0,
                        .first_token = static_cast<uint32_t>(tokens_.size()),
                        .depth = static_cast<uint16_t>(depth + 1),
                        .byte = static_cast<uint8_t>(piece[depth])});
    }
    tokens_.push_back(token);
    max_depth_ = std::max(max_depth_, piece.size());
    last = piece;
  }
  close(0);
  nodes_.push_back(
      {.skip = 0, .first_token = static_cast<uint32_t>(tokens_.size()), .depth = 0, .byte = 0});
}

bool Vocabulary::is_end(Token token) const {
  return std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
}

}  // namespace weft::text::grammar
