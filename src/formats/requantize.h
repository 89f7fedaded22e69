// Rewrites a checkpoint as a GGUF file in another number format (`weft quantize`).
//
// From GGUF all metadata is taken over. From a Hugging Face folder hyper-parameters are written
// under GGUF's keys, Llama's q and k are permuted for interleaved RoPE as every GGUF reader
// expects, and the tokenizer comes along where GGUF can express it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/quant_mix.h"

namespace weft::formats {

struct RequantizeReport {
  size_t source_bytes = 0, written_bytes = 0;  // of tensors
  std::map<DType, size_t> tensors;             // written, per type
  bool was_quantised = false;  // the source had block formats already: quality is lost twice
  bool has_tokenizer = false;  // else the file computes logits but takes no text
};

// The same bytes for any number of cores. Progress counts source bytes. Nothing is left at `out`
// unless all went well: kIo (disk full), kCancelled, kInvalidInput naming a tensor with values that
// have no code (NaN, infinity, too large).
RequantizeReport requantize(const Checkpoint& source, const std::filesystem::path& out,
                            const QuantMix& mix, const CoreSet& cores, StopToken stop = {},
                            const ProgressFn& progress = {});

// Metadata that every GGUF model has.
void write_hyperparameters(GgufWriter& writer, const std::string& architecture,
                           const Hyperparameters& hyperparameters);
void write_file_type(GgufWriter& writer, const QuantMix& mix);

}  // namespace weft::formats
