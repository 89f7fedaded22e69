// Tokens that are found in the text before anything else cuts it: "<|im_end|>" and its like.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"

namespace weft::formats {

struct AddedToken {
  std::string text;  // as it is searched
  Token id = 0;
  bool special = false;     // skipped where special tokens are not to be parsed
  bool strip_left = false;  // takes the white space on its left with it
  bool strip_right = false;
  bool single_word = false;  // only where no letter or digit touches it
};

class AddedTokens {
 public:
  void add(AddedToken token);  // then prepare()
  void prepare();
  bool empty() const { return tokens_.empty(); }

  struct Match {
    size_t begin, end;
    Token id;
  };
  // The leftmost match at or after `from`, the longest of those that start there.
  std::optional<Match> find(std::string_view text, size_t from, bool parse_special) const;

 private:
  const AddedToken* longest_at(std::string_view text, size_t pos, bool parse_special) const;

  std::vector<AddedToken> tokens_;      // sorted by text
  std::array<uint32_t, 257> starts_{};  // of the tokens with this first byte
};

}  // namespace weft::formats
