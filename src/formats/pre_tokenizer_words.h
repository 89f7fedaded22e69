// The word patterns that most byte-level models use, written out as scanners: they run at memory
// speed where a regular expression engine would cost more than the merging.
#pragma once

#include <cstddef>
#include <string_view>

namespace weft::formats {

enum class WordPattern {
  // GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  kGpt2,
  // Llama 3: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
  //          ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  kLlama3,
  // Qwen2: Llama 3's with single digits (\p{N})
  kQwen2,
  // Qwen3.5: Qwen2's with marks as letters ([\p{L}\p{M}] for \p{L})
  kQwen35,
};

// The end of the piece that starts at `begin` < text.size(). Pieces follow each other without gaps.
// Broken UTF-8 counts as a character without class.
size_t end_of_word(WordPattern pattern, std::string_view text, size_t begin);

}  // namespace weft::formats
