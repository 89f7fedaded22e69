#include "formats/tokenizer_vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"

namespace weft::formats {
namespace {

uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

template <typename T>
uint64_t load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

constexpr uint64_t kSeed = 0x9E3779B97F4A7C15u;

// Texts that end a model's answer in the chat formats we know, whatever the metadata says.
constexpr std::string_view kEndTexts[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "<|EOT|>",
    "_<EOT>",
    "<end_of_utterance>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
};
// The same, but also plain text that a vocabulary may hold as an ordinary token (Qwen2's "</s>",
// which HTML needs): they count where the model calls them special.
constexpr std::string_view kEndTextsIfSpecial[] = {"</s>", "<eos>", "[EOS]"};

// The end of a turn, where the metadata doesn't name it; the first that the vocabulary has.
constexpr std::string_view kTurnEndTexts[] = {
    "<|eot_id|>",      "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
    "<|end_of_text|>", "<EOT>",      "_<EOT>",  "[EOT]",         "<｜end▁of▁sentence｜>",
};

}  // namespace

// A multiply-and-fold hash. Reads of fixed size that may overlap: texts are mostly 3 to 8 bytes
// long.
uint64_t hash_text(std::string_view text) {
  const char* data = text.data();
  const size_t size = text.size();
  uint64_t hash = kSeed * (size + 1), tail = 0;
  if (size > 8) {
    for (size_t pos = 0; pos + 8 < size; pos += 8) {
      hash = mix(hash ^ load<uint64_t>(data + pos), kSeed);
    }
    tail = load<uint64_t>(data + size - 8);
  } else if (size >= 4) {
    tail = load<uint32_t>(data) << 32 | load<uint32_t>(data + size - 4);
  } else if (size > 0) {
    tail = load<uint8_t>(data) << 16 | load<uint8_t>(data + size / 2) << 8 |
           load<uint8_t>(data + size - 1);
  }
  return mix(hash ^ tail, 0xD6E8FEB86659FD93u);
}

TextIndex::TextIndex(size_t expected) {
  const size_t capacity = std::bit_ceil(std::max<size_t>(16, expected + expected / 2));
  slots_.resize(capacity);
  mask_ = capacity - 1;
}

bool TextIndex::insert(std::span<const std::string_view> texts, Token id, uint64_t hash) {
  const uint32_t tag = static_cast<uint32_t>(hash >> 32);
  for (size_t i = hash & mask_;; i = (i + 1) & mask_) {
    Slot& slot = slots_[i];
    if (slot.next_id == 0) {
      slot = {tag, static_cast<uint32_t>(id) + 1};
      return true;
    }
    if (slot.tag == tag && texts[slot.next_id - 1] == texts[static_cast<size_t>(id)]) return false;
  }
}

Token TextIndex::find(std::span<const std::string_view> texts, std::string_view text) const {
  const uint64_t hash = hash_text(text);
  const uint32_t tag = static_cast<uint32_t>(hash >> 32);
  for (size_t i = hash & mask_;; i = (i + 1) & mask_) {
    const Slot& slot = slots_[i];
    if (slot.next_id == 0) return -1;
    if (slot.tag == tag && texts[slot.next_id - 1] == text) {
      return static_cast<Token>(slot.next_id - 1);
    }
  }
}

Vocabulary::Vocabulary(std::vector<std::string_view> texts, std::vector<TokenKind> kinds,
                       std::shared_ptr<const void> owner)
    : owner_(std::move(owner)),
      texts_(std::move(texts)),
      kinds_(std::move(kinds)),
      index_(texts_.size()) {
  WEFT_ASSERT(texts_.size() == kinds_.size());
  hashes_.resize(texts_.size());
  for (size_t id = 0; id < texts_.size(); ++id) {
    longest_ = std::max(longest_, texts_[id].size());
    hashes_[id] = hash_text(texts_[id]);
  }
  constexpr size_t kAhead = 16;  // the table misses the cache: ask for slots early
  for (size_t id = 0; id < texts_.size(); ++id) {
    if (id + kAhead < texts_.size()) index_.prefetch(hashes_[id + kAhead]);
    const Token token = static_cast<Token>(id);
    if (texts_[id].empty() || index_.insert(texts_, token, hashes_[id])) continue;
    fail(ErrorKind::kInvalidInput,
         "the vocabulary has '{}' twice: tokens {} and {}. The file is damaged or was converted "
         "wrongly: fetch or convert it again",
         texts_[id], index_.find(texts_, texts_[id]), id);
  }
}

Token Vocabulary::byte_token(uint8_t byte) const {
  constexpr char kHex[] = "0123456789ABCDEF";
  const char name[] = {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
  return find({name, sizeof name});
}

bool Vocabulary::is_end(Token token) const {
  return std::binary_search(ends_.begin(), ends_.end(), token);
}

void Vocabulary::find_end_tokens(std::span<const Token> more) {
  for (const std::string_view text : kTurnEndTexts) {
    if (special.eot) break;
    if (const Token id = find(text); id >= 0) special.eot = id;
  }
  ends_.assign(more.begin(), more.end());
  if (special.eos) ends_.push_back(*special.eos);
  if (special.eot) ends_.push_back(*special.eot);
  for (const std::string_view text : kEndTexts) {
    if (const Token id = find(text); id >= 0) ends_.push_back(id);
  }
  for (const std::string_view text : kEndTextsIfSpecial) {
    const Token id = find(text);
    if (id >= 0 && kind(id) != TokenKind::kNormal) ends_.push_back(id);
  }
  // In the harmony format <|end|> closes one message of several; the answer goes on.
  const Token message_end = find("<|end|>");
  if (message_end >= 0 && find("<|return|>") >= 0 && find("<|call|>") >= 0) {
    std::erase(ends_, message_end);
  }
  std::sort(ends_.begin(), ends_.end());
  ends_.erase(std::unique(ends_.begin(), ends_.end()), ends_.end());
  for (const Token id : ends_) set_kind(id, TokenKind::kControl);
}

}  // namespace weft::formats
