#include "text/grammar/gbnf.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::text::grammar {
namespace {

bool is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_';
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

class Parser {
 public:
  Parser(std::string_view text, const GbnfLimits& limits)
      : text_(text), limits_(limits), builder_(limits.grammar) {}

  Grammar parse() {
    if (text_.size() > limits_.max_bytes)
      fail(ErrorKind::kInvalidInput, "the grammar has {} bytes, {} at most", text_.size(),
           limits_.max_bytes);
    skip_space(true);
    while (!at_end()) parse_rule();
    for (const auto& [name, rule] : rules_)
      if (!rule.defined) error_at(rule.first_use, "rule '{}' is used but not defined", name);
    const auto root = rules_.find("root");
    if (root == rules_.end())
      fail(ErrorKind::kInvalidInput,
           "the grammar has no rule 'root', which an answer has to match");
    return builder_.build(root->second.symbol);
  }

 private:
  struct Rule {
    Symbol symbol;
    size_t first_use = 0;
    bool defined = false;
  };

  bool at_end() const { return pos_ == text_.size(); }
  char peek(size_t ahead = 0) const {
    return pos_ + ahead < text_.size() ? text_[pos_ + ahead] : '\0';
  }
  bool take(char c) {
    if (at_end() || text_[pos_] != c) return false;
    ++pos_;
    return true;
  }

  template <typename... Args>
  [[noreturn]] void error_at(size_t pos, fmt::format_string<Args...> format, Args&&... args) const {
    const std::string_view before = text_.substr(0, pos);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t line_start = before.rfind('\n');
    const size_t column = line_start == std::string_view::npos ? pos + 1 : pos - line_start;
    fail(ErrorKind::kInvalidInput, "grammar, line {}, column {}: {}", line, column,
         fmt::format(format, std::forward<Args>(args)...));
  }

  void skip_space(bool newlines) {
    while (!at_end()) {
      const char c = peek();
      if (c == '#')
        while (!at_end() && peek() != '\n') ++pos_;
      else if (c == ' ' || c == '\t' || (newlines && (c == '\n' || c == '\r')))
        ++pos_;
      else
        break;
    }
  }

  std::string parse_name() {
    const size_t start = pos_;
    while (!at_end() && is_name_char(peek())) ++pos_;
    if (pos_ == start) error_at(start, "a rule's name is missing here");
    return std::string(text_.substr(start, pos_ - start));
  }

  Rule& rule(const std::string& name, size_t use) {
    const auto [it, is_new] = rules_.try_emplace(name);
    if (is_new) it->second = {.symbol = builder_.declare(name), .first_use = use};
    return it->second;
  }

  // rule ::= name "::=" alternatives newline
  void parse_rule() {
    const size_t start = pos_;
    const std::string name = parse_name();
    skip_space(false);
    if (text_.substr(pos_, 3) != "::=") error_at(pos_, "'::=' is missing after '{}'", name);
    pos_ += 3;
    Rule& defined = rule(name, start);
    if (defined.defined) error_at(start, "rule '{}' is defined a second time", name);
    defined.defined = true;
    const Symbol symbol = defined.symbol;
    skip_space(true);
    parse_alternatives(symbol, 0);
    if (!at_end() && peek() != '\n' && peek() != '\r') error_at(pos_, "this fits nowhere");
    skip_space(true);
  }

  void parse_alternatives(Symbol into, size_t nesting) {
    while (true) {
      builder_.add_alternative(into, parse_sequence(nesting));
      if (nesting == 0) {  // the next line may go on with another alternative
        const size_t end = pos_;
        skip_space(true);
        if (peek() != '|') pos_ = end;
      }
      if (!take('|')) return;
      skip_space(true);
    }
  }

  Sequence parse_sequence(size_t nesting) {
    Sequence out;
    while (true) {
      const size_t start = pos_;
      const std::optional<size_t> first = parse_item(out, nesting);
      if (!first) return out;
      skip_space(nesting != 0);
      while (const auto times = parse_repetition(start)) {
        const Symbol what =
            builder_.sequence(Sequence(out.begin() + static_cast<ptrdiff_t>(*first), out.end()));
        out.resize(*first);
        out.push_back(builder_.repeat(what, times->first, times->second));
        skip_space(nesting != 0);
      }
    }
  }

  // Appends one item; gives where in `out` what a repetition after it would repeat begins. Nothing:
  // the sequence ends here.
  std::optional<size_t> parse_item(Sequence& out, size_t nesting) {
    const size_t start = pos_, first = out.size();
    const char c = peek();
    if (at_end()) return std::nullopt;
    if (c == '"') {
      ++pos_;
      // As in llama.cpp, a repetition is of the whole literal.
      while (!take('"')) out.push_back(builder_.chars(CharSet::single(parse_char(start, '"'))));
    } else if (c == '[') {
      ++pos_;
      out.push_back(builder_.chars(parse_class(start)));
    } else if (c == '.') {
      ++pos_;
      out.push_back(builder_.chars(CharSet::any()));
    } else if (c == '(') {
      ++pos_;
      if (nesting == limits_.max_nesting)
        error_at(start, "parentheses are nested more than {} deep", limits_.max_nesting);
      skip_space(true);
      const Symbol group = builder_.declare();
      parse_alternatives(group, nesting + 1);
      if (!take(')')) error_at(at_end() ? start : pos_, "')' is missing");
      out.push_back(group);
    } else if (is_name_char(c)) {
      out.push_back(rule(parse_name(), start).symbol);
    } else if (c == '*' || c == '+' || c == '?' || c == '{') {
      error_at(start, "'{}' has nothing before it to repeat", c);
    } else {
      return std::nullopt;
    }
    return first;
  }

  using Times = std::pair<size_t, std::optional<size_t>>;
  std::optional<Times> parse_repetition(size_t item) {
    const size_t start = pos_;
    if (take('*')) return Times{0, std::nullopt};
    if (take('+')) return Times{1, std::nullopt};
    if (take('?')) return Times{0, 1};
    if (!take('{')) return std::nullopt;
    skip_space(false);
    const auto least = parse_number();
    if (!least) error_at(pos_, "a number is missing after '{{'");
    std::optional<size_t> most = least;
    skip_space(false);
    if (take(',')) {
      skip_space(false);
      most = parse_number();
      skip_space(false);
    }
    if (!take('}')) error_at(pos_, "'}}' is missing");
    if (most && *most < *least)
      error_at(start, "repeats at least {} and at most {} times", *least, *most);
    if (std::max(*least, most.value_or(0)) > limits_.grammar.max_elements)
      error_at(item, "is repeated more than {} times", limits_.grammar.max_elements);
    return Times{*least, most};
  }

  std::optional<size_t> parse_number() {
    constexpr size_t kLargest = size_t{1} << 32;
    if (peek() < '0' || peek() > '9') return std::nullopt;
    size_t value = 0;
    for (; peek() >= '0' && peek() <= '9'; ++pos_)
      value = std::min(kLargest, value * 10 + static_cast<size_t>(peek() - '0'));
    return value;
  }

  CharSet parse_class(size_t start) {
    const bool negated = take('^');
    std::vector<CharRange> ranges;
    while (!take(']')) {
      const size_t at = pos_;
      const char32_t first = parse_char(start, ']');
      char32_t last = first;
      if (peek() == '-' && peek(1) != ']') {
        ++pos_;
        last = parse_char(start, ']');
        if (last < first) error_at(at, "this range of characters ends before it begins");
      }
      ranges.push_back({first, last});
    }
    const CharSet set(std::move(ranges));
    return negated ? set.complement() : set;
  }

  // One character of what began at `start` and is closed by `close`.
  char32_t parse_char(size_t start, char close) {
    if (at_end() || peek() == '\n') error_at(start, "'{}' is missing", close);
    const size_t at = pos_;
    if (!take('\\')) {
      const formats::Utf8Unit unit = formats::read_utf8(text_, pos_);
      if (!unit.valid) error_at(at, "this is not valid UTF-8");
      pos_ += unit.length;
      return unit.code;
    }
    if (at_end()) error_at(at, "something is missing after the backslash");
    const char c = text_[pos_++];
    switch (c) {
      case 'n':
        return '\n';
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case '"':
      case '\\':
      case '[':
      case ']':
      case '-':
      case '^':
        return static_cast<char32_t>(c);
      case 'x':
        return parse_hex(at, 2);
      case 'u':
        return parse_hex(at, 4);
      case 'U':
        return parse_hex(at, 8);
      default:
        error_at(at, "unknown escape; known are \\n \\t \\r \\\" \\\\ \\[ \\] \\- \\^ \\x \\u \\U");
    }
  }

  char32_t parse_hex(size_t at, int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const int digit = hex_digit(peek());
      if (digit < 0) error_at(at, "this escape needs {} hexadecimal digits", digits);
      value = value << 4 | static_cast<uint32_t>(digit);
      ++pos_;
    }
    if (value > kLastChar) error_at(at, "there is no character U+{:X}", value);
    return value;
  }

  std::string_view text_;
  const GbnfLimits& limits_;
  GrammarBuilder builder_;
  std::map<std::string, Rule> rules_;
  size_t pos_ = 0;
};

}  // namespace

Grammar parse_gbnf(std::string_view text, const GbnfLimits& limits) {
  return Parser(text, limits).parse();
}

}  // namespace weft::text::grammar
