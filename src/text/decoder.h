// Decoder turns requests into tokens one step at a time. Serving, routing (R2R) and RL rollouts see
// Decoders alone. PlainDecoder is the ordinary one: a model, a paged cache, a batch.
//
// Owned and stepped by one engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "models/language_model.h"
#include "text/kv_cache.h"
#include "text/sampler.h"

namespace weft::text {

using RequestId = uint64_t;

struct DecodeRequest {
  std::vector<Token> prompt;  // not empty
  SamplingOptions sampling;
  size_t max_tokens = SIZE_MAX;
  bool want_logprobs = false;
  size_t num_top_logprobs = 0;
};

struct DecodedToken {
  RequestId request = 0;
  Sampled sampled;
};

class Decoder {
 public:
  virtual ~Decoder() = default;

  // kInvalidInput: empty prompt, or prompt longer than the context (says both lengths).
  virtual void start(RequestId id, DecodeRequest request) = 0;
  virtual void finish(RequestId id) = 0;  // frees its pages; also cancels

  struct StepPlan {
    size_t max_prompt_tokens = 512;  // of all requests still in prefill, in this step
  };
  // Advances every started request by one piece of prompt or one token, in one forward pass. Gives the
  // tokens that were sampled; `prompt_tokens_left` of a request tells whether it is still in prefill.
  virtual std::vector<DecodedToken> step(const StepPlan& plan) = 0;
  virtual size_t prompt_tokens_left(RequestId id) const = 0;
};

struct PlainDecoderOptions {
  kernels::KvFormat kv_format = kernels::KvFormat::kF16;
  size_t capacity_tokens = 4096;  // KV cache, all requests together
};

std::unique_ptr<Decoder> make_plain_decoder(std::shared_ptr<const models::LanguageModel> model,
                                            const PlainDecoderOptions& options, CoreSet cores);

}  // namespace weft::text
