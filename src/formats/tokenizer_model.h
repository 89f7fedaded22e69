// Turns one piece of normalized text (a word, as the pre-tokenizer cuts it) into tokens.
#pragma once

#include <string_view>
#include <vector>

#include "formats/tokenizer.h"

namespace weft::formats {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends. Any bytes are accepted, up to 2^31 - 1 of them. Thread-safe.
  virtual void encode(std::string_view piece, std::vector<Token>& out) const = 0;
};

}  // namespace weft::formats
