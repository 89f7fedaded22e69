#include "formats/tokenizer_unigram.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

constexpr double kUnknownPenalty = 10.0;

// The best way to reach a byte of the piece.
struct Arrival {
  double score = -std::numeric_limits<double>::infinity();
  uint32_t from = 0;
  Token token = -1;  // -1: unknown character
};

// Index by the first two bytes; a token of one byte stands under every second byte's row 0.
size_t start_key(std::string_view text) {
  const size_t first = static_cast<uint8_t>(text[0]);
  return first << 8 | (text.size() > 1 ? static_cast<uint8_t>(text[1]) : 0);
}

}  // namespace

UnigramModel::UnigramModel(const Vocabulary& vocabulary, std::vector<float> scores,
                           std::optional<Token> unknown, bool byte_fallback)
    : vocabulary_(vocabulary),
      scores_(std::move(scores)),
      unknown_(unknown),
      byte_fallback_(byte_fallback),
      longest_(size_t{1} << 16) {
  WEFT_ASSERT(scores_.size() == vocabulary_.size());
  double worst = 0;
  for (size_t id = 0; id < vocabulary_.size(); ++id) {
    const Token token = static_cast<Token>(id);
    if (!vocabulary_.is_from_text(token) || vocabulary_.text(token).empty()) continue;
    worst = std::min<double>(worst, scores_[id]);
    uint16_t& longest = longest_[start_key(vocabulary_.text(token))];
    const size_t size = std::min<size_t>(vocabulary_.text(token).size(), UINT16_MAX);
    longest = std::max(longest, static_cast<uint16_t>(size));
  }
  unknown_score_ = worst - kUnknownPenalty;
}

void UnigramModel::emit_unknown(std::string_view text, std::vector<Token>& out) const {
  if (byte_fallback_) {
    const size_t begin = out.size();
    for (const char byte : text) {
      out.push_back(vocabulary_.byte_token(static_cast<uint8_t>(byte)));
    }
    if (std::find(out.begin() + static_cast<ptrdiff_t>(begin), out.end(), -1) == out.end()) return;
    out.resize(begin);
  }
  if (unknown_) out.push_back(*unknown_);
}

void UnigramModel::encode(std::string_view piece, std::vector<Token>& out) const {
  std::vector<Arrival> best(piece.size() + 1);
  best[0].score = 0;
  for (size_t pos = 0; pos < piece.size();) {
    const size_t character = read_utf8(piece, pos).length;
    const double score = best[pos].score;
    const auto offer = [&](size_t size, double token_score, Token token) {
      Arrival& arrival = best[pos + size];
      if (score + token_score <= arrival.score) return;
      arrival = {score + token_score, static_cast<uint32_t>(pos), token};
    };
    bool covered = false;
    const size_t one = longest_[static_cast<size_t>(static_cast<uint8_t>(piece[pos])) << 8];
    const size_t longest = std::max<size_t>(one, longest_[start_key(piece.substr(pos))]);
    for (size_t size = character; size <= longest && pos + size <= piece.size();) {
      const Token token = vocabulary_.find(piece.substr(pos, size));
      if (token >= 0 && vocabulary_.is_from_text(token)) {
        const bool user = vocabulary_.kind(token) == TokenKind::kUserDefined;
        offer(size, user ? 0.0 : scores_[static_cast<size_t>(token)], token);
        covered = covered || size == character;
      }
      if (pos + size == piece.size()) break;
      size += read_utf8(piece, pos + size).length;
    }
    if (!covered) offer(character, unknown_score_, -1);
    pos += character;
  }

  std::vector<Arrival> path;  // from the end; `from` becomes the start of each token
  for (size_t end = piece.size(); end > 0; end = best[end].from) path.push_back(best[end]);
  std::reverse(path.begin(), path.end());
  for (size_t i = 0; i < path.size();) {
    if (path[i].token >= 0) {
      out.push_back(path[i++].token);
      continue;
    }
    size_t end = i + 1;  // neighbouring unknown characters are one
    while (end < path.size() && path[end].token < 0) ++end;
    const size_t until = end < path.size() ? path[end].from : piece.size();
    emit_unknown(piece.substr(path[i].from, until - path[i].from), out);
    i = end;
  }
}

}  // namespace weft::formats
