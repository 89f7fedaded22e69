// The filters of one value; those over lists are in filters_sequence.cc.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "formats/jinja/builtins.h"
#include "formats/jinja/format.h"
#include "formats/jinja/operators.h"
#include "formats/jinja/strings.h"

namespace weft::formats::jinja {
namespace {

template <std::string (*kMap)(std::string_view)>
Value map_text(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  const std::string text = str(self, interpreter.budget());
  interpreter.budget().bytes(text.size() * 2);
  return Value(kMap(text));
}

Value default_filter(Interpreter&, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"default_value", "boolean"});
  if (!self.is_undefined() && (!bound.flag(1) || self.truthy())) return self;
  return bound.get(0) == nullptr ? Value("") : *bound.get(0);
}

Value trim(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value* set = Bound(arguments, {"chars"}).given(0);
  const std::string text = str(self, interpreter.budget());
  if (set == nullptr) return Value(strip(text, Side::kBoth));
  return Value(strip(text, str(*set, interpreter.budget()), Side::kBoth));
}

Value replace_filter(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"old", "new", "count"});
  Budget& budget = interpreter.budget();
  const int64_t count = bound.given(2) == nullptr ? -1 : bound.integer(2, -1);
  return Value(replace(str(self, budget), str(bound.need(0), budget), str(bound.need(1), budget),
                       count, budget));
}

Value string(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  return Value(str(self, interpreter.budget()));
}

Value safe(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  return string(interpreter, self, arguments);
}

Value escape(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  Text out(interpreter.budget());
  for (const char c : str(self, interpreter.budget())) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return Value(out.take());
}

// Python's float(text): white space around, underscores between digits.
std::optional<double> read_float(std::string_view text) {
  std::string digits(strip(text, Side::kBoth));
  for (size_t i = digits.find('_'); i != std::string::npos; i = digits.find('_', i)) {
    const auto is_digit = [&](size_t at) {
      return at < digits.size() && digits[at] >= '0' && digits[at] <= '9';
    };
    if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) return std::nullopt;
    digits.erase(i, 1);
  }
  const char* first = digits.data();
  const char* last = first + digits.size();
  if (first != last && *first == '+' && digits.size() > 1 && digits[1] != '-') ++first;
  double out = 0;
  const auto end = std::from_chars(first, last, out);
  if (end.ptr != last || first == last || end.ec == std::errc::invalid_argument) {
    return std::nullopt;
  }
  if (end.ec == std::errc::result_out_of_range) {
    const bool tiny =
        digits.find("e-") != std::string::npos || digits.find("E-") != std::string::npos;
    out = tiny ? 0.0 : HUGE_VAL;
    if (digits[0] == '-') out = -out;
  }
  return out;
}

// Python's int(text, base); nothing if it is none, a Failure beyond 64 bits.
std::optional<int64_t> read_integer(std::string_view text, int base) {
  std::string digits(strip(text, Side::kBoth));
  const bool negative = !digits.empty() && digits[0] == '-';
  if (!digits.empty() && (digits[0] == '-' || digits[0] == '+')) digits.erase(0, 1);
  const char prefix = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : 0;
  if (prefix != 0 && digits.size() > 2 && digits[0] == '0' && (digits[1] | 0x20) == prefix) {
    digits.erase(0, 2);
    if (digits[0] == '_') digits.erase(0, 1);
  }
  for (size_t i = digits.find('_'); i != std::string::npos; i = digits.find('_', i)) {
    if (i == 0 || i + 1 == digits.size() || digits[i + 1] == '_') return std::nullopt;
    digits.erase(i, 1);
  }
  if (digits.empty() || digits[0] == '-') return std::nullopt;
  if (negative) digits = fmt::format("-{}", digits);
  int64_t out = 0;
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), out, base);
  if (end.ptr != digits.data() + digits.size()) return std::nullopt;
  if (end.ec == std::errc::result_out_of_range) unsupported("an integer beyond 64 bits");
  return end.ec == std::errc() ? std::optional<int64_t>(out) : std::nullopt;
}

std::optional<int64_t> truncated(double value) {
  if (!std::isfinite(value)) return std::nullopt;
  if (std::fabs(value) >= 9.2e18) unsupported("an integer beyond 64 bits");
  return static_cast<int64_t>(value);
}

Value int_filter(Interpreter&, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"default", "base"});
  const Value fallback = bound.get(0) == nullptr ? Value(int64_t{0}) : *bound.get(0);
  const int64_t base = bound.integer(1, 10);
  if (base < 2 || base > 36) refuse("int() base must be >= 2 and <= 36");
  std::optional<int64_t> out;
  if (self.is_integral()) {
    out = self.integer();
  } else if (self.is_float()) {
    out = truncated(self.number());
  } else if (self.is_string()) {
    out = read_integer(self.string(), static_cast<int>(base));
    if (!out) {
      const std::optional<double> number = read_float(self.string());
      if (number) out = truncated(*number);
    }
  } else if (self.is_undefined()) {
    refuse("{}", self.why());
  }
  return out ? Value(*out) : fallback;
}

Value float_filter(Interpreter&, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"default"});
  if (self.is_undefined()) refuse("{}", self.why());
  if (self.is_number()) return Value(self.number());
  const std::optional<double> out =
      self.is_string() ? read_float(self.string()) : std::optional<double>();
  if (out) return Value(*out);
  return bound.get(0) == nullptr ? Value(0.0) : *bound.get(0);
}

Value abs_filter(Interpreter&, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  if (self.is_undefined()) refuse("{}", self.why());
  if (!self.is_number()) refuse("bad operand type for abs(): '{}'", self.type_name());
  if (self.is_float()) return Value(std::fabs(self.number()));
  return self.integer() < 0 ? negate(self) : Value(self.integer());
}

Value round_filter(Interpreter&, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"precision", "method"});
  if (self.is_undefined()) refuse("{}", self.why());
  if (!self.is_number()) refuse("type {} doesn't define __round__ method", self.type_name());
  const int64_t precision = bound.integer(0, 0);
  const std::string method = bound.get(1) == nullptr     ? "common"
                             : bound.get(1)->is_string() ? bound.get(1)->string()
                                                         : "";
  if (std::abs(precision) > 300) unsupported("rounding to {} places", precision);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value(std::ceil(self.number() * scale) / scale);
  if (method == "floor") return Value(std::floor(self.number() * scale) / scale);
  if (method != "common") refuse("method must be common, ceil or floor");
  if (self.is_integral() && precision >= 0) return Value(self.integer());
  if (self.is_integral() || precision < 0) unsupported("rounding to tens");
  if (!std::isfinite(self.number())) return self;
  // Printing rounds the exact binary value half to even, as Python's round() does.
  return Value(std::stod(fmt::format("{:.{}f}", self.number(), precision)));
}

Value indent(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"width", "first", "blank"});
  const Value* width = bound.get(0);
  constexpr int64_t kMaxWidth = 10000;
  const int64_t count = width != nullptr && width->is_string() ? 0 : bound.integer(0, 4);
  if (count > kMaxWidth) refuse("indent width is beyond {}", kMaxWidth);
  const std::string margin =
      width != nullptr && width->is_string()
          ? width->string()
          : std::string(static_cast<size_t>(std::max<int64_t>(count, 0)), ' ');
  if (self.is_undefined()) refuse("{}", self.why());
  if (!self.is_string()) refuse("indent needs a string, not {}", self.type_name());
  const std::string text = self.string() + "\n";
  Text out(interpreter.budget());
  bool is_first = true;
  for (std::string_view line : split_lines(text, false)) {
    if (!is_first) out += '\n';
    if (is_first ? bound.flag(1) : bound.flag(2) || !line.empty()) out += margin;
    is_first = false;
    out += line;
  }
  return Value(out.take());
}

Value format_filter(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Budget& budget = interpreter.budget();
  const std::string pattern = str(self, budget);
  if (arguments.named.empty()) {
    return Value(percent_format(pattern, Value::tuple(arguments.positional), budget));
  }
  if (!arguments.positional.empty()) {
    refuse("can't handle positional and keyword arguments at the same time");
  }
  Dict named;
  for (const auto& [name, value] : arguments.named) named.set(Value(name), value, budget);
  return Value(percent_format(pattern, Value(std::move(named)), budget));
}

Value wordcount(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  Bound(arguments, {});
  // Words are runs of letters, digits and underscores.
  int64_t count = 0;
  bool inside = false;
  for (const char c : str(self, interpreter.budget())) {
    const bool is_word =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || (c & 0x80) != 0;
    count += is_word && !inside;
    inside = is_word;
  }
  return Value(count);
}

Value tojson(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Bound bound(arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.flag(0);
  style.sort_keys = bound.flag(3);
  if (const Value* indent = bound.given(1)) {
    constexpr int64_t kMaxIndent = 100;
    if (indent->is_string()) {
      style.indent = indent->string();
    } else {
      const int64_t width = bound.integer(1, 0);
      if (width > kMaxIndent) refuse("JSON indent is beyond {}", kMaxIndent);
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
    style.item_separator = ",";
  }
  if (const Value* separators = bound.given(2)) {
    const List pair = iterate(*separators, interpreter.budget());
    if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
      refuse("separators must be two strings");
    }
    style.item_separator = pair[0].string();
    style.key_separator = pair[1].string();
  }
  Text out(interpreter.budget());
  append_json(out, self, style);
  return Value(out.take());
}

Value attr(Interpreter& interpreter, const Value& self, const Arguments& arguments) {
  const Value& name = Bound(arguments, {"name"}).need(0);
  // Unlike a subscript, this never looks at the keys of a dict.
  const std::string text = str(name, interpreter.budget());
  if (self.is_dict() && find_method(self, text) == nullptr) {
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", text));
  }
  return interpreter.attribute(self, text);
}

Value missing(Interpreter&, const Value&, const Arguments&) {
  unsupported("this filter of jinja2 is not implemented");
}

}  // namespace

Builtin find_filter(const std::string& name) {
  static const std::unordered_map<std::string, Builtin> kFilters = {
      {"abs", abs_filter},
      {"attr", attr},
      {"capitalize", map_text<capitalize>},
      {"d", default_filter},
      {"default", default_filter},
      {"e", escape},
      {"escape", escape},
      {"float", float_filter},
      {"forceescape", escape},
      {"format", format_filter},
      {"indent", indent},
      {"int", int_filter},
      {"lower", map_text<lower>},
      {"replace", replace_filter},
      {"round", round_filter},
      {"safe", safe},
      {"string", string},
      {"title", map_text<title>},
      {"tojson", tojson},
      {"trim", trim},
      {"upper", map_text<upper>},
      {"wordcount", wordcount},
      {"center", missing},
      {"filesizeformat", missing},
      {"pprint", missing},
      {"random", missing},
      {"striptags", missing},
      {"truncate", missing},
      {"urlencode", missing},
      {"urlize", missing},
      {"wordwrap", missing},
      {"xmlattr", missing},
  };
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? find_sequence_filter(name) : found->second;
}

}  // namespace weft::formats::jinja
