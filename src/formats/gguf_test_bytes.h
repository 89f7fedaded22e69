// Puts GGUF files together byte by byte, also wrong ones. For tests.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace weft::formats {

class GgufBytes {
 public:
  GgufBytes& u32(uint32_t v) { return number(v, 4); }
  GgufBytes& u64(uint64_t v) { return number(v, 8); }
  GgufBytes& text(std::string_view s) {
    bytes_.insert(bytes_.end(), s.begin(), s.end());
    return *this;
  }
  GgufBytes& string(std::string_view s) { return u64(s.size()).text(s); }
  GgufBytes& zeros(size_t n) {
    bytes_.resize(bytes_.size() + n);
    return *this;
  }
  GgufBytes& pad() { return zeros((32 - bytes_.size() % 32) % 32); }
  GgufBytes& append(const GgufBytes& other) {
    bytes_.insert(bytes_.end(), other.bytes_.begin(), other.bytes_.end());
    return *this;
  }
  GgufBytes& header(uint32_t version, uint64_t tensors, uint64_t metadata) {
    return text("GGUF").u32(version).u64(tensors).u64(metadata);
  }
  GgufBytes& tensor(std::string_view name, uint64_t size, uint32_t type, uint64_t offset) {
    return string(name).u32(1).u64(size).u32(type).u64(offset);
  }
  std::span<const uint8_t> span() const { return bytes_; }

 private:
  GgufBytes& number(uint64_t v, size_t size) {
    for (size_t i = 0; i < size; ++i) bytes_.push_back(static_cast<uint8_t>(v >> (8 * i)));
    return *this;
  }
  std::vector<uint8_t> bytes_;
};

}  // namespace weft::formats
