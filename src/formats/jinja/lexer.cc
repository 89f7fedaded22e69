#include "formats/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "formats/jinja/strings.h"
#include "formats/unicode.h"

namespace weft::formats::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}
bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Line ends become \n, and the last one is dropped.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize(source)) {}

  std::vector<Token> run() {
    while (pos_ < text_.size()) read_data();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::string message) { throw SyntaxError{here(), std::move(message)}; }

  Position here() {
    // Positions only grow, so counting goes on from the last one.
    for (; counted_ < pos_; ++counted_) {
      if (text_[counted_] == '\n') {
        ++at_.line;
        at_.column = 1;
      } else if ((text_[counted_] & 0xC0) != 0x80) {
        ++at_.column;
      }
    }
    return at_;
  }

  Token& add(TokenKind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), 0, 0, here()});
    return tokens_.back();
  }

  bool starts(std::string_view what) const {
    return std::string_view(text_).substr(pos_, what.size()) == what;
  }

  void skip_blanks() {
    while (pos_ < text_.size() && is_blank(text_[pos_])) ++pos_;
  }

  // The sign after an opening delimiter: '-', '+' or 0.
  char sign_at(size_t pos) const {
    const char c = pos < text_.size() ? text_[pos] : 0;
    return c == '-' || c == '+' ? c : 0;
  }

  // Text up to a tag at `end`, stripped as the tag asks.
  std::string_view data_before(size_t end, char sign, bool is_variable) const {
    std::string_view data = std::string_view(text_).substr(pos_, end - pos_);
    if (sign == '-') return strip(data, Side::kRight);
    if (sign == '+' || is_variable) return data;
    const size_t line = data.rfind('\n') + 1;  // 0 if there is none
    if (line == 0 && !line_starting_) return data;
    const std::string_view margin = data.substr(line);
    return strip(margin, Side::kBoth).empty() ? data.substr(0, line) : data;
  }

  void add_data(std::string_view data) {
    if (!data.empty()) add(TokenKind::kData, std::string(data));
  }

  // Everything from here to the next tag, and that tag.
  void read_data() {
    size_t open = pos_;
    for (;; ++open) {
      open = text_.find('{', open);
      if (open == std::string::npos || open + 1 >= text_.size()) {
        add_data(std::string_view(text_).substr(pos_));
        pos_ = text_.size();
        return;
      }
      const char next = text_[open + 1];
      if (next == '%' || next == '{' || next == '#') break;
    }
    const char kind = text_[open + 1];
    const char sign = sign_at(open + 2);
    add_data(data_before(open, sign, kind == '{'));
    pos_ = open;
    if (kind == '#') {
      read_comment();
    } else if (kind == '{') {
      add(TokenKind::kVariableBegin, "");
      pos_ = open + 2 + (sign != 0);
      read_tag("}}", TokenKind::kVariableEnd);
    } else if (!read_raw()) {
      add(TokenKind::kBlockBegin, "");
      pos_ = open + 2 + (sign != 0);
      read_tag("%}", TokenKind::kBlockEnd);
    }
  }

  void read_comment() {
    const size_t begin = pos_ + 2 + (sign_at(pos_ + 2) != 0);
    const size_t end = text_.find("#}", begin);
    if (end == std::string::npos) fail("Missing end of comment tag");
    const bool has_sign = end > begin && (text_[end - 1] == '-' || text_[end - 1] == '+');
    pos_ = end;
    finish_tag(has_sign ? text_[end - 1] : char{0}, true);
  }

  // After the closing delimiter at pos_: '-' eats all white space, else one line end is trimmed.
  void finish_tag(char sign, bool trims) {
    pos_ += 2;
    const size_t after = pos_;
    if (sign == '-') {
      skip_white_space();
    } else if (sign != '+' && trims && pos_ < text_.size() && text_[pos_] == '\n') {
      ++pos_;
    }
    line_starting_ = pos_ > after && text_[pos_ - 1] == '\n';
  }

  void skip_white_space() {
    const std::string_view rest = std::string_view(text_).substr(pos_);
    for (size_t i = 0; i < rest.size();) {
      const size_t length = read_utf8(rest, i).length;
      if (!strip(rest.substr(i, length), Side::kBoth).empty()) return;
      i += length;
      pos_ += length;
    }
  }

  // {% raw %} up to and with {% endraw %}; false if the tag at pos_ is another.
  bool read_raw() {
    size_t end = 0;
    char sign = 0;
    if (!match_word_tag(pos_, "raw", end, sign) || sign == '+') return false;
    pos_ = end - 2;
    finish_tag(sign, false);
    for (size_t open = text_.find("{%", pos_); open != std::string::npos;
         open = text_.find("{%", open + 2)) {
      if (!match_word_tag(open, "endraw", end, sign)) continue;
      add_data(data_before(open, sign_at(open + 2), false));
      pos_ = end - 2;
      finish_tag(sign, true);
      return true;
    }
    fail("Missing end of raw directive");
  }

  // {%[-+]? word [-+]?%} at `open`; `end` is behind it and `sign` the one before %}.
  bool match_word_tag(size_t open, std::string_view word, size_t& end, char& sign) const {
    size_t i = open + 2 + (sign_at(open + 2) != 0);
    while (i < text_.size() && is_blank(text_[i])) ++i;
    if (std::string_view(text_).substr(i, word.size()) != word) return false;
    i += word.size();
    while (i < text_.size() && is_blank(text_[i])) ++i;
    sign = sign_at(i);
    i += sign != 0;
    if (std::string_view(text_).substr(i, 2) != "%}") return false;
    end = i + 2;
    return true;
  }

  // The tokens of a tag, up to and with its closing delimiter.
  void read_tag(std::string_view close, TokenKind close_kind) {
    std::vector<char> open_brackets;
    for (;;) {
      skip_blanks();
      if (pos_ >= text_.size())
        fail(fmt::format("unexpected end of template, expected '{}'", close));
      if (open_brackets.empty()) {
        char sign = starts("-") || (starts("+") && close == "%}") ? text_[pos_] : 0;
        if (std::string_view(text_).substr(pos_ + (sign != 0), 2) != close) sign = 0;
        if (std::string_view(text_).substr(pos_ + (sign != 0), 2) == close) {
          add(close_kind, "");
          pos_ += sign != 0;
          finish_tag(sign, close == "%}");
          return;
        }
      }
      read_token(open_brackets);
    }
  }

  void read_token(std::vector<char>& open_brackets) {
    const char c = text_[pos_];
    if (is_digit(c)) {
      read_number();
    } else if (is_name_start(c)) {
      size_t end = pos_;
      while (end < text_.size() && (is_name_start(text_[end]) || is_digit(text_[end]))) ++end;
      add(TokenKind::kName, text_.substr(pos_, end - pos_));
      pos_ = end;
    } else if (c == '"' || c == '\'') {
      read_string();
    } else {
      read_operator(open_brackets);
    }
  }

  void read_operator(std::vector<char>& open_brackets) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kOne = "+-/*%~[](){}><=.:|,;";
    std::string_view text = std::string_view(text_).substr(pos_, 2);
    if (std::find(std::begin(kTwo), std::end(kTwo), text) == std::end(kTwo)) {
      text = text.substr(0, 1);
      if (kOne.find(text[0]) == std::string_view::npos) {
        fail(fmt::format("unexpected char '{}'", text));
      }
    }
    const char c = text[0];
    if (c == '(' || c == '[' || c == '{') {
      open_brackets.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (open_brackets.empty()) fail(fmt::format("unexpected '{}'", c));
      if (open_brackets.back() != c) {
        fail(fmt::format("unexpected '{}', expected '{}'", c, open_brackets.back()));
      }
      open_brackets.pop_back();
    }
    add(TokenKind::kOperator, std::string(text));
    pos_ += text.size();
  }

  void read_number() {
    size_t end = pos_;
    const auto digits = [&] {
      while (end < text_.size() &&
             (is_digit(text_[end]) ||
              (text_[end] == '_' && end + 1 < text_.size() && is_digit(text_[end + 1])))) {
        ++end;
      }
    };
    const auto digit_at = [&](size_t i) { return i < text_.size() && is_digit(text_[i]); };
    digits();
    bool is_float = false;
    // `x.0.1` is two subscripts, not a float.
    const bool after_dot = !tokens_.empty() && tokens_.back().text == "." &&
                           tokens_.back().kind == TokenKind::kOperator;
    if (!after_dot && end < text_.size() && text_[end] == '.' && digit_at(end + 1)) {
      is_float = true;
      ++end;
      digits();
    }
    if (!after_dot && end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const bool sign = end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-');
      if (digit_at(end + 1 + sign)) {
        is_float = true;
        end += 1 + sign;
        digits();
      }
    }
    std::string digits_only = text_.substr(pos_, end - pos_);
    digits_only.erase(std::remove(digits_only.begin(), digits_only.end(), '_'), digits_only.end());
    const char* first = digits_only.data();
    const char* last = first + digits_only.size();
    if (is_float) {
      double number = 0;
      if (std::from_chars(first, last, number).ec != std::errc()) fail("number out of range");
      add(TokenKind::kFloat, "").number = number;
    } else {
      int64_t integer = 0;
      if (std::from_chars(first, last, integer).ec != std::errc()) {
        throw SyntaxError{here(), "integers beyond 64 bits are not supported", true};
      }
      add(TokenKind::kInteger, "").integer = integer;
    }
    pos_ = end;
  }

  void read_string() {
    const char quote = text_[pos_];
    std::string out;
    size_t i = pos_ + 1;
    for (; i < text_.size() && text_[i] != quote; ++i) {
      if (text_[i] == '\\') {
        read_escape(i, out);
      } else {
        out += text_[i];
      }
    }
    if (i >= text_.size()) fail("unterminated string");
    add(TokenKind::kString, std::move(out));
    pos_ = i + 1;
  }

  // At a backslash; leaves `i` on the last byte of the escape.
  void read_escape(size_t& i, std::string& out) {
    static constexpr std::string_view kLetters = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
    const char c = ++i < text_.size() ? text_[i] : 0;
    const size_t simple = c == 0 ? std::string_view::npos : kLetters.find(c);
    if (simple != std::string_view::npos) {
      out += kValues[simple];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      append_utf8(out, read_code(i + 1, c == 'x' ? 2 : c == 'u' ? 4 : 8));
      i += c == 'x' ? 2 : c == 'u' ? 4 : 8;
    } else if (c >= '0' && c <= '7') {
      char32_t code = 0;
      size_t end = i;
      while (end < text_.size() && end < i + 3 && text_[end] >= '0' && text_[end] <= '7') {
        code = code * 8 + static_cast<char32_t>(text_[end++] - '0');
      }
      append_utf8(out, code);
      i = end - 1;
    } else if (c == 'N') {
      throw SyntaxError{here(), "\\N{...} escapes are not supported", true};
    } else if (c != '\n') {  // a line end is joined; any other escape stays as it is
      out += '\\';
      if (c != 0) out += c;
    }
  }

  char32_t read_code(size_t begin, size_t digits) {
    uint32_t code = 0;
    if (begin + digits > text_.size()) fail("truncated escape in a string");
    const char* first = text_.data() + begin;
    const auto end = std::from_chars(first, first + digits, code, 16);
    if (end.ec != std::errc() || end.ptr != first + digits || code > 0x10FFFF) {
      fail("malformed escape in a string");
    }
    if (code >= 0xD800 && code <= 0xDFFF) {
      throw SyntaxError{here(), "surrogate escapes are not supported", true};
    }
    return code;
  }

  const std::string text_;
  size_t pos_ = 0, counted_ = 0;
  Position at_;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace weft::formats::jinja
