#include "formats/jinja/format.h"

#include <algorithm>
#include <cmath>

#include "formats/jinja/strings.h"

namespace weft::formats::jinja {
namespace {

constexpr int64_t kMaxWidth = 100000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// A parsed conversion: what stands between '%' or ':' and the type letter, and the letter.
struct Spec {
  std::string_view fill = " ";
  char align = 0;  // < > ^ =
  bool plus = false, space = false, alternate = false, comma = false;
  int64_t width = 0, precision = -1;
  char type = 0;
};

class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}
  bool done() const { return pos_ >= text_.size(); }
  char peek(size_t ahead = 0) const {
    return pos_ + ahead < text_.size() ? text_[pos_ + ahead] : '\0';
  }
  char next() { return done() ? '\0' : text_[pos_++]; }
  bool skip(char c) {
    if (done() || peek() != c) return false;
    ++pos_;
    return true;
  }
  int64_t number(int64_t absent) {
    if (!is_digit(peek())) return absent;
    int64_t out = 0;
    while (is_digit(peek())) {
      out = out * 10 + (next() - '0');
      if (out > kMaxWidth) refuse("a number in a format string is too large");
    }
    return out;
  }
  std::string_view until(std::string_view any_of) {
    const size_t end = std::min(text_.find_first_of(any_of, pos_), text_.size());
    const std::string_view out = text_.substr(pos_, end - pos_);
    pos_ = end;
    return out;
  }
  std::string_view character() {
    const std::string_view out = characters(text_.substr(pos_, 4))[0];
    pos_ += out.size();
    return out;
  }

 private:
  std::string_view text_;
  size_t pos_ = 0;
};

void append_padded(Text& out, std::string_view text, const Spec& spec, char default_align) {
  const auto size = static_cast<int64_t>(length(text));
  const int64_t missing = std::max<int64_t>(spec.width - size, 0);
  const char align = spec.align != 0 ? spec.align : default_align;
  int64_t before = align == '>' || align == '=' ? missing : align == '^' ? missing / 2 : 0;
  const auto fill = [&](int64_t count) {
    for (; count > 0; --count) out += spec.fill;
  };
  const bool is_signed = !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == ' ');
  if (align == '=' && is_signed) {
    out += text[0];
    text.remove_prefix(1);
  }
  fill(before);
  out += text;
  fill(missing - before);
}

std::string with_sign(std::string digits, const Spec& spec) {
  if (digits[0] == '-') return digits;
  if (spec.plus) return fmt::format("+{}", digits);
  return spec.space ? fmt::format(" {}", digits) : digits;
}

std::string with_commas(std::string digits) {
  const size_t begin = digits[0] == '-' ? 1 : 0;
  size_t end = digits.find_first_not_of("0123456789", begin);
  if (end == std::string::npos) end = digits.size();
  for (size_t at = end; at > begin + 3;) {
    at -= 3;
    digits.insert(at, 1, ',');
  }
  return digits;
}

std::string integer_text(int64_t value, const Spec& spec) {
  std::string out;
  if (spec.type == 'x') {
    out = spec.alternate ? fmt::format("{:#x}", value) : fmt::format("{:x}", value);
  } else if (spec.type == 'X') {
    out = spec.alternate ? fmt::format("{:#X}", value) : fmt::format("{:X}", value);
  } else if (spec.type == 'o') {
    out = fmt::format("{:o}", value);
  } else if (spec.type == 'b') {
    out = fmt::format("{:b}", value);
  } else {
    out = fmt::format("{}", value);
  }
  if (spec.comma) out = with_commas(out);
  return with_sign(std::move(out), spec);
}

std::string float_text(double value, const Spec& spec) {
  const int precision = spec.precision < 0 ? 6 : static_cast<int>(spec.precision);
  std::string out;
  if (!std::isfinite(value)) {
    out = float_repr(value);
  } else if (spec.type == 'e') {
    out = fmt::format("{:.{}e}", value, precision);
  } else if (spec.type == 'g') {
    out = fmt::format("{:.{}g}", value, std::max(precision, 1));
  } else if (spec.type == '%') {
    out = fmt::format("{:.{}f}%", value * 100, precision);
  } else {
    out = fmt::format("{:.{}f}", value, precision);
  }
  if (spec.comma) out = with_commas(out);
  return with_sign(std::move(out), spec);
}

std::string_view shortened(std::string_view text, int64_t count) {
  if (count < 0) return text;
  size_t bytes = 0;
  for (std::string_view c : characters(text)) {
    if (count-- == 0) break;
    bytes += c.size();
  }
  return text.substr(0, bytes);
}

int64_t as_integer(const Value& value, char type) {
  if (value.is_integral()) return value.integer();
  if (!value.is_float() || (type != 'd' && type != 'i' && type != 'u') ||
      !(std::fabs(value.number()) < 9e18)) {
    refuse("%{} format: a number is required, not {}", type, value.type_name());
  }
  return static_cast<int64_t>(value.number());
}

void append_percent(Text& out, const Value& value, Spec spec) {
  Budget& budget = out.budget();
  switch (spec.type) {
    case 's':
      return append_padded(out, shortened(str(value, budget), spec.precision), spec, '>');
    case 'r':
      return append_padded(out, shortened(repr(value, budget), spec.precision), spec, '>');
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
      return append_padded(out, integer_text(as_integer(value, spec.type), spec), spec, '>');
    case 'f':
    case 'F':
    case 'e':
    case 'g':
      if (!value.is_number()) refuse("must be real number, not {}", value.type_name());
      return append_padded(out, float_text(value.number(), spec), spec, '>');
    default:
      unsupported("the conversion '%{}' in a format string", spec.type);
  }
}

Spec percent_spec(Cursor& in) {
  Spec spec;
  for (;;) {
    const char c = in.peek();
    if (c == '-') {
      spec.align = '<';
      spec.fill = " ";
    } else if (c == '0' && spec.align != '<') {
      spec.align = '=';
      spec.fill = "0";
    } else if (c == '+') {
      spec.plus = true;
    } else if (c == ' ') {
      spec.space = true;
    } else if (c == '#') {
      spec.alternate = true;
    } else if (c != '0') {
      break;
    }
    in.next();
  }
  if (in.peek() == '*') unsupported("'*' in a format string");
  spec.width = in.number(0);
  if (in.skip('.')) spec.precision = in.number(0);
  if (in.done()) refuse("incomplete format");
  spec.type = in.next();
  if (spec.type == 's' || spec.type == 'r') spec.fill = " ";  // zeros pad numbers only
  return spec;
}

Spec brace_spec(std::string_view text) {
  Cursor in(text);
  Spec spec;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!in.done()) {
    const size_t first = characters(text)[0].size();
    if (first < text.size() && is_align(text[first])) spec.fill = in.character();
  }
  if (is_align(in.peek())) spec.align = in.next();
  if (in.skip('+')) spec.plus = true;
  if (in.skip(' ')) spec.space = true;
  in.skip('-');
  if (in.skip('#')) spec.alternate = true;
  if (in.skip('0') && spec.align == 0) {
    spec.align = '=';
    spec.fill = "0";
  }
  spec.width = in.number(0);
  if (in.skip(',')) spec.comma = true;
  if (in.skip('.')) spec.precision = in.number(0);
  spec.type = in.next();
  if (!in.done()) refuse("Invalid format specifier");
  return spec;
}

void append_brace(Text& out, const Value& value, std::string_view spec_text) {
  if (spec_text.empty()) return append_str(out, value);
  const Spec spec = brace_spec(spec_text);
  const bool is_text = spec.type == 0 || spec.type == 's';
  if (value.is_string() && is_text) {
    return append_padded(out, shortened(value.string(), spec.precision), spec, '<');
  }
  if (value.is_integral() &&
      (spec.type == 0 || std::string_view("dxXob").find(spec.type) != std::string_view::npos)) {
    return append_padded(out, integer_text(value.integer(), spec), spec, '>');
  }
  if (value.is_number() && std::string_view("feg%").find(spec.type) != std::string_view::npos &&
      spec.type != 0) {
    return append_padded(out, float_text(value.number(), spec), spec, '>');
  }
  unsupported("the format '{}' of a {}", spec_text, value.type_name());
}

}  // namespace

std::string percent_format(std::string_view pattern, const Value& values, Budget& budget) {
  Text out(budget);
  Cursor in(pattern);
  size_t used = 0;
  const auto next_value = [&]() -> const Value& {
    const size_t count = values.is_tuple() ? values.items().size() : 1;
    if (used == count) refuse("not enough arguments for format string");
    return values.is_tuple() ? values.items()[used++] : (++used, values);
  };
  while (!in.done()) {
    out += in.until("%");
    if (!in.skip('%')) break;
    if (in.skip('%')) {
      out += '%';
    } else if (in.skip('(')) {
      const std::string_view key = in.until(")");
      if (!in.skip(')')) refuse("incomplete format key");
      if (!values.is_dict()) refuse("format requires a mapping");
      const Value* value = values.dict().find(key);
      if (value == nullptr) refuse("'{}'", key);
      append_percent(out, *value, percent_spec(in));
    } else {
      const Spec spec = percent_spec(in);
      append_percent(out, next_value(), spec);
    }
  }
  const bool ignores_rest = values.is_dict() || values.is_list();
  if (!ignores_rest && used < (values.is_tuple() ? values.items().size() : 1)) {
    refuse("not all arguments converted during string formatting");
  }
  return out.take();
}

std::string brace_format(std::string_view pattern, const Arguments& arguments, Budget& budget) {
  Text out(budget);
  Cursor in(pattern);
  size_t automatic = 0;
  const auto lookup = [&](std::string_view field) -> const Value& {
    const bool is_index = field.empty() || std::all_of(field.begin(), field.end(), is_digit);
    if (is_index) {
      const size_t index = field.empty() ? automatic++ : Cursor(field).number(0);
      if (index >= arguments.positional.size()) {
        refuse("Replacement index {} out of range for positional args tuple", index);
      }
      return arguments.positional[index];
    }
    for (const auto& [name, value] : arguments.named) {
      if (name == field) return value;
    }
    if (field.find_first_of(".[") != std::string_view::npos) {
      unsupported("attributes inside the fields of format()");
    }
    refuse("'{}'", field);
  };
  while (!in.done()) {
    out += in.until("{}");
    const char brace = in.next();
    if (brace == '\0') break;
    if (in.skip(brace)) {
      out += brace;
      continue;
    }
    if (brace == '}') refuse("Single '}}' encountered in format string");
    const Value& value = lookup(in.until("!:{}"));
    const char conversion = in.skip('!') ? in.next() : '\0';
    const std::string_view spec = in.skip(':') ? in.until("{}") : std::string_view();
    if (in.peek() == '{') unsupported("nested fields in a format string");
    if (!in.skip('}')) refuse("expected '}}' before end of string");
    if (conversion != '\0' && conversion != 's' && conversion != 'r') {
      unsupported("the conversion '!{}' in a format string", conversion);
    }
    if (conversion == '\0') {
      append_brace(out, value, spec);
    } else {
      append_brace(out, Value(conversion == 'r' ? repr(value, budget) : str(value, budget)), spec);
    }
  }
  return out.take();
}

}  // namespace weft::formats::jinja
