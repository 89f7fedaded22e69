#include "formats/tokenizer_spm.h"

#include <queue>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

constexpr uint32_t kNone = ~uint32_t{0};

struct Symbol {
  uint32_t start, size;  // bytes of the piece; size 0 once it is part of its left neighbour
  uint32_t previous, next;
  Token token;  // -1 if it is none
};

struct Candidate {
  float score;
  uint32_t left, size;  // stale unless `left` and its neighbour have this size together
  Token token;
  bool operator<(const Candidate& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

}  // namespace

SpmModel::SpmModel(const Vocabulary& vocabulary, std::vector<float> scores)
    : vocabulary_(vocabulary), scores_(std::move(scores)) {
  WEFT_ASSERT(scores_.size() == vocabulary_.size());
}

Token SpmModel::find(std::string_view text) const {
  if (text.size() > vocabulary_.longest_text()) return -1;
  const Token token = vocabulary_.find(text);
  return token >= 0 && vocabulary_.is_from_text(token) ? token : -1;
}

void SpmModel::encode(std::string_view piece, std::vector<Token>& out) const {
  if (piece.empty()) return;
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (size_t pos = 0; pos < piece.size();) {
    const uint32_t index = static_cast<uint32_t>(symbols.size());
    const uint8_t length = read_utf8(piece, pos).length;
    symbols.push_back({static_cast<uint32_t>(pos), length, index == 0 ? kNone : index - 1,
                       index + 1, find(piece.substr(pos, length))});
    pos += length;
  }
  symbols.back().next = kNone;

  std::priority_queue<Candidate> heap;
  const auto offer = [&](uint32_t left) {
    const Symbol& a = symbols[left];
    const uint32_t size = a.size + symbols[a.next].size;
    const Token token = find(piece.substr(a.start, size));
    if (token >= 0) heap.push({scores_[static_cast<size_t>(token)], left, size, token});
  };
  for (uint32_t i = 0; i + 1 < symbols.size(); ++i) offer(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    Symbol& left = symbols[top.left];
    if (left.size == 0 || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    if (left.size + right.size != top.size) continue;
    left.size = top.size;
    left.token = top.token;
    left.next = right.next;
    right.size = 0;
    if (left.next != kNone) symbols[left.next].previous = top.left;
    if (left.previous != kNone) offer(left.previous);
    if (left.next != kNone) offer(top.left);
  }

  for (uint32_t i = 0; i != kNone; i = symbols[i].next) {
    const Symbol& symbol = symbols[i];
    if (symbol.token >= 0) {
      out.push_back(symbol.token);
      continue;
    }
    for (const char byte : piece.substr(symbol.start, symbol.size)) {
      const Token token = vocabulary_.byte_token(static_cast<uint8_t>(byte));
      if (token >= 0) {
        out.push_back(token);
      } else if (vocabulary_.special.unknown) {
        out.push_back(*vocabulary_.special.unknown);
      }
    }
  }
}

}  // namespace weft::formats
