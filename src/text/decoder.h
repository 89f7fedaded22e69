// Decoder turns requests into tokens one step at a time. Serving, routing (R2R) and RL rollouts see
// Decoders alone. PlainDecoder is the ordinary one: a model, a paged cache, a batch.
//
// What a request answers depends on the request alone: neither on the others in its batch, nor on
// how its prompt was cut up, nor on the number of cores. So a request that had to make room
// (finish() and, later, start() with its prompt followed by the tokens it got) goes on as if
// nothing had happened.
//
// Owned and stepped by one engine thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "models/language_model.h"
#include "text/kv_cache.h"
#include "text/sampler.h"
#include "text/token_filter.h"
#include "text/vocabtailor/packed_head.h"

namespace weft::text {

using RequestId = uint64_t;

struct DecodeRequest {
  std::vector<Token> prompt;  // not empty
  SamplingOptions sampling = {};
  uint64_t random_stream = 0;  // with the seed, names the random numbers: choice k of n answers
  size_t max_tokens = SIZE_MAX;
  // A request that goes on: so many of the prompt's last tokens are its answer already.
  size_t num_generated = 0;
  std::shared_ptr<const TokenFilter> filter = {};  // what the answer may consist of; null: anything
  bool want_logprobs = false;
  size_t num_top_logprobs = 0;
  uint64_t prefix_scope = 0;  // prompts reuse what the cache keeps of requests in the same scope
  VocabChoice vocab = {};     // which of the vocabulary's tokens the head computes
  // Widths of its keys and values instead of the decoder's (kDirect); such a request neither finds nor
  // leaves prefixes. Null: the decoder's.
  std::shared_ptr<const KvPolicy> kv = nullptr;
};

struct DecodedToken {
  RequestId request = 0;
  Sampled sampled;
  bool last = false;  // max_tokens or the context is full: it gets no more, and waits for finish()
  bool complete = false;  // `last` because the filter lets nothing follow: a whole answer
  // Nothing could be sampled (all tokens banned, logits that are no numbers) or computed
  // (Workspace::failure): `last` is set, `sampled` means nothing, and the other requests go on.
  std::optional<Error> error;
};

class Decoder {
 public:
  virtual ~Decoder() = default;

  // kInvalidInput: empty prompt, a token outside the vocabulary, sampling options out of range, a
  // prompt that leaves no room for an answer in the context (says both lengths), max_tokens that a
  // KV policy's budget has no room for, or the answer so far is one that the filter does not allow.
  virtual void start(RequestId id, DecodeRequest request) = 0;
  virtual void finish(RequestId id) = 0;  // frees its pages; also cancels

  struct StepPlan {
    size_t max_prompt_tokens = 512;  // of all requests still in prefill, in this step; at least 1
    bool advance_prompts = true, advance_answers = true;  // requests in prefill; the others
    // Requests in prefill in the order in which they get those tokens; none given: as started.
    std::span<const RequestId> prompt_order = {};
    // Answers that do not advance in this step.
    std::span<const RequestId> resting = {};
    // Of the cache, left by prompts for the answers of others.
    size_t keep_free_tokens = 0;
  };
  // Advances every started request by one piece of prompt or one token, in one forward pass. Gives
  // the tokens that were sampled, valid until the next call; `prompt_tokens_left` of a request
  // tells whether it is still in prefill. With VocabMode::kDraft a request gets none in some steps and
  // several in others; those after one that ends the answer mean nothing. A prompt that the cache has
  // no room for waits while others go on. kOutOfResources: there is no room for an answer's token, or for any prompt; nothing has
  // changed, and it can be tried again once a request is finished.
  virtual std::span<const DecodedToken> step(const StepPlan& plan) = 0;

  virtual size_t prompt_tokens_left(RequestId id) const = 0;
  // Tokens of the prompt that start() found in the cache.
  virtual size_t reused_prompt_tokens(RequestId id) const = 0;
  virtual VocabUse vocab_use(RequestId) const { return {}; }
  virtual size_t context_length() const = 0;  // prompt and answer of one request
  // Room in the cache that requests can still take, in whole pages of 16 bit; kept prefixes count as
  // free.
  virtual size_t free_tokens() const = 0;
  // Room that requests here would give up for others, by being kept in fewer bits (KvMode::kPressure).
  virtual size_t reclaimable_tokens() const { return 0; }
  // What of it a request of `num_tokens` takes, with widths of its own (DecodeRequest::kv) or the
  // decoder's (null): less than as many where the cache is narrower.
  virtual size_t room_for(size_t num_tokens, const KvPolicy* /*own*/ = nullptr) const {
    return num_tokens;
  }
  virtual KvUsage kv_usage() const { return {}; }  // of this decoder's requests
  virtual KvUsage kv_usage(RequestId) const { return {}; }
};

// A request between two decoders, with its pages in the pool that they share.
class DetachedRequest {
 public:
  virtual ~DetachedRequest() = default;  // gives the pages back
};

// A decoder whose requests can move to another one over the same model, at any time between two steps,
// and answer the same. Over the same pool no page is copied; a pool without room: kOutOfResources.
class PlainDecoder : public Decoder {
 public:
  virtual std::unique_ptr<DetachedRequest> detach(RequestId id) = 0;
  virtual void attach(std::unique_ptr<DetachedRequest> request) = 0;
};

struct PlainDecoderOptions {
  kernels::KvFormat kv_format = kernels::KvFormat::kF16;
  size_t capacity_tokens = 4096;     // KV cache, all requests together
  size_t context_length = SIZE_MAX;  // of one request, at most
  // A finished request's full pages stay until their room is needed: a prompt that begins like it (a
  // chat's next turn, the same instructions) skips what is there.
  bool keep_prefixes = true;
  // Widths of older pages (null: 16 bit). The capacity above is in pages of 16 bit all the same.
  std::shared_ptr<const KvPolicy> kv_policy = nullptr;
  // Instead of a pool of its own with the format, capacity and policy above.
  std::shared_ptr<KvPool> pool = nullptr;
};

// A request's context is the smallest of the model's, the option's, the policy's and what the cache
// holds.
std::unique_ptr<PlainDecoder> make_plain_decoder(
    std::shared_ptr<const models::LanguageModel> model, const PlainDecoderOptions& options,
    CoreSet cores);

}  // namespace weft::text
