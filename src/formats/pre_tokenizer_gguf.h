// What a GGUF file's `tokenizer.ggml.pre` stands for: the pattern that the model's own tokenizer
// cuts text with, and how its files differ otherwise.
#pragma once

#include <string>
#include <string_view>

#include "formats/pre_tokenizer.h"

namespace weft::formats {

struct NamedPreTokenizer {
  PreTokenizer pre_tokenizer;
  bool whole_words_first = false;  // a piece that is a token is that token, whatever the merges
  bool add_bos = false;            // unless the file says otherwise
};

// kUnsupported names the known ones.
NamedPreTokenizer pre_tokenizer_named(std::string_view name);

}  // namespace weft::formats
