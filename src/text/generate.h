// One answer to one prompt: steps a decoder until the model ends its answer, a stop string appears
// or the limit is reached, and hands out the text as it comes. The command line and the library use
// it; the server batches many requests on the same decoder itself.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "formats/tokenizer.h"
#include "text/decoder.h"

namespace weft::text {

struct GenerateOptions {
  SamplingOptions sampling = {};
  size_t max_tokens = SIZE_MAX;
  std::vector<std::string> stop = {};  // the answer ends before the first of them
  size_t chunk_tokens = 512;      // of a long prompt, in one step
  std::shared_ptr<const TokenFilter> filter = {};  // what the answer may consist of
  formats::LeadingSpace leading_space = formats::LeadingSpace::kAsDecoded;
  VocabChoice vocab = {};
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled };
const char* name(FinishReason reason);  // "stop", "length", "cancelled"

struct Generation {
  std::string text;
  std::vector<Token> tokens;  // without the end token
  FinishReason reason = FinishReason::kStop;
  size_t prompt_tokens = 0;
  size_t reused_prompt_tokens = 0;  // found in the cache
  size_t num_sampled = 0;           // tokens, the end token too
  double prefill_seconds = 0;       // until the first token was sampled
  double decode_seconds = 0;        // of the other tokens
  VocabUse vocab = {};

  double prefill_tokens_per_second() const;
  double decode_tokens_per_second() const;
};

// Pieces of text, whole UTF-8 characters, as they are known. False ends the answer (kCancelled).
using TextFn = std::function<bool(std::string_view piece)>;

// `prefill` counts prompt tokens. A stop request ends the answer after the current step. Errors are
// those of Decoder::start and step.
Generation generate(Decoder& decoder, const formats::Tokenizer& tokenizer,
                    std::span<const Token> prompt, const GenerateOptions& options,
                    const TextFn& on_text = {}, StopToken stop = {},
                    const ProgressFn& prefill = {});

}  // namespace weft::text
