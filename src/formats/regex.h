// Regular expressions of tokenizer files, run by PCRE2 over valid UTF-8 with Unicode classes.
// Tokenizer patterns are written for Oniguruma; where the two differ we follow Oniguruma: \s is
// exactly White_Space, and $ ends a line. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace weft::formats {

class Regex {
 public:
  // kInvalidInput: no regular expression (with the position); kUnsupported: class intersections
  // (&&).
  explicit Regex(std::string_view pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // The matches in one text, from left to right. Belongs to one thread.
  class Matches {
   public:
    Matches(const Regex& regex, std::string_view valid_utf8);
    ~Matches();
    Matches(const Matches&) = delete;
    Matches& operator=(const Matches&) = delete;
    // False at the end. Empty matches are left out.
    // kOutOfResources: the pattern backtracks without end on this text.
    bool next(size_t& begin, size_t& end);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

// A text as Regex wants it: broken bytes stand as control characters, as long as they were.
std::string with_controls_for_broken_bytes(std::string_view text);

}  // namespace weft::formats
