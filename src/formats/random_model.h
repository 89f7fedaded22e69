// GGUF files with random weights and the shapes of real models, for benches and tests of speed and
// memory where no download is wanted. Weights are normal (standard deviation 0.02), norms 1; the
// vocabulary is synthetic but valid (byte-level BPE), so that other programs load the files as
// well.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/quant_mix.h"

namespace weft::formats {

// "qwen2.5-0.5b", "llama-3.2-1b", ...; the smallest is "tiny".
std::vector<std::string> random_model_shapes();

// The same bytes for the same shape, mix and seed, whatever the number of cores. Progress counts
// bytes. kInvalidInput lists the shapes if `shape` is none; kCancelled leaves nothing behind.
// `chat_template`: the model carries it, so that it can hold conversations.
void write_random_model(const std::filesystem::path& path, std::string_view shape,
                        const QuantMix& mix, uint64_t seed, const CoreSet& cores,
                        StopToken stop = {}, const ProgressFn& progress = {},
                        std::string_view chat_template = {});

}  // namespace weft::formats
