#include "formats/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::formats {
namespace {

// Rewrites what Oniguruma and PCRE2 read differently. PCRE2's \s has U+180E, which is not
// White_Space.
std::string translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += "\\p{White_Space}";
      } else if (escaped == 'S') {
        out += "\\P{White_Space}";
      } else {
        out += {c, escaped};
      }
      continue;
    }
    if (in_class && pattern.substr(i, 2) == "&&") {
      fail(ErrorKind::kUnsupported, "the pattern '{}' intersects character classes (&&) at byte {}",
           pattern, i);
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  std::string pattern;  // as given, for errors
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern) : code_(std::make_unique<Code>()) {
  if (!is_valid_utf8(pattern)) fail(ErrorKind::kInvalidInput, "a pattern is not valid UTF-8");
  code_->pattern = pattern;
  const std::string translated = translate(pattern);
  int error = 0;
  size_t offset = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                              &error, &offset, nullptr);
  if (code_->code == nullptr) {
    fail(ErrorKind::kInvalidInput, "the pattern '{}' is no regular expression: {} at byte {}",
         pattern, message_of(error), offset);
  }
  // Without the compiler (a hardened kernel, an odd CPU) matching falls back to the interpreter.
  pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

struct Regex::Matches::State {
  const Code* code;
  std::string_view text;
  size_t position = 0;
  pcre2_match_data* data;
};

Regex::Matches::Matches(const Regex& regex, std::string_view valid_utf8)
    : state_(std::make_unique<State>()) {
  state_->code = regex.code_.get();
  state_->text = valid_utf8;
  state_->data = pcre2_match_data_create_from_pattern(regex.code_->code, nullptr);
  if (state_->data == nullptr) throw std::bad_alloc();
}

Regex::Matches::~Matches() { pcre2_match_data_free(state_->data); }

bool Regex::Matches::next(size_t& begin, size_t& end) {
  State& s = *state_;
  const auto match = [&s](uint32_t options) {
    return pcre2_match(s.code->code, reinterpret_cast<PCRE2_SPTR>(s.text.data()), s.text.size(),
                       s.position, PCRE2_NO_UTF_CHECK | options, s.data, nullptr);
  };
  while (s.position <= s.text.size()) {
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) return false;
    if (result < 0) {
      fail(ErrorKind::kOutOfResources,
           "the pattern '{}' gave up at byte {} of a text of {} bytes: {}", s.code->pattern,
           s.position, s.text.size(), message_of(result));
    }
    const size_t* found = pcre2_get_ovector_pointer(s.data);
    begin = found[0];
    end = found[1];
    if (end > begin) {
      s.position = end;
      return true;
    }
    if (begin >= s.text.size()) return false;
    s.position = begin + read_utf8(s.text, begin).length;
  }
  return false;
}

std::string with_controls_for_broken_bytes(std::string_view text) {
  std::string valid(text);
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = read_utf8(text, pos);
    if (!unit.valid) std::fill_n(valid.begin() + static_cast<ptrdiff_t>(pos), unit.length, '\x01');
    pos += unit.length;
  }
  return valid;
}

}  // namespace weft::formats
