// How values turn into text: str(), repr() and json.dumps() as Python does them.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "formats/jinja/value.h"
#include "formats/unicode.h"

namespace weft::formats::jinja {
namespace {

bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  const CharClass kind = char_class(c);
  return kind != CharClass::kOther && kind != CharClass::kSpace;
}

void append_escape(Text& out, char32_t c) {
  if (c <= 0xFF) {
    out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
  } else if (c <= 0xFFFF) {
    out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
  } else {
    out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
  }
}

void append_string_repr(Text& out, std::string_view text) {
  const bool single = text.find('\'') == std::string_view::npos;
  const char quote = single || text.find('"') != std::string_view::npos ? '\'' : '"';
  out += quote;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = read_utf8(text, pos);
    const std::string_view bytes = text.substr(pos, unit.length);
    pos += unit.length;
    const char32_t c = unit.code;
    if (!unit.valid) {
      out += bytes;
    } else if (c == '\\' || c == static_cast<char32_t>(quote)) {
      out += '\\';
      out += bytes;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += bytes;
    } else {
      append_escape(out, c);
    }
  }
  out += quote;
}

template <typename Range, typename F>
void append_joined(Text& out, const Range& range, F append_one) {
  bool first = true;
  for (const auto& item : range) {
    if (!first) out += ", ";
    first = false;
    append_one(item);
  }
}

void append_json_unicode(Text& out, char32_t c) {
  if (c > 0xFFFF) {
    c -= 0x10000;
    out += fmt::format("\\u{:04x}", 0xD800 + static_cast<uint32_t>(c >> 10));
    c = 0xDC00 + (c & 0x3FF);
  }
  out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
}

void append_json_string(Text& out, std::string_view text, bool ensure_ascii) {
  static constexpr std::string_view kNamed = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
  out += '"';
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = read_utf8(text, pos);
    const std::string_view bytes = text.substr(pos, unit.length);
    pos += unit.length;
    const size_t named =
        unit.code < 0x80 ? kNamed.find(static_cast<char>(unit.code)) : std::string_view::npos;
    if (named != std::string_view::npos) {
      out += '\\';
      out += kLetters[named];
    } else if (unit.code < 0x20 || (ensure_ascii && unit.code > 0x7E && unit.code != 0x7F)) {
      append_json_unicode(out, unit.code);
    } else {
      out += bytes;
    }
  }
  out += '"';
}

std::string json_key(const Value& key) {
  if (key.is_string()) return key.string();
  if (key.is_none()) return "null";
  if (key.is_bool()) return key.truthy() ? "true" : "false";
  if (key.is_int()) return fmt::format("{}", key.integer());
  if (key.is_float()) return float_repr(key.number());
  refuse("keys must be str, int, float, bool or None, not {}", key.type_name());
}

void append_line(Text& out, const JsonStyle& style, int level) {
  if (!style.indent) return;
  out += '\n';
  for (int i = 0; i < level; ++i) out += *style.indent;
}

void append_json_dict(Text& out, const Dict& dict, const JsonStyle& style, int level) {
  std::vector<const Dict::Entry*> entries;
  out.budget().bytes(dict.entries().size() * sizeof(void*));
  for (const Dict::Entry& entry : dict.entries()) entries.push_back(&entry);
  if (style.sort_keys) {
    std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
      return compare(a->first, b->first, out.budget()) < 0;
    });
  }
  out += '{';
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out += style.item_separator;
    append_line(out, style, level + 1);
    append_json_string(out, json_key(entries[i]->first), style.ensure_ascii);
    out += style.key_separator;
    append_json(out, entries[i]->second, style, level + 1);
  }
  if (!entries.empty()) append_line(out, style, level);
  out += '}';
}

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string_view text(buffer, end.ptr - buffer);
  const size_t e = text.find('e');
  int exponent = 0;
  const std::string_view exponent_text = text.substr(e + (text[e + 1] == '+' ? 2 : 1));
  std::from_chars(exponent_text.data(), exponent_text.data() + exponent_text.size(), exponent);
  // Python writes an exponent below 1e-4 and from 1e16 on.
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", text.substr(0, e), exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed);
  std::string out(buffer, fixed.ptr);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

void append_str(Text& out, const Value& value) {
  if (value.is_string()) {
    out += value.string();
  } else if (!value.is_undefined()) {
    append_repr(out, value);
  }
}

void append_repr(Text& out, const Value& value) {
  out.budget().step();
  if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is_bool()) {
    out += value.truthy() ? "True" : "False";
  } else if (value.is_int()) {
    out += fmt::format("{}", value.integer());
  } else if (value.is_float()) {
    out += float_repr(value.number());
  } else if (value.is_string()) {
    append_string_repr(out, value.string());
  } else if (value.is_sequence()) {
    out += value.is_tuple() ? '(' : '[';
    append_joined(out, value.items(), [&](const Value& item) { append_repr(out, item); });
    if (value.is_tuple() && value.items().size() == 1) out += ',';
    out += value.is_tuple() ? ')' : ']';
  } else if (value.is_dict()) {
    out += '{';
    append_joined(out, value.dict().entries(), [&](const Dict::Entry& entry) {
      append_repr(out, entry.first);
      out += ": ";
      append_repr(out, entry.second);
    });
    out += '}';
  } else {
    unsupported("printing a {}", value.type_name());
  }
}

std::string str(const Value& value, Budget& budget) {
  if (value.is_string()) return value.string();
  Text out(budget);
  append_str(out, value);
  return out.take();
}

std::string repr(const Value& value, Budget& budget) {
  Text out(budget);
  append_repr(out, value);
  return out.take();
}

void append_json(Text& out, const Value& value, const JsonStyle& style, int level) {
  out.budget().step();
  if (value.is_none()) {
    out += "null";
  } else if (value.is_bool()) {
    out += value.truthy() ? "true" : "false";
  } else if (value.is_float() && !std::isfinite(value.number())) {
    out += std::isnan(value.number()) ? "NaN" : value.number() < 0 ? "-Infinity" : "Infinity";
  } else if (value.is_number()) {
    append_repr(out, value);
  } else if (value.is_string()) {
    append_json_string(out, value.string(), style.ensure_ascii);
  } else if (value.is_dict()) {
    append_json_dict(out, value.dict(), style, level);
  } else if (value.is_sequence()) {
    out += '[';
    for (size_t i = 0; i < value.items().size(); ++i) {
      if (i > 0) out += style.item_separator;
      append_line(out, style, level + 1);
      append_json(out, value.items()[i], style, level + 1);
    }
    if (!value.items().empty()) append_line(out, style, level);
    out += ']';
  } else {
    refuse("Object of type {} is not JSON serializable", value.type_name());
  }
}

}  // namespace weft::formats::jinja
