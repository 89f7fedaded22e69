// What tokenizers need of Unicode 14.0: reading UTF-8 that may be broken, the class of a character,
// and normalization form C. Thread-safe (tables only).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace weft::formats {

// General categories, as far as pre-tokenizer patterns tell them apart. kSpace is White_Space:
// the Z categories and the controls that are white space; kOther is the rest of C.
enum class CharClass : uint8_t {
  kOther,
  kUpper,
  kLower,
  kTitle,
  kModifier,
  kOtherLetter,
  kMark,
  kNumber,
  kPunctuation,
  kSymbol,
  kSpace,
};

constexpr bool is_letter(CharClass c) {
  return c >= CharClass::kUpper && c <= CharClass::kOtherLetter;
}

CharClass char_class(char32_t code);

// One character of a text. Bytes that are no UTF-8 come out as a unit with `valid` false: the longest
// prefix of a well-formed sequence, at least one byte (Unicode's "maximal subpart" practice).
struct Utf8Unit {
  char32_t code = 0xFFFD;
  uint8_t length = 1;
  bool valid = false;
};

// pos < text.size().
Utf8Unit read_utf8(std::string_view text, size_t pos);
// True if the bytes at the end of a text could still become a character: a proper prefix of one.
bool is_incomplete_utf8(std::string_view tail);
bool is_valid_utf8(std::string_view text);
void append_utf8(std::string& out, char32_t code);

// Appends with every invalid unit replaced by U+FFFD.
void append_valid_utf8(std::string& out, std::string_view bytes);

// Normalization form C; invalid units stay as they are.
std::string to_nfc(std::string_view text);

}  // namespace weft::formats
