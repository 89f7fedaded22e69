#include "formats/tokenizer_added.h"

#include <algorithm>

#include "formats/unicode.h"

namespace weft::formats {
namespace {

bool is_word_unit(std::string_view text, size_t pos) {
  const Utf8Unit unit = read_utf8(text, pos);
  if (!unit.valid) return false;
  const CharClass c = char_class(unit.code);
  return is_letter(c) || c == CharClass::kMark || c == CharClass::kNumber || unit.code == '_';
}

// The start of the character that ends at `end` > 0.
size_t start_of_previous(std::string_view text, size_t end) {
  size_t pos = end - 1;
  while (pos > 0 && end - pos < 4 && (static_cast<uint8_t>(text[pos]) & 0xC0) == 0x80) --pos;
  return pos;
}

bool is_space_unit(std::string_view text, size_t pos) {
  const Utf8Unit unit = read_utf8(text, pos);
  return unit.valid && char_class(unit.code) == CharClass::kSpace;
}

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word_unit(text, start_of_previous(text, begin))) return false;
  return end == text.size() || !is_word_unit(text, end);
}

}  // namespace

void AddedTokens::add(AddedToken token) {
  if (!token.text.empty()) tokens_.push_back(std::move(token));
}

void AddedTokens::prepare() {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.text < b.text; });
  size_t index = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    starts_[byte] = static_cast<uint32_t>(index);
    while (index < tokens_.size() && static_cast<uint8_t>(tokens_[index].text[0]) == byte) ++index;
  }
  starts_[256] = static_cast<uint32_t>(index);
}

const AddedToken* AddedTokens::longest_at(std::string_view text, size_t pos,
                                          bool parse_special) const {
  const uint8_t first = static_cast<uint8_t>(text[pos]);
  size_t low = starts_[first], high = starts_[first + 1];
  const AddedToken* longest = nullptr;
  // tokens_[low, high) agree with the text in their first `depth` bytes; a shorter one sorts first.
  for (size_t depth = 1; low < high; ++depth) {
    const AddedToken& shortest = tokens_[low];
    if (shortest.text.size() == depth) {
      const bool wanted = parse_special || !shortest.special;
      if (wanted && (!shortest.single_word || stands_alone(text, pos, pos + depth))) {
        longest = &shortest;
      }
      ++low;
    }
    if (pos + depth >= text.size()) break;
    const uint8_t byte = static_cast<uint8_t>(text[pos + depth]);
    const auto begin = tokens_.begin() + static_cast<ptrdiff_t>(low);
    const auto end = tokens_.begin() + static_cast<ptrdiff_t>(high);
    const auto byte_at = [depth](const AddedToken& token) {
      return static_cast<uint8_t>(token.text[depth]);
    };
    low = static_cast<size_t>(
        std::partition_point(begin, end, [&](const auto& t) { return byte_at(t) < byte; }) -
        tokens_.begin());
    high = static_cast<size_t>(
        std::partition_point(begin, end, [&](const auto& t) { return byte_at(t) <= byte; }) -
        tokens_.begin());
  }
  return longest;
}

std::optional<AddedTokens::Match> AddedTokens::find(std::string_view text, size_t from,
                                                    bool parse_special) const {
  if (tokens_.empty()) return std::nullopt;
  for (size_t pos = from; pos < text.size(); ++pos) {
    const uint8_t first = static_cast<uint8_t>(text[pos]);
    if (starts_[first] == starts_[first + 1]) continue;
    const AddedToken* token = longest_at(text, pos, parse_special);
    if (token == nullptr) continue;
    Match match{pos, pos + token->text.size(), token->id};
    while (token->strip_left && match.begin > from) {
      const size_t previous = start_of_previous(text, match.begin);
      if (!is_space_unit(text, previous)) break;
      match.begin = previous;
    }
    while (token->strip_right && match.end < text.size() && is_space_unit(text, match.end)) {
      match.end += read_utf8(text, match.end).length;
    }
    return match;
  }
  return std::nullopt;
}

}  // namespace weft::formats
