#include "text/vocabtailor/vocab_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/error.h"

namespace weft::text {
namespace {

using formats::TokenKind;

constexpr size_t kLongestRun = 16;  // bytes of white space or digits that count as one token's worth

bool consists_of(std::string_view bytes, std::string_view allowed) {
  return !bytes.empty() && bytes.size() <= kLongestRun &&
         bytes.find_first_not_of(allowed) == std::string_view::npos;
}

bool is_required(const formats::Tokenizer& tokenizer, Token token, std::string_view chat_template) {
  const TokenKind kind = tokenizer.kind(token);
  if (tokenizer.is_end(token) || kind == TokenKind::kByte) return true;
  if (kind == TokenKind::kUnused) return false;
  if (kind != TokenKind::kNormal) {
    const std::string_view text = tokenizer.text(token);
    return !text.empty() && chat_template.find(text) != std::string_view::npos;
  }
  const std::string piece = tokenizer.piece(token);
  return piece.size() == 1 || consists_of(piece, " \t\r\n") || consists_of(piece, "0123456789");
}

// FNV-1a, 64 bits.
class Hash {
 public:
  void add(std::string_view bytes) {
    for (const char c : bytes) add_byte(static_cast<uint8_t>(c));
    add_byte(0);
  }
  void add(uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8) add_byte(static_cast<uint8_t>(value >> shift));
  }
  uint64_t value() const { return value_; }

 private:
  void add_byte(uint8_t byte) { value_ = (value_ ^ byte) * 1099511628211u; }
  uint64_t value_ = 14695981039346656037u;
};

}  // namespace

VocabSet::VocabSet(size_t vocab_size, std::vector<uint32_t> ids)
    : ids_(std::move(ids)), mask_(vocab_size) {
  std::sort(ids_.begin(), ids_.end());
  ids_.erase(std::unique(ids_.begin(), ids_.end()), ids_.end());
  WEFT_ASSERT(ids_.empty() || ids_.back() < vocab_size);
  for (const uint32_t id : ids_) mask_.allow(static_cast<int32_t>(id));
}

std::vector<uint32_t> required_tokens(const formats::Tokenizer& tokenizer,
                                      std::string_view chat_template) {
  std::vector<uint32_t> ids;
  for (size_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (is_required(tokenizer, static_cast<Token>(id), chat_template))
      ids.push_back(static_cast<uint32_t>(id));
  return ids;
}

std::string tokenizer_hash(const formats::Tokenizer& tokenizer) {
  Hash hash;
  for (size_t id = 0; id < tokenizer.vocab_size(); ++id) {
    hash.add(tokenizer.text(static_cast<Token>(id)));
    hash.add(static_cast<uint32_t>(tokenizer.kind(static_cast<Token>(id))));
  }
  for (const Token token :
       tokenizer.encode("Internationalisation 20250815: \"naïve\" façade, übermäßig; переводчик "
                        "переводит 翻訳者 🦙\n\tfor (int i = 0; i < n; ++i) sum += values[i];",
                        {.add_special = false, .parse_special = false}))
    hash.add(static_cast<uint32_t>(token));
  return fmt::format("{:016x}", hash.value());
}

}  // namespace weft::text
