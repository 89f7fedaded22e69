#include "text/grammar/json_pattern.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::text::grammar {
namespace {

constexpr size_t kDeepest = 32;

CharSet class_named(char name) {
  switch (name) {
    case 'd':
      return CharSet({{'0', '9'}});
    case 'w':
      return CharSet({{'0', '9'}, {'a', 'z'}, {'A', 'Z'}, {'_', '_'}});
    default:  // s: ECMA's WhiteSpace and LineTerminator
      return CharSet({{'\t', '\r'},
                      {' ', ' '},
                      {0xA0, 0xA0},
                      {0x1680, 0x1680},
                      {0x2000, 0x200A},
                      {0x2028, 0x2029},
                      {0x202F, 0x202F},
                      {0x205F, 0x205F},
                      {0x3000, 0x3000},
                      {0xFEFF, 0xFEFF}});
  }
}

class Parser {
 public:
  Parser(GrammarBuilder& builder, JsonText& json, std::string_view pattern)
      : builder_(builder), json_(json), text_(pattern) {}

  Symbol parse() {
    if (!take('^')) error("must begin with ^: it is of the whole string");
    // The anchors bind closer than | does: what they would mean then is left to other programs.
    const Symbol body = builder_.declare();
    const size_t num_alternatives = parse_alternatives(body, 0);
    if (!take('$') || pos_ != text_.size())
      error("must end with $, and has something that fits nowhere");
    if (num_alternatives > 1) error("has | beside ^ and $: put it into parentheses");
    const Symbol quote = builder_.literal("\"");
    return builder_.sequence({quote, body, quote});
  }

 private:
  template <typename... Args>
  [[noreturn]] void error(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::kInvalidInput, "'pattern' {} (at byte {} of {})",
         fmt::format(format, std::forward<Args>(args)...), pos_, text_);
  }
  char peek(size_t ahead = 0) const {
    return pos_ + ahead < text_.size() ? text_[pos_ + ahead] : '\0';
  }
  bool take(char c) {
    if (pos_ >= text_.size() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }

  size_t parse_alternatives(Symbol into, size_t depth) {
    size_t count = 0;
    do {
      builder_.add_alternative(into, parse_sequence(depth));
      ++count;
    } while (take('|'));
    return count;
  }

  Sequence parse_sequence(size_t depth) {
    Sequence out;
    while (pos_ < text_.size() && peek() != '|' && peek() != ')' && peek() != '$') {
      const Symbol atom = parse_atom(depth);
      out.push_back(parse_quantifier(atom));
    }
    return out;
  }

  Symbol parse_atom(size_t depth) {
    const char c = peek();
    if (take('(')) {
      if (depth == kDeepest) error("has groups nested more than {} deep", kDeepest);
      if (take('?') && !take(':')) error("has a group with ?, of which only (?: is known");
      const Symbol group = builder_.declare();
      parse_alternatives(group, depth + 1);
      if (!take(')')) error("lacks a )");
      return group;
    }
    if (take('[')) return json_.char_in_string(parse_class());
    if (take('.'))  // ECMA: no line terminators
      return json_.char_in_string(
          CharSet({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}).complement());
    if (c == '*' || c == '+' || c == '?' || c == '{') error("has nothing before {} to repeat", c);
    if (c == '^') error("has ^ in its middle");
    return json_.char_in_string(parse_char_or_class());
  }

  Symbol parse_quantifier(Symbol atom) {
    size_t least = 0;
    std::optional<size_t> most;
    if (take('*')) {
    } else if (take('+')) {
      least = 1;
    } else if (take('?')) {
      most = 1;
    } else if (take('{')) {
      least = parse_number();
      most = least;
      if (take(',')) {
        most.reset();
        if (peek() != '}') most = parse_number();
      }
      if (!take('}')) error("lacks a }}");
      if (most && *most < least) error("repeats at least {} and at most {} times", least, *most);
    } else {
      return atom;
    }
    if (peek() == '?' || peek() == '+' || peek() == '*' || peek() == '{')
      error("has a repetition after a repetition");
    return builder_.repeat(atom, least, most);
  }

  size_t parse_number() {
    constexpr size_t kLargest = size_t{1} << 32;
    if (peek() < '0' || peek() > '9') error("lacks a number");
    size_t value = 0;
    for (; peek() >= '0' && peek() <= '9'; ++pos_)
      value = std::min(kLargest, value * 10 + static_cast<size_t>(peek() - '0'));
    return value;
  }

  CharSet parse_class() {
    const bool negated = take('^');
    std::vector<CharRange> ranges;
    const auto add = [&](const CharSet& set) {
      ranges.insert(ranges.end(), set.ranges().begin(), set.ranges().end());
    };
    while (!take(']')) {
      if (pos_ == text_.size()) error("lacks a ]");
      const CharSet first = parse_char_or_class();
      if (peek() != '-' || peek(1) == ']') {
        add(first);
        continue;
      }
      ++pos_;
      const CharSet last = parse_char_or_class();
      if (!is_char(first) || !is_char(last) || last.ranges()[0].first < first.ranges()[0].first)
        error("has a range that ends before it begins, or is of classes");
      add(CharSet({{first.ranges()[0].first, last.ranges()[0].first}}));
    }
    const CharSet set(std::move(ranges));
    return negated ? set.complement() : set;
  }

  static bool is_char(const CharSet& set) {
    return set.ranges().size() == 1 && set.ranges()[0].first == set.ranges()[0].last;
  }

  CharSet parse_char_or_class() {
    if (!take('\\')) {
      if (pos_ == text_.size()) error("ends too early");
      const formats::Utf8Unit unit = formats::read_utf8(text_, pos_);
      if (!unit.valid) error("is not valid UTF-8");
      pos_ += unit.length;
      return CharSet::single(unit.code);
    }
    const char c = peek();
    if (pos_ < text_.size()) ++pos_;
    switch (c) {
      case 'd':
      case 'w':
      case 's':
        return class_named(c);
      case 'D':
      case 'W':
      case 'S':
        return class_named(static_cast<char>(c - 'A' + 'a')).complement();
      case 'n':
        return CharSet::single('\n');
      case 'r':
        return CharSet::single('\r');
      case 't':
        return CharSet::single('\t');
      case 'f':
        return CharSet::single('\f');
      case 'x':
        return CharSet::single(parse_hex(2));
      case 'u':
        return CharSet::single(parse_hex(4));
      default:
        break;
    }
    constexpr std::string_view kPunctuation = "^$\\.*+?()[]{}|/-\"'!#%&,:;<=>@_`~ ";
    if (c == '\0' || kPunctuation.find(c) == std::string_view::npos) {
      --pos_;
      error("has an escape that is not known");
    }
    return CharSet::single(static_cast<char32_t>(c));
  }

  char32_t parse_hex(int digits) {
    char32_t value = 0;
    for (int i = 0; i < digits; ++i, ++pos_) {
      const char c = peek();
      const bool letter = (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      if (!letter && !(c >= '0' && c <= '9')) error("has an escape that lacks hexadecimal digits");
      value = value * 16 + static_cast<char32_t>(letter ? (c | 0x20) - 'a' + 10 : c - '0');
    }
    return value;
  }

  GrammarBuilder& builder_;
  JsonText& json_;
  std::string_view text_;
  size_t pos_ = 0;
};

}  // namespace

Symbol add_json_pattern(GrammarBuilder& builder, JsonText& json, std::string_view pattern) {
  return Parser(builder, json, pattern).parse();
}

}  // namespace weft::text::grammar
