// Plain values one after the other, as one rank sends them to another that runs this same program.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace weft::parallel {

class LetterWriter {
 public:
  template <typename T>
  void put(T value) {
    put_all(std::span<const T>(&value, 1));
  }
  template <typename T>
  void put_all(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    const size_t at = bytes_.size();
    bytes_.resize(at + values.size_bytes());
    if (!values.empty()) std::memcpy(bytes_.data() + at, values.data(), values.size_bytes());
  }
  // Their number first.
  template <typename T>
  void put_counted(std::span<const T> values) {
    put<uint64_t>(values.size());
    put_all(values);
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::exchange(bytes_, {}); }

 private:
  std::vector<std::byte> bytes_;
};

class LetterReader {
 public:
  explicit LetterReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  bool at_end() const { return bytes_.empty(); }
  template <typename T>
  T get() {
    T value{};
    get_all(std::span<T>(&value, 1));
    return value;
  }
  template <typename T>
  void get_all(std::span<T> values) {
    WEFT_ASSERT(values.size_bytes() <= bytes_.size());  // the handshake: the same program
    if (!values.empty()) std::memcpy(values.data(), bytes_.data(), values.size_bytes());
    bytes_ = bytes_.subspan(values.size_bytes());
  }
  template <typename T>
  std::vector<T> get_counted() {
    std::vector<T> out(get<uint64_t>());
    get_all(std::span(out));
    return out;
  }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace weft::parallel
