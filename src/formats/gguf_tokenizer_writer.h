// The tokenizer of a Hugging Face folder as GGUF metadata: byte-level BPE whose pre-tokenizer GGUF
// has a name for (GPT-2, SmolLM, Llama 3, Qwen2 and their kin).
#pragma once

#include <cstddef>
#include <filesystem>

#include "formats/gguf.h"

namespace weft::formats {

// Reads tokenizer.json and tokenizer_config.json. False, and nothing written, if the folder has no
// tokenizer.json. `vocab_size` is the model's; ids without a token get a place-holder. kUnsupported
// for tokenizers that this way cannot carry, kInvalidInput for broken ones.
bool write_gguf_tokenizer(GgufWriter& writer, const std::filesystem::path& folder,
                          size_t vocab_size);

}  // namespace weft::formats
