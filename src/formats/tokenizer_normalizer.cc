#include "formats/tokenizer_normalizer.h"

#include <memory>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

bool is_space_at(std::string_view text, size_t pos) {
  const Utf8Unit unit = read_utf8(text, pos);
  return unit.valid && char_class(unit.code) == CharClass::kSpace;
}

}  // namespace

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (!out.empty()) step(out);
  }
  return out;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  WEFT_ASSERT(!from.empty());
  std::string out;
  out.reserve(text.size());
  size_t begin = 0;
  for (size_t found = text.find(from); found != std::string_view::npos;
       found = text.find(from, begin)) {
    out.append(text.substr(begin, found - begin)).append(to);
    begin = found + from.size();
  }
  return out.append(text.substr(begin));
}

Normalizer::Step prepend_text(std::string prefix) {
  return [prefix = std::move(prefix)](std::string& text) { text.insert(0, prefix); };
}

Normalizer::Step replace_text(std::string from, std::string to) {
  return [from = std::move(from), to = std::move(to)](std::string& text) {
    text = replaced(text, from, to);
  };
}

Normalizer::Step replace_matches(Regex regex, std::string to) {
  const auto shared = std::make_shared<const Regex>(std::move(regex));  // steps are copyable
  return [shared, to = std::move(to)](std::string& text) {
    const std::string valid = with_controls_for_broken_bytes(text);
    Regex::Matches matches(*shared, valid);
    std::string out;
    size_t done = 0, begin, end;
    while (matches.next(begin, end)) {
      out.append(text, done, begin - done).append(to);
      done = end;
    }
    text = out.append(text, done);
  };
}

Normalizer::Step normalize_nfc() {
  return [](std::string& text) { text = to_nfc(text); };
}

Normalizer::Step strip_space(bool left, bool right) {
  return [left, right](std::string& text) {
    size_t begin = 0, end = 0;
    for (size_t pos = 0; pos < text.size();) {
      const size_t after = pos + read_utf8(text, pos).length;
      const bool space = is_space_at(text, pos);
      if (!space) end = after;
      if (space && left && begin == pos) begin = after;
      pos = after;
    }
    if (!right) end = text.size();
    text = begin < end ? text.substr(begin, end - begin) : std::string();
  };
}

Normalizer::Step merge_spaces() {
  return [](std::string& text) {
    std::string out;
    for (const char c : text) {
      if (c != ' ' || (!out.empty() && out.back() != ' ')) out += c;
    }
    if (!out.empty() && out.back() == ' ') out.pop_back();
    text = std::move(out);
  };
}

}  // namespace weft::formats
