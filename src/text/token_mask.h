// A set of tokens, a bit for each of the vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weft::text {

class TokenMask {
 public:
  explicit TokenMask(size_t vocab_size) : size_(vocab_size), words_((vocab_size + 63) / 64) {}

  size_t size() const { return size_; }  // tokens beyond it are not in the set
  void allow(int32_t token) {
    words_[static_cast<size_t>(token) / 64] |= uint64_t{1} << (static_cast<size_t>(token) % 64);
  }
  void keep_only(const TokenMask& other) {  // what both have
    for (size_t i = 0; i < words_.size(); ++i)
      words_[i] &= i < other.words_.size() ? other.words_[i] : 0;
  }
  bool allows(int32_t token) const {
    const auto i = static_cast<size_t>(token);
    return i < size_ && (words_[i / 64] >> (i % 64) & 1) != 0;
  }
  // Token 64 i + b is bit b of word i.
  std::span<const uint64_t> words() const { return words_; }

  bool operator==(const TokenMask&) const = default;

 private:
  size_t size_;
  std::vector<uint64_t> words_;
};

}  // namespace weft::text
