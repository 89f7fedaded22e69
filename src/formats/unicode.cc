#include "formats/unicode.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "formats/unicode_tables.h"

namespace weft::formats {
namespace {

// The value of the last run that starts at or before `code`.
uint8_t value_in_runs(const uint32_t* runs, size_t count, char32_t code) {
  const uint32_t key = (static_cast<uint32_t>(code) << 8) | 0xFF;
  return static_cast<uint8_t>(*(std::upper_bound(runs, runs + count, key) - 1));
}

std::array<CharClass, 256> make_low_classes() {
  std::array<CharClass, 256> classes;
  for (uint32_t code = 0; code < classes.size(); ++code) {
    classes[code] = static_cast<CharClass>(
        value_in_runs(unicode::kClassRuns, unicode::kClassRunsSize, code));
  }
  return classes;
}

// The bytes that may follow a lead byte first (Unicode 14, table 3-7): they shut out overlong forms,
// surrogates and what lies above U+10FFFF.
struct Lead {
  uint8_t length;  // 0: never starts a character
  uint8_t second_min, second_max;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many bytes at `pos` agree with the lead byte's pattern.
uint8_t matching_bytes(std::string_view text, size_t pos, const Lead& lead) {
  uint8_t matched = 1;
  while (matched < lead.length && pos + matched < text.size()) {
    const uint8_t byte = static_cast<uint8_t>(text[pos + matched]);
    const uint8_t low = matched == 1 ? lead.second_min : 0x80;
    const uint8_t high = matched == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) break;
    ++matched;
  }
  return matched;
}

constexpr char32_t kHangulBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTailBase = 0x11A7;
constexpr char32_t kLeads = 19, kVowels = 21, kTails = 28;

uint8_t combining_class(char32_t code) {
  if (code < 0x300) return 0;
  return value_in_runs(unicode::kCombiningRuns, unicode::kCombiningRunsSize, code);
}

void decompose(char32_t code, std::vector<char32_t>& out) {
  if (code >= kHangulBase && code < kHangulBase + kLeads * kVowels * kTails) {
    const char32_t index = code - kHangulBase;
    out.push_back(kLeadBase + index / (kVowels * kTails));
    out.push_back(kVowelBase + index % (kVowels * kTails) / kTails);
    if (index % kTails != 0) out.push_back(kTailBase + index % kTails);
    return;
  }
  const auto* end = unicode::kDecompositions + unicode::kDecompositionsSize;
  const auto* found =
      std::lower_bound(unicode::kDecompositions, end, code,
                       [](const unicode::Decomposition& d, char32_t c) { return d.composed < c; });
  if (found == end || found->composed != code) {
    out.push_back(code);
    return;
  }
  decompose(found->first, out);
  if (found->second != 0) decompose(found->second, out);
}

// 0 if the two do not compose.
char32_t compose(char32_t first, char32_t second) {
  if (first >= kLeadBase && first < kLeadBase + kLeads && second >= kVowelBase &&
      second < kVowelBase + kVowels) {
    return kHangulBase + ((first - kLeadBase) * kVowels + (second - kVowelBase)) * kTails;
  }
  if (first >= kHangulBase && first < kHangulBase + kLeads * kVowels * kTails &&
      (first - kHangulBase) % kTails == 0 && second > kTailBase && second < kTailBase + kTails) {
    return first + (second - kTailBase);
  }
  const auto* end = unicode::kCompositions + unicode::kCompositionsSize;
  const auto* found = std::lower_bound(
      unicode::kCompositions, end, std::pair(first, second),
      [](const unicode::Composition& c, const std::pair<char32_t, char32_t>& key) {
        return std::pair<char32_t, char32_t>(c.first, c.second) < key;
      });
  return found != end && found->first == first && found->second == second ? found->composed : 0;
}

// Marks in canonical order: by combining class, otherwise as they came.
void order_marks(std::vector<char32_t>& codes) {
  for (size_t i = 0; i < codes.size();) {
    size_t end = i;
    while (end < codes.size() && combining_class(codes[end]) != 0) ++end;
    std::stable_sort(
        codes.begin() + static_cast<ptrdiff_t>(i), codes.begin() + static_cast<ptrdiff_t>(end),
        [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    i = end + 1;
  }
}

void compose_in_place(std::vector<char32_t>& codes) {
  size_t starter = codes.size(), out = 0;  // no starter yet
  uint8_t last_class = 0;
  for (const char32_t code : codes) {
    const uint8_t marks = combining_class(code);
    const bool blocked = starter >= out || (out - starter > 1 && last_class >= marks);
    const char32_t together = blocked ? 0 : compose(codes[starter], code);
    if (together != 0) {
      codes[starter] = together;
      continue;
    }
    if (marks == 0) starter = out;
    last_class = marks;
    codes[out++] = code;
  }
  codes.resize(out);
}

void append_nfc(std::string& out, std::vector<char32_t>& codes) {
  order_marks(codes);
  compose_in_place(codes);
  for (const char32_t code : codes) append_utf8(out, code);
  codes.clear();
}

}  // namespace

CharClass char_class(char32_t code) {
  static const std::array<CharClass, 256> low = make_low_classes();
  if (code < low.size()) return low[code];
  return static_cast<CharClass>(value_in_runs(unicode::kClassRuns, unicode::kClassRunsSize, code));
}

Utf8Unit read_utf8(std::string_view text, size_t pos) {
  const uint8_t first = static_cast<uint8_t>(text[pos]);
  if (first < 0x80) return {first, 1, true};
  const Lead lead = lead_of(first);
  if (lead.length == 0) return {};
  const uint8_t matched = matching_bytes(text, pos, lead);
  if (matched < lead.length) return {0xFFFD, matched, false};
  char32_t code = first & (0xFF >> (lead.length + 1));
  for (uint8_t i = 1; i < lead.length; ++i) {
    code = (code << 6) | (static_cast<uint8_t>(text[pos + i]) & 0x3F);
  }
  return {code, lead.length, true};
}

bool is_incomplete_utf8(std::string_view tail) {
  if (tail.empty()) return false;
  const Lead lead = lead_of(static_cast<uint8_t>(tail[0]));
  return tail.size() < lead.length && matching_bytes(tail, 0, lead) == tail.size();
}

bool is_valid_utf8(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    uint64_t word;
    if (text.size() - pos >= sizeof word) {
      std::memcpy(&word, text.data() + pos, sizeof word);
      if ((word & 0x8080808080808080u) == 0) {
        pos += sizeof word;
        continue;
      }
    }
    const Utf8Unit unit = read_utf8(text, pos);
    if (!unit.valid) return false;
    pos += unit.length;
  }
  return true;
}

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

void append_valid_utf8(std::string& out, std::string_view bytes) {
  for (size_t pos = 0; pos < bytes.size();) {
    const Utf8Unit unit = read_utf8(bytes, pos);
    if (unit.valid) {
      out += bytes.substr(pos, unit.length);
    } else {
      out += "\xEF\xBF\xBD";
    }
    pos += unit.length;
  }
}

std::string to_nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  std::vector<char32_t> codes;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = read_utf8(text, pos);
    // Nothing composes across a character below U+0300 that starts anew, nor across broken bytes.
    if (!unit.valid || unit.code < 0x300) append_nfc(out, codes);
    if (!unit.valid) {
      out += text.substr(pos, unit.length);
    } else {
      decompose(unit.code, codes);
    }
    pos += unit.length;
  }
  append_nfc(out, codes);
  return out;
}

}  // namespace weft::formats
