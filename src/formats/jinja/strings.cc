#include "formats/jinja/strings.h"

#include <algorithm>

#include "formats/unicode.h"

namespace weft::formats::jinja {
namespace {

bool is_space(char32_t c) {
  // Python counts the four information separators as white space; Unicode's property does not.
  return (c >= 0x1C && c <= 0x1F) ||
         (c < 0x80 ? c == ' ' || (c >= 9 && c <= 13) : char_class(c) == CharClass::kSpace);
}

bool is_space(std::string_view character) {
  const Utf8Unit unit = read_utf8(character, 0);
  return unit.valid && is_space(unit.code);
}

bool in_pairs(char32_t c) {  // upper case at even codes, its lower case next to it
  return (c >= 0x100 && c <= 0x137) || (c >= 0x14A && c <= 0x177) || (c >= 0x460 && c <= 0x481) ||
         (c >= 0x48A && c <= 0x4BF) || (c >= 0x4D0 && c <= 0x52F) || (c >= 0x1E00 && c <= 0x1E95);
}

bool in_odd_pairs(char32_t c) {  // upper case at odd codes
  return (c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E);
}

char32_t to_lower(char32_t c) {
  if (c >= 'A' && c <= 'Z') return c + 32;
  if (c < 0xC0) return c;
  if (c <= 0xDE) return c == 0xD7 ? c : c + 32;
  if (c == 0x130) return 'i';
  if (c == 0x178) return 0xFF;
  if (in_pairs(c) && c != 0x131) return c | 1;
  if (in_odd_pairs(c)) return c + (c & 1);
  if (c >= 0x391 && c <= 0x3AB && c != 0x3A2) return c + 32;
  if (c >= 0x410 && c <= 0x42F) return c + 32;
  if (c >= 0x400 && c <= 0x40F) return c + 80;
  return c;
}

char32_t to_upper(char32_t c) {
  if (c >= 'a' && c <= 'z') return c - 32;
  if (c < 0xB5) return c;
  if (c == 0xB5) return 0x39C;
  if (c >= 0xE0 && c <= 0xFE) return c == 0xF7 ? c : c - 32;
  if (c == 0xFF) return 0x178;
  if (c == 0x131) return 'I';
  if (in_pairs(c)) return c & ~char32_t{1};
  if (in_odd_pairs(c)) return c - (c & 1 ? 0 : 1);
  if (c == 0x3C2) return 0x3A3;
  if (c >= 0x3B1 && c <= 0x3CB) return c - 32;
  if (c >= 0x430 && c <= 0x44F) return c - 32;
  if (c >= 0x450 && c <= 0x45F) return c - 80;
  return c;
}

template <typename F>
std::string map_characters(std::string_view text, F map) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = read_utf8(text, pos);
    if (!unit.valid) {
      out += text.substr(pos, unit.length);
    } else if (unit.code == 0xDF && map(U'a') == U'A') {
      out += "SS";  // the one common letter whose upper case is two
    } else {
      append_utf8(out, map(unit.code));
    }
    pos += unit.length;
  }
  return out;
}

bool is_cased(char32_t c) { return to_lower(c) != c || to_upper(c) != c; }

}  // namespace

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t pos = 0; pos < text.size();) {
    const size_t length = read_utf8(text, pos).length;
    out.push_back(text.substr(pos, length));
    pos += length;
  }
  return out;
}

size_t length(std::string_view text) {
  size_t count = 0;
  for (size_t pos = 0; pos < text.size(); ++count) pos += read_utf8(text, pos).length;
  return count;
}

std::string upper(std::string_view text) { return map_characters(text, to_upper); }
std::string lower(std::string_view text) { return map_characters(text, to_lower); }

std::string title(std::string_view text) {
  bool inside = false;
  return map_characters(text, [&](char32_t c) {
    const char32_t out = inside ? to_lower(c) : to_upper(c);
    inside = is_cased(c) || is_letter(char_class(c));
    return out;
  });
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return "";
  const size_t first = read_utf8(text, 0).length;
  return upper(text.substr(0, first)) + lower(text.substr(first));
}

bool is_upper(std::string_view text) { return upper(text) == text && lower(text) != text; }
bool is_lower(std::string_view text) { return lower(text) == text && upper(text) != text; }

namespace {

template <typename F>
std::string_view strip_if(std::string_view text, Side side, F drop) {
  const std::vector<std::string_view> all = characters(text);
  size_t begin = 0, end = all.size();
  if (side != Side::kRight) {
    while (begin < end && drop(all[begin])) ++begin;
  }
  if (side != Side::kLeft) {
    while (end > begin && drop(all[end - 1])) --end;
  }
  if (begin == end) return {};
  const char* first = all[begin].data();
  return {first, static_cast<size_t>(all[end - 1].data() + all[end - 1].size() - first)};
}

}  // namespace

std::string_view strip(std::string_view text, Side side) {
  return strip_if(text, side, [](std::string_view c) { return is_space(c); });
}

std::string_view strip(std::string_view text, std::string_view set, Side side) {
  const std::vector<std::string_view> members = characters(set);
  return strip_if(text, side, [&](std::string_view c) {
    return std::find(members.begin(), members.end(), c) != members.end();
  });
}

std::vector<std::string_view> split(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string_view> all = characters(text);
  if (from_right) std::reverse(all.begin(), all.end());
  // The bytes that characters [begin, end) cover, in either direction.
  const auto span = [&](size_t begin, size_t end) {
    const std::string_view low = all[from_right ? end - 1 : begin];
    const std::string_view high = all[from_right ? begin : end - 1];
    return std::string_view(low.data(), high.data() + high.size() - low.data());
  };
  std::vector<std::string_view> out;
  for (size_t i = 0; i < all.size();) {
    if (is_space(all[i])) {
      ++i;
      continue;
    }
    size_t end = i;
    if (limit >= 0 && static_cast<int64_t>(out.size()) == limit) {
      out.push_back(span(i, all.size()));
      break;
    }
    while (end < all.size() && !is_space(all[end])) ++end;
    out.push_back(span(i, end));
    i = end;
  }
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separator,
                                    int64_t limit, bool from_right) {
  std::vector<std::string_view> out;
  if (separator.empty()) refuse("empty separator");
  while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    const std::string_view before = text.substr(0, at), after = text.substr(at + separator.size());
    out.push_back(from_right ? after : before);
    text = from_right ? before : after;
  }
  out.push_back(text);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  const auto is_end = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
  };
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = read_utf8(text, pos);
    const size_t end = pos;
    pos += unit.length;
    if (!unit.valid || !is_end(unit.code)) continue;
    if (unit.code == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
    out.push_back(text.substr(begin, (keep_ends ? pos : end) - begin));
    begin = pos;
  }
  if (begin < text.size()) out.push_back(text.substr(begin));
  return out;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t limit, Budget& budget) {
  Text out(budget);
  if (from.empty()) {  // between all characters, and at both ends
    for (std::string_view c : characters(text)) {
      if (limit != 0) {
        out += to;
        --limit;
      }
      out += c;
    }
    if (limit != 0) out += to;
    return out.take();
  }
  for (; limit != 0; --limit) {
    const size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
  }
  out += text;
  return out.take();
}

int64_t find(std::string_view text, std::string_view what, bool from_right) {
  const size_t at = from_right ? text.rfind(what) : text.find(what);
  if (at == std::string_view::npos) return -1;
  return static_cast<int64_t>(length(text.substr(0, at)));
}

int64_t count(std::string_view text, std::string_view what) {
  if (what.empty()) return static_cast<int64_t>(length(text)) + 1;
  int64_t found = 0;
  for (size_t at = text.find(what); at != std::string_view::npos;
       at = text.find(what, at + what.size())) {
    ++found;
  }
  return found;
}

}  // namespace weft::formats::jinja
