#include <algorithm>
#include <deque>
#include <utility>

#include "base/buffer.h"
#include "base/error.h"
#include "text/decoder.h"

namespace weft::text {
namespace {

using models::LogitsWanted;
using models::SequenceInput;

struct Request {
  RequestId id;
  Sampler sampler;
  std::vector<Token> tokens;  // prompt, then what was sampled
  size_t num_prompt;
  size_t num_generated;  // of the prompt: the answer so far
  size_t max_tokens;
  bool want_logprobs;
  size_t num_top_logprobs;
  SequenceId sequence;
  size_t stored;  // tokens in the cache
  size_t reused;  // of them, taken from another request
  std::unique_ptr<TokenFilterState> filter;  // null: any token may follow
  bool done = false;

  size_t num_sampled() const { return tokens.size() - num_prompt + num_generated; }
  size_t prompt_left() const { return stored < num_prompt ? num_prompt - stored : 0; }
};

// A finished request's pages, kept for prompts that begin alike.
struct Prefix {
  SequenceId sequence;
  std::vector<Token> tokens;  // those stored
};

size_t common_prefix(std::span<const Token> a, std::span<const Token> b) {
  const size_t shorter = std::min(a.size(), b.size());
  return static_cast<size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(shorter), b.begin()).first -
      a.begin());
}

class PlainDecoder final : public Decoder {
 public:
  PlainDecoder(std::shared_ptr<const models::LanguageModel> model,
               const PlainDecoderOptions& options, CoreSet cores)
      : model_(std::move(model)),
        cores_(cores),
        kept_prefixes_(options.kept_prefixes),
        context_length_(std::min({model_->config().context_length, options.context_length,
                                  options.capacity_tokens})),
        cache_({.num_layers = model_->config().num_layers,
                .shape = model_->kv_shape(),
                .format = options.kv_format,
                .capacity_tokens = options.capacity_tokens}),
        workspace_(model_->make_workspace()) {}

  void start(RequestId id, DecodeRequest request) override;
  void finish(RequestId id) override;
  std::span<const DecodedToken> step(const StepPlan& plan) override;
  size_t prompt_tokens_left(RequestId id) const override { return get(id).prompt_left(); }
  size_t reused_prompt_tokens(RequestId id) const override { return get(id).reused; }
  size_t context_length() const override { return context_length_; }
  size_t free_tokens() const override;

 private:
  const Request& get(RequestId id) const;
  void check(RequestId id, const DecodeRequest& request) const;
  std::pair<SequenceId, size_t> sequence_for(std::span<const Token> prompt);
  void plan_batch(const StepPlan& plan);
  void reserve_batch();
  void drop_oldest_prefix();
  void sample(Request& request, std::span<float> logits);

  std::shared_ptr<const models::LanguageModel> model_;
  CoreSet cores_;
  size_t kept_prefixes_;
  size_t context_length_;
  KvCache cache_;
  std::unique_ptr<models::Workspace> workspace_;
  std::vector<Request> requests_;  // in the order they were started
  std::deque<Prefix> prefixes_;    // oldest first

  // Of one step, kept to allocate nothing in the next.
  std::vector<size_t> advanced_;  // requests_ that the batch advances
  std::vector<SequenceInput> batch_;
  std::vector<DecodedToken> decoded_;
  Scratch<float> logits_;
};

void PlainDecoder::check(RequestId id, const DecodeRequest& request) const {
  for (const Request& other : requests_) WEFT_ASSERT(other.id != id);
  if (request.prompt.empty())
    fail(ErrorKind::kInvalidInput, "the prompt is empty: give at least one token");
  if (request.prompt.size() >= context_length_)
    fail(ErrorKind::kInvalidInput,
         "the prompt has {} tokens, but the context holds {}, the answer included. Shorten the "
         "prompt or ask for a longer context (this model's limit is {}).",
         request.prompt.size(), context_length_, model_->config().context_length);
  const size_t vocab_size = model_->config().vocab_size;
  for (const Token token : request.prompt)
    if (token < 0 || static_cast<size_t>(token) >= vocab_size)
      fail(ErrorKind::kInvalidInput, "token {} is outside the model's vocabulary of {}", token,
           vocab_size);
}

// The filter's state after the answer so far.
std::unique_ptr<TokenFilterState> start_filter(const DecodeRequest& request) {
  if (!request.filter) return nullptr;
  WEFT_ASSERT(request.num_generated <= request.prompt.size());
  std::unique_ptr<TokenFilterState> state = request.filter->start();
  for (const Token token : std::span(request.prompt).last(request.num_generated))
    state->accept(token);
  return state;
}

void PlainDecoder::start(RequestId id, DecodeRequest request) {
  check(id, request);
  Sampler sampler(request.sampling, request.random_stream);
  std::unique_ptr<TokenFilterState> filter = start_filter(request);
  const auto [sequence, reused] = sequence_for(request.prompt);
  const size_t num_prompt = request.prompt.size();
  // A step appends its token without growing anything.
  request.prompt.reserve(num_prompt + std::min(request.max_tokens, context_length_ - num_prompt));
  requests_.push_back({.id = id,
                       .sampler = std::move(sampler),
                       .tokens = std::move(request.prompt),
                       .num_prompt = num_prompt,
                       .num_generated = request.num_generated,
                       .max_tokens = request.max_tokens,
                       .want_logprobs = request.want_logprobs,
                       .num_top_logprobs = request.num_top_logprobs,
                       .sequence = sequence,
                       .stored = reused,
                       .reused = reused,
                       .filter = std::move(filter),
                       .done = request.num_generated >= request.max_tokens});
}

// A new sequence that begins with what the cache already has of the prompt, all but its last token
// at most: that one makes the first logits.
std::pair<SequenceId, size_t> PlainDecoder::sequence_for(std::span<const Token> prompt) {
  const auto usable = prompt.first(prompt.size() - 1);
  SequenceId source = 0;
  size_t longest = 0;
  const auto consider = [&](SequenceId sequence, std::span<const Token> stored) {
    const size_t length = common_prefix(stored, usable);
    if (length > longest) {
      longest = length;
      source = sequence;
    }
  };
  for (const Prefix& prefix : prefixes_) consider(prefix.sequence, prefix.tokens);
  if (kept_prefixes_ != 0)
    for (const Request& r : requests_) consider(r.sequence, std::span(r.tokens).first(r.stored));
  if (longest == 0) return {cache_.create(), 0};
  return {cache_.fork(source, longest), longest};
}

void PlainDecoder::finish(RequestId id) {
  const auto it = requests_.begin() + (&get(id) - requests_.data());
  if (kept_prefixes_ != 0 && it->stored != 0) {
    if (prefixes_.size() == kept_prefixes_) drop_oldest_prefix();
    it->tokens.resize(it->stored);
    prefixes_.push_back({it->sequence, std::move(it->tokens)});
  } else {
    cache_.release(it->sequence);
  }
  requests_.erase(it);
}

std::span<const DecodedToken> PlainDecoder::step(const StepPlan& plan) {
  WEFT_ASSERT(plan.max_prompt_tokens != 0);
  decoded_.clear();
  plan_batch(plan);
  if (batch_.empty()) return decoded_;
  reserve_batch();

  const size_t vocab_size = model_->config().vocab_size;
  const auto num_wanted =
      static_cast<size_t>(std::count_if(batch_.begin(), batch_.end(), [](const SequenceInput& i) {
        return i.logits != LogitsWanted::kNone;
      }));
  float* const logits = logits_.need(num_wanted * vocab_size);
  model_->forward(batch_, cache_, logits, *workspace_, cores_);

  for (size_t i = 0; i < batch_.size(); ++i)
    requests_[advanced_[i]].stored += batch_[i].tokens.size();
  size_t row = 0;
  for (size_t i = 0; i < batch_.size(); ++i)
    if (batch_[i].logits != LogitsWanted::kNone)
      sample(requests_[advanced_[i]], {logits + row++ * vocab_size, vocab_size});
  return decoded_;
}

// One piece of prompt, or the last token, of every request that goes on.
void PlainDecoder::plan_batch(const StepPlan& plan) {
  advanced_.clear();
  batch_.clear();
  size_t prompt_budget = plan.max_prompt_tokens;
  for (size_t i = 0; i < requests_.size(); ++i) {
    const Request& r = requests_[i];
    if (r.done) continue;
    size_t count = 1;
    const size_t left = r.prompt_left();
    if (left != 0 ? !plan.advance_prompts : !plan.advance_answers) continue;
    if (left != 0) {
      count = std::min(left, prompt_budget);
      if (count == 0) continue;
      prompt_budget -= count;
    }
    const bool ends_prompt = r.stored + count == r.tokens.size();
    advanced_.push_back(i);
    batch_.push_back({.sequence = r.sequence,
                      .tokens = std::span(r.tokens).subspan(r.stored, count),
                      .first_position = r.stored,
                      .logits = ends_prompt ? LogitsWanted::kLast : LogitsWanted::kNone});
  }
}

// Room for the whole batch, at the expense of kept prefixes if need be.
void PlainDecoder::reserve_batch() {
  for (const SequenceInput& input : batch_) {
    while (!cache_.reserve(input.sequence, input.tokens.size())) {
      if (prefixes_.empty())
        fail(ErrorKind::kOutOfResources,
             "the KV cache is full: {} requests share its {} tokens. Finish one, or start with "
             "room for more tokens.",
             requests_.size(), cache_.capacity_tokens());
      drop_oldest_prefix();
    }
  }
}

void PlainDecoder::drop_oldest_prefix() {
  cache_.release(prefixes_.front().sequence);
  prefixes_.pop_front();
}

void PlainDecoder::sample(Request& request, std::span<float> logits) {
  DecodedToken& out = decoded_.emplace_back();
  out.request = request.id;
  try {
    TokenFilterState* const filter = request.filter.get();
    out.sampled = request.sampler.sample(logits, request.tokens, request.want_logprobs,
                                         request.num_top_logprobs,
                                         filter != nullptr ? &filter->mask() : nullptr);
    if (filter != nullptr) {
      filter->accept(out.sampled.token);
      out.complete = filter->exhausted();
    }
    request.tokens.push_back(out.sampled.token);
  } catch (const Error& error) {
    out.error = error;
  }
  request.done = out.error || out.complete || request.num_sampled() >= request.max_tokens ||
                 request.tokens.size() >= context_length_;
  out.last = request.done;
}

size_t PlainDecoder::free_tokens() const {
  size_t in_use = 0;
  for (const Request& r : requests_)
    in_use += (r.stored + kernels::kPageTokens - 1) / kernels::kPageTokens * kernels::kPageTokens;
  return cache_.capacity_tokens() - std::min(in_use, cache_.capacity_tokens());
}

const Request& PlainDecoder::get(RequestId id) const {
  const auto it = std::find_if(requests_.begin(), requests_.end(),
                               [id](const Request& r) { return r.id == id; });
  WEFT_ASSERT(it != requests_.end());
  return *it;
}

}  // namespace

std::unique_ptr<Decoder> make_plain_decoder(std::shared_ptr<const models::LanguageModel> model,
                                            const PlainDecoderOptions& options, CoreSet cores) {
  return std::make_unique<PlainDecoder>(std::move(model), options, cores);
}

}  // namespace weft::text
