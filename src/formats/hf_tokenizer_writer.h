// The reverse of gguf_tokenizer_writer.h: a GGUF file's byte-level BPE as tokenizer.json and
// tokenizer_config.json, for models that began as GGUF and are written as Hugging Face folders.
#pragma once

#include <filesystem>

#include "formats/gguf.h"

namespace weft::formats {

// kUnsupported for tokenizers of another kind (SentencePiece, pre-tokenizers that
// gguf_tokenizer_writer.h does not know), kInvalidInput for broken ones.
void write_hf_tokenizer(const GgufFile& file, const std::filesystem::path& folder);

}  // namespace weft::formats
