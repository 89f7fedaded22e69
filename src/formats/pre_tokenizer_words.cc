#include "formats/pre_tokenizer_words.h"

#include "formats/unicode.h"

namespace weft::formats {
namespace {

enum class Kind : uint8_t { kLetter, kMark, kNumber, kSpace, kOther, kEnd };

struct Character {
  Kind kind = Kind::kEnd;
  uint8_t length = 0;
  char32_t code = 0;
};

Kind kind_of(CharClass c) {
  if (is_letter(c)) return Kind::kLetter;
  if (c == CharClass::kNumber) return Kind::kNumber;
  if (c == CharClass::kSpace) return Kind::kSpace;
  if (c == CharClass::kMark) return Kind::kMark;
  return Kind::kOther;
}

struct AsciiKinds {
  Kind of[128];
  AsciiKinds() {
    for (char32_t code = 0; code < 128; ++code) of[code] = kind_of(char_class(code));
  }
};

// A text and what the pattern at hand takes for a letter.
class Scanner {
 public:
  Scanner(std::string_view text, bool marks_are_letters)
      : text_(text), mark_kind_(marks_are_letters ? Kind::kLetter : Kind::kOther) {}

  Character at(size_t pos) const {
    if (pos >= text_.size()) return {};
    const uint8_t byte = static_cast<uint8_t>(text_[pos]);
    static const AsciiKinds ascii;
    if (byte < 128) return {ascii.of[byte], 1, byte};
    const Utf8Unit unit = read_utf8(text_, pos);
    if (!unit.valid) return {Kind::kOther, unit.length, unit.code};
    const Kind kind = kind_of(char_class(unit.code));
    return {kind == Kind::kMark ? mark_kind_ : kind, unit.length, unit.code};
  }

  size_t end_of_run(Kind kind, size_t pos) const {
    for (Character c = at(pos); c.kind == kind; c = at(pos)) pos += c.length;
    return pos;
  }

  // [\r\n]*
  size_t end_of_newlines(size_t pos) const {
    while (pos < text_.size() && (text_[pos] == '\r' || text_[pos] == '\n')) ++pos;
    return pos;
  }

  // \p{N}{1,limit}
  size_t end_of_numbers(size_t pos, int limit) const {
    for (Character c = at(pos); limit > 0 && c.kind == Kind::kNumber; c = at(pos), --limit) {
      pos += c.length;
    }
    return pos;
  }

  // \s+(?!\S)|\s+ : a run of white space leaves its last character to the word that follows.
  size_t end_of_space(size_t begin) const {
    size_t pos = begin, last = begin;
    for (Character c = at(pos); c.kind == Kind::kSpace; c = at(pos)) {
      last = pos;
      pos += c.length;
    }
    return pos == text_.size() || last == begin ? pos : last;
  }

  // \s*[\r\n]+ : up to the last line end of a run of white space; `begin` if it has none.
  size_t end_of_lines(size_t begin) const {
    size_t pos = begin, end = begin;
    for (Character c = at(pos); c.kind == Kind::kSpace; c = at(pos)) {
      pos += c.length;
      if (c.code == '\r' || c.code == '\n') end = pos;
    }
    return end;
  }

  // 's|'t|'re|'ve|'m|'ll|'d at an apostrophe; `begin` if there is none.
  size_t end_of_contraction(size_t begin, bool any_case) const {
    const Character first = at(begin + 1);
    const char32_t a = folded(first.code, any_case);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return begin + 1 + first.length;
    const size_t second_at = begin + 1 + first.length;
    const Character second = at(second_at);
    const char32_t b = folded(second.code, any_case);
    const bool two = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
    return two ? second_at + second.length : begin;
  }

 private:
  static char32_t folded(char32_t code, bool any_case) {
    if (!any_case) return code;
    if (code >= 'A' && code <= 'Z') return code + ('a' - 'A');
    return code == 0x17F ? 's' : code;  // the long s is an s in any case
  }

  std::string_view text_;
  Kind mark_kind_;
};

size_t end_of_gpt2_word(const Scanner& scan, size_t begin) {
  const Character first = scan.at(begin);
  if (first.code == '\'') {
    const size_t end = scan.end_of_contraction(begin, /*any_case=*/false);
    if (end > begin) return end;
  }
  size_t run = begin;
  Kind kind = first.kind;
  if (first.code == ' ') {
    const Kind next = scan.at(begin + 1).kind;
    if (next != Kind::kSpace && next != Kind::kEnd) {
      run = begin + 1;
      kind = next;
    }
  }
  return kind == Kind::kSpace ? scan.end_of_space(begin) : scan.end_of_run(kind, run);
}

size_t end_of_llama3_word(const Scanner& scan, size_t begin, int digits) {
  const Character first = scan.at(begin);
  if (first.code == '\'') {
    const size_t end = scan.end_of_contraction(begin, /*any_case=*/true);
    if (end > begin) return end;
  }
  if (first.kind == Kind::kLetter) return scan.end_of_run(Kind::kLetter, begin);
  if (first.kind == Kind::kNumber) return scan.end_of_numbers(begin, digits);
  const size_t after = begin + first.length;
  const Kind next = scan.at(after).kind;
  if (next == Kind::kLetter && first.code != '\r' && first.code != '\n') {
    return scan.end_of_run(Kind::kLetter, after);
  }
  if (first.kind == Kind::kOther || (first.code == ' ' && next == Kind::kOther)) {
    return scan.end_of_newlines(scan.end_of_run(Kind::kOther, after));
  }
  const size_t lines = scan.end_of_lines(begin);
  return lines > begin ? lines : scan.end_of_space(begin);
}

}  // namespace

size_t end_of_word(WordPattern pattern, std::string_view text, size_t begin) {
  const Scanner scan(text, pattern == WordPattern::kQwen35);
  switch (pattern) {
    case WordPattern::kGpt2:
      return end_of_gpt2_word(scan, begin);
    case WordPattern::kLlama3:
      return end_of_llama3_word(scan, begin, 3);
    case WordPattern::kQwen2:
    case WordPattern::kQwen35:
      return end_of_llama3_word(scan, begin, 1);
  }
  return text.size();
}

}  // namespace weft::formats
