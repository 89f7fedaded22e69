#include <algorithm>
#include <cstring>
#include <utility>

#include "base/buffer.h"
#include "base/error.h"
#include "parallel/crew.h"
#include "text/decoder.h"
#include "text/vocabtailor/tailored_step.h"

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
  size_t reused;  // of them, found in the cache
  uint64_t prefix_scope;
  std::unique_ptr<TokenFilterState> filter;  // null: any token may follow
  std::unique_ptr<TailoredRequest> tailored;  // null: the whole vocabulary
  bool done = false;

  size_t num_sampled() const { return tokens.size() - num_prompt + num_generated; }
  size_t prompt_left() const { return stored < num_prompt ? num_prompt - stored : 0; }
  bool drafts() const { return tailored != nullptr && tailored->mode() == VocabMode::kDraft; }
  // The head computes the request's set alone. Not where log-probabilities are wanted, which are the
  // whole model's, nor drafts that a filter's state would have to follow and come back from.
  bool uses_set() const {
    return tailored != nullptr && !tailored->whole() && !want_logprobs &&
           !(drafts() && filter != nullptr);
  }
  // All logits are computed for their probabilities, but the answer keeps to the set.
  bool masks_set() const {
    return tailored != nullptr && !tailored->whole() && want_logprobs &&
           (tailored->mode() == VocabMode::kHybrid || tailored->mode() == VocabMode::kStatic);
  }
};

class Detached final : public DetachedRequest {
 public:
  Detached(Request request, KvSequence sequence, std::shared_ptr<KvPool> pool)
      : request_(std::move(request)), sequence_(std::move(sequence)), pool_(std::move(pool)) {}
  ~Detached() override {
    if (sequence_.live) pool_->drop(sequence_.blocks);
  }

  Request request_;
  KvSequence sequence_;
  std::shared_ptr<KvPool> pool_;
};

std::shared_ptr<KvPool> make_pool(const models::LanguageModel& model,
                                  const PlainDecoderOptions& options) {
  if (options.pool != nullptr) return options.pool;
  KvCacheOptions pool{.num_layers = model.config().num_layers,
                      .shape = model.kv_shape(),
                      .format = options.kv_format,
                      .capacity_tokens = options.capacity_tokens,
                      .policy = options.kv_policy};
  if (options.kv_policy == nullptr) pool.division = parallel::cache_division(model);
  return std::make_shared<KvPool>(pool);
}

// Without a policy.
size_t plain_context(const models::LanguageModel& model, const PlainDecoderOptions& options) {
  return std::min(model.config().context_length, options.context_length);
}

size_t longest_context(const models::LanguageModel& model, const PlainDecoderOptions& options,
                       const KvPool& pool) {
  const size_t context = plain_context(model, options);
  const KvPolicy* const policy = pool.options().policy.get();
  const size_t capacity =
      options.pool != nullptr ? pool.capacity_tokens() : options.capacity_tokens;
  if (policy == nullptr) return std::min(context, capacity);
  // The longest that has room in the pool when it is alone there.
  size_t fits = 0, too_long = std::min(context, policy->max_length()) + 1;
  while (too_long - fits > 1) {
    const size_t middle = fits + (too_long - fits) / 2;
    const bool has_room =
        policy->peak_blocks(middle) * kernels::kPageTokens <= pool.capacity_tokens();
    (has_room ? fits : too_long) = middle;
  }
  return fits;
}

class BatchDecoder final : public PlainDecoder {
 public:
  BatchDecoder(std::shared_ptr<const models::LanguageModel> model,
               const PlainDecoderOptions& options, CoreSet cores)
      : model_(std::move(model)),
        cores_(cores),
        keep_prefixes_(options.keep_prefixes),
        cache_(make_pool(*model_, options)),
        policy_(cache_.pool()->options().policy.get()),
        context_length_(longest_context(*model_, options, *cache_.pool())),
        policy_limits_context_(policy_ != nullptr &&
                               context_length_ < plain_context(*model_, options)),
        workspace_(model_->make_workspace()) {}

  void start(RequestId id, DecodeRequest request) override;
  void finish(RequestId id) override;
  std::span<const DecodedToken> step(const StepPlan& plan) override;
  size_t prompt_tokens_left(RequestId id) const override { return get(id).prompt_left(); }
  size_t reused_prompt_tokens(RequestId id) const override { return get(id).reused; }
  VocabUse vocab_use(RequestId id) const override {
    const Request& r = get(id);
    return r.tailored != nullptr ? r.tailored->use() : VocabUse{};
  }
  size_t context_length() const override { return context_length_; }
  size_t free_tokens() const override { return cache_.free_tokens(); }
  size_t room_for(size_t num_tokens, const KvPolicy* own) const override {
    const KvPolicy* const policy = own != nullptr ? own : policy_;
    return policy == nullptr ? num_tokens : policy->peak_blocks(num_tokens) * kernels::kPageTokens;
  }
  size_t reclaimable_tokens() const override { return cache_.reclaimable_tokens(); }
  KvUsage kv_usage() const override { return cache_.usage(); }
  KvUsage kv_usage(RequestId id) const override { return cache_.usage(get(id).sequence); }
  std::unique_ptr<DetachedRequest> detach(RequestId id) override;
  void attach(std::unique_ptr<DetachedRequest> request) override;

 private:
  const Request& get(RequestId id) const { return requests_[index_of(id)]; }
  void check(RequestId id, const DecodeRequest& request) const;
  size_t index_of(RequestId id) const;
  void plan_batch(const StepPlan& plan);
  size_t add_input(size_t index, size_t count, size_t keep_free_tokens);
  bool fail_for_bad_value(Request& request);
  [[noreturn]] void fail_for_room() const;
  void split_heads();
  void sample_row(size_t input, size_t& logits_row, size_t& tailored_row);
  void sample_tailored(Request& request, size_t row);
  std::optional<size_t> screen(Request& request, size_t row);
  void propose(Request& request, size_t index, size_t row);
  void verify_drafts();
  void take_verified(Request& request, std::span<float> logits);
  const TokenMask* allowed(Request& request);
  void sample(Request& request, std::span<float> logits);
  bool full(const Request& request) const {
    return request.num_sampled() >= request.max_tokens || request.tokens.size() >= context_length_;
  }

  std::shared_ptr<const models::LanguageModel> model_;
  CoreSet cores_;
  bool keep_prefixes_;
  KvCache cache_;
  const KvPolicy* policy_;  // the pool's
  size_t context_length_;
  bool policy_limits_context_;
  std::unique_ptr<models::Workspace> workspace_;
  std::vector<Request> requests_;  // in the order they were started

  // Of one step, kept to allocate nothing in the next.
  std::vector<size_t> in_prefill_;  // requests_, in the plan's order
  std::vector<size_t> advanced_;    // requests_ that the batch advances
  std::vector<SequenceInput> batch_;
  std::vector<DecodedToken> decoded_;
  float* logits_ = nullptr;         // the workspace's
  TailoredStep tailored_;           // rows of requests that use a set
  Scratch<float> hidden_, whole_;   // of them; logits of the whole head, where one asks it
  std::vector<size_t> to_verify_;   // requests_ whose drafts are complete
  std::optional<TokenMask> masked_;  // a set, or what a filter leaves of it
  std::vector<Token> lowered_;       // by penalties and bias, of one request
};

void BatchDecoder::check(RequestId id, const DecodeRequest& request) const {
  for (const Request& other : requests_) WEFT_ASSERT(other.id != id);
  if (request.prompt.empty())
    fail(ErrorKind::kInvalidInput, "the prompt is empty: give at least one token");
  if (request.prompt.size() >= context_length_)
    fail(ErrorKind::kInvalidInput,
         "the prompt has {} tokens, but the context holds {}, the answer included. Shorten the "
         "prompt or ask for a longer context (this model's limit is {}).",
         request.prompt.size(), context_length_, model_->config().context_length);
  const size_t room = context_length_ - (request.prompt.size() - request.num_generated);
  if (policy_limits_context_ && request.max_tokens != SIZE_MAX && request.max_tokens > room)
    fail(ErrorKind::kInvalidInput,
         "an answer of {} tokens was asked for, but after this prompt the KV cache ({}) has room for "
         "{}. Ask for fewer, or give it a larger budget (--kv-budget, --kv-max-length).",
         request.max_tokens, policy_->describe(), room);
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

void BatchDecoder::start(RequestId id, DecodeRequest request) {
  check(id, request);
  Sampler sampler(request.sampling, request.random_stream);
  std::unique_ptr<TokenFilterState> filter = start_filter(request);
  std::unique_ptr<TailoredRequest> tailored;
  if (request.vocab.mode != VocabMode::kOff)
    tailored = std::make_unique<TailoredRequest>(request.vocab, request.prompt, request.sampling,
                                                 cores_);
  const size_t num_prompt = request.prompt.size();
  // All but its last token at most: that one makes the first logits.
  const auto usable = std::span<const Token>(request.prompt).first(num_prompt - 1);
  const SequenceId sequence =
      request.kv != nullptr ? cache_.create(request.kv)
      : keep_prefixes_      ? cache_.create_from_prefix(request.prefix_scope, usable)
                            : cache_.create();
  const size_t reused = cache_.length(sequence);
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
                       .prefix_scope = request.prefix_scope,
                       .filter = std::move(filter),
                       .tailored = std::move(tailored),
                       .done = request.num_generated >= request.max_tokens});
}

void BatchDecoder::finish(RequestId id) {
  const size_t index = index_of(id);
  cache_.release(requests_[index].sequence);
  requests_.erase(requests_.begin() + static_cast<ptrdiff_t>(index));
}

std::unique_ptr<DetachedRequest> BatchDecoder::detach(RequestId id) {
  const size_t index = index_of(id);
  Request request = std::move(requests_[index]);
  requests_.erase(requests_.begin() + static_cast<ptrdiff_t>(index));
  KvSequence sequence = cache_.take_out(request.sequence);
  return std::make_unique<Detached>(std::move(request), std::move(sequence), cache_.pool());
}

// A sequence of 16 bit out of another pool, copied.
SequenceId copy_sequence(KvCache& cache, const KvSequence& from, KvPool& pool) {
  WEFT_ASSERT(!from.narrow && pool.options().format == cache.pool()->options().format);
  const size_t length = *std::min_element(from.layer_length.begin(), from.layer_length.end());
  const SequenceId id = cache.create();
  if (!cache.reserve(id, length)) {
    cache.release(id);
    fail(ErrorKind::kOutOfResources,
         "the KV cache has no room for {} tokens that come from another one", length);
  }
  const kernels::KvShape& shape = pool.options().shape;
  const size_t head_bytes = shape.page_bytes(pool.options().format) / shape.num_kv_heads;
  const std::span<const KvBlock> blocks = cache.blocks(id);
  for (size_t page = 0; page < blocks.size(); ++page)
    for (size_t layer = 0; layer < pool.options().num_layers; ++layer)
      for (size_t head = 0; head < shape.num_kv_heads; ++head)
        std::memcpy(
            cache.pool()->page(layer, blocks[page]) + head * cache.pool()->head_stride(),
            pool.page(layer, from.blocks[page]) + head * pool.head_stride(), head_bytes);
  cache.stored_elsewhere(id, length);
  return id;
}

void BatchDecoder::attach(std::unique_ptr<DetachedRequest> request) {
  auto& detached = static_cast<Detached&>(*request);
  detached.request_.sequence =
      detached.pool_ == cache_.pool()
          ? cache_.put_in(std::exchange(detached.sequence_, {}))
          : copy_sequence(cache_, detached.sequence_, *detached.pool_);
  requests_.push_back(std::move(detached.request_));
}

std::span<const DecodedToken> BatchDecoder::step(const StepPlan& plan) {
  WEFT_ASSERT(plan.max_prompt_tokens != 0);
  decoded_.clear();
  plan_batch(plan);
  if (batch_.empty()) return decoded_;

  split_heads();
  model_->forward(batch_, cache_, logits_, *workspace_, cores_);

  for (size_t i = 0; i < batch_.size(); ++i) {
    Request& r = requests_[advanced_[i]];
    if (workspace_->failure(i) != nullptr) continue;
    r.stored += batch_[i].tokens.size();
    if (keep_prefixes_) cache_.keep_prefix(r.sequence, r.prefix_scope, r.tokens);
  }
  tailored_.compute(cores_);
  to_verify_.clear();
  size_t logits_row = 0, tailored_row = 0;
  for (size_t i = 0; i < batch_.size(); ++i) sample_row(i, logits_row, tailored_row);
  verify_drafts();
  return decoded_;
}

// Which of the batch's rows meet the whole head in the forward pass, and which their set afterwards.
void BatchDecoder::split_heads() {
  const models::LanguageModelConfig& config = model_->config();
  size_t num_wanted = 0, num_tailored = 0;
  for (size_t i = 0; i < batch_.size(); ++i) {
    if (batch_[i].logits == LogitsWanted::kNone) continue;
    ++(requests_[advanced_[i]].uses_set() ? num_tailored : num_wanted);
  }
  logits_ = workspace_->logits(num_wanted * config.vocab_size);
  tailored_.clear();
  if (num_tailored == 0) return;
  float* hidden = hidden_.need(num_tailored * config.hidden_size);
  for (size_t i = 0; i < batch_.size(); ++i) {
    const Request& r = requests_[advanced_[i]];
    if (batch_[i].logits == LogitsWanted::kNone || !r.uses_set()) continue;
    batch_[i].logits = LogitsWanted::kNone;
    batch_[i].last_hidden = hidden;
    tailored_.add(*r.tailored, hidden);
    hidden += config.hidden_size;
  }
}

void BatchDecoder::sample_row(size_t input, size_t& logits_row, size_t& tailored_row) {
  Request& r = requests_[advanced_[input]];
  const bool tailored = batch_[input].last_hidden != nullptr;
  const bool sampled = tailored || batch_[input].logits != LogitsWanted::kNone;
  const size_t row = tailored ? tailored_row : logits_row;
  if (sampled) ++(tailored ? tailored_row : logits_row);
  if (const Error* const error = workspace_->failure(input)) {
    r.done = true;
    decoded_.push_back({.request = r.id, .sampled = {}, .last = true, .error = *error});
    return;
  }
  if (fail_for_bad_value(r) || !sampled) return;
  if (!tailored) {
    const size_t vocab_size = model_->config().vocab_size;
    sample(r, {logits_ + row * vocab_size, vocab_size});
  } else if (r.drafts()) {
    propose(r, advanced_[input], row);
  } else {
    sample_tailored(r, row);
  }
}

bool BatchDecoder::fail_for_bad_value(Request& request) {
  const auto bad = cache_.bad_value(request.sequence);
  if (!bad) return false;
  request.done = true;
  DecodedToken& out = decoded_.emplace_back();
  out.request = request.id;
  out.last = true;
  out.error = Error(ErrorKind::kInvalidInput,
                    fmt::format("layer {} made a {} that is no number for the token at position {}: "
                                "it cannot be quantised. The model's file is damaged, or its values "
                                "are too large for 16 bit: try --kv bf16.",
                                bad->layer, bad->is_key ? "key" : "value", bad->position));
  return true;
}

// One piece of prompt, or the last token, of every request that goes on, with room for it.
void BatchDecoder::plan_batch(const StepPlan& plan) {
  advanced_.clear();
  batch_.clear();
  in_prefill_.clear();
  const auto rests = [&](RequestId id) {
    return std::find(plan.resting.begin(), plan.resting.end(), id) != plan.resting.end();
  };
  for (size_t i = 0; i < requests_.size(); ++i) {
    const Request& r = requests_[i];
    if (r.done) continue;
    if (r.prompt_left() != 0)
      in_prefill_.push_back(i);
    else if (plan.advance_answers && !rests(r.id) && add_input(i, 1, 0) == 0)
      fail_for_room();
  }
  if (!plan.advance_prompts) return;
  if (!plan.prompt_order.empty()) {
    in_prefill_.clear();
    for (const RequestId id : plan.prompt_order) in_prefill_.push_back(index_of(id));
  }
  size_t budget = plan.max_prompt_tokens;
  for (const size_t i : in_prefill_) {
    const size_t count = std::min(requests_[i].prompt_left(), budget);
    if (count != 0) budget -= add_input(i, count, plan.keep_free_tokens);
  }
  if (batch_.empty() && !in_prefill_.empty()) fail_for_room();
}

// Gives how many of `count` tokens are in; 0: there is no room for them.
size_t BatchDecoder::add_input(size_t index, size_t count, size_t keep_free_tokens) {
  const Request& r = requests_[index];
  count = std::min(count, cache_.max_piece(r.sequence));
  while (!cache_.reserve(r.sequence, count, keep_free_tokens)) {
    // Pressure may have narrowed it, so that it takes smaller pieces now.
    if (cache_.max_piece(r.sequence) >= count) return 0;
    count = cache_.max_piece(r.sequence);
  }
  const bool ends_prompt = r.stored + count == r.tokens.size();
  advanced_.push_back(index);
  batch_.push_back({.sequence = r.sequence,
                    .tokens = std::span(r.tokens).subspan(r.stored, count),
                    .first_position = r.stored,
                    .logits = ends_prompt ? LogitsWanted::kLast : LogitsWanted::kNone,
                    .may_fail = true});
  return count;
}

void BatchDecoder::fail_for_room() const {
  fail(ErrorKind::kOutOfResources,
       "the KV cache is full: {} requests share its {} tokens. Finish one, or start with room for "
       "more tokens.",
       requests_.size(), cache_.capacity_tokens());
}

// How many tokens outside the set it looks at; none where the set has none that is allowed.
std::optional<size_t> BatchDecoder::screen(Request& request, size_t row) {
  const SamplingOptions& sampling = request.sampler.options();
  TailoredStep::Screening how{.allowed = request.filter ? &request.filter->mask() : nullptr,
                              .reach = logit_reach(sampling)};
  lowered_.clear();
  if (lowers_used_tokens(sampling)) {
    const auto last = penalised(sampling, request.tokens);
    lowered_.assign(last.begin(), last.end());
  }
  for (const auto& [token, bias] : sampling.logit_bias)
    if (bias < 0) lowered_.push_back(token);
  how.lowered = lowered_;
  return tailored_.screen(row, how, cores_);
}

void BatchDecoder::sample_tailored(Request& request, size_t row) {
  TailoredRequest& tailored = *request.tailored;
  bool whole = false;
  std::optional<size_t> screened;
  try {
    const TokenMask* const allowed = request.filter ? &request.filter->mask() : nullptr;
    if (tailored.mode() == VocabMode::kScreen) {
      screened = screen(request, row);
      whole = !screened;
    } else if (allowed != nullptr || tailored.mode() == VocabMode::kVerify) {
      // What the filter leaves of the set may be nothing: then the whole head answers.
      const Token best = tailored_.best(row, allowed);
      whole = tailored.escapes(tailored_.base_logits(row), tailored_.tail_logits(row), best,
                               request.tokens.size()) ||
              best < 0;
    }
  } catch (const Error& error) {
    decoded_.push_back({.request = request.id, .sampled = {}, .last = true, .error = error});
    request.done = true;
    return;
  }
  if (!whole) {
    sample(request, tailored_.spread(row));
    tailored_.give_back(row);
    if (screened && !decoded_.back().error)
      tailored.screened(*screened, request.tokens.back(), cores_);
    return;
  }
  const size_t vocab_size = model_->config().vocab_size;
  float* const logits = whole_.need(vocab_size);
  model_->head(tailored_.hidden(row), 1, logits, *workspace_, cores_);
  sample(request, {logits, vocab_size});
  if (!decoded_.back().error) tailored.escaped(request.tokens.back(), cores_);
}

// kDraft: a token of the set that the next steps go on from. Once there are enough, the whole head
// looks at all of them at once. The very first is looked at alone: somebody waits for it.
void BatchDecoder::propose(Request& request, size_t index, size_t row) {
  TailoredRequest& tailored = *request.tailored;
  std::copy_n(tailored_.hidden(row), model_->config().hidden_size, tailored.add_draft().data());
  std::optional<Token> token;
  try {
    token = request.sampler.sample(tailored_.spread(row), request.tokens).token;
  } catch (const Error&) {
    token = request.tokens.back();  // any: the whole head decides
  }
  tailored_.give_back(row);
  request.tokens.push_back(*token);
  if (tailored.num_drafts() == tailored.draft_tokens() || tailored.head().ends_answer(*token) ||
      request.num_sampled() == 1 || full(request))
    to_verify_.push_back(index);
}

void BatchDecoder::verify_drafts() {
  if (to_verify_.empty()) return;
  const size_t hidden_size = model_->config().hidden_size, vocab_size = model_->config().vocab_size;
  size_t num_rows = 0;
  for (const size_t i : to_verify_) num_rows += requests_[i].tailored->num_drafts();
  float* const hidden = hidden_.need(num_rows * hidden_size);
  float* const logits = whole_.need(num_rows * vocab_size);
  size_t row = 0;
  for (const size_t i : to_verify_) {
    const TailoredRequest& tailored = *requests_[i].tailored;
    std::copy_n(tailored.drafts(), tailored.num_drafts() * hidden_size,
                hidden + row * hidden_size);
    row += tailored.num_drafts();
  }
  model_->head(hidden, num_rows, logits, *workspace_, cores_);
  row = 0;
  for (const size_t i : to_verify_) {
    const size_t num_drafts = requests_[i].tailored->num_drafts();
    take_verified(requests_[i], {logits + row * vocab_size, num_drafts * vocab_size});
    row += num_drafts;
  }
}

// Draws again from the whole head's logits, with the same random numbers: what comes out is what mode
// kOff would have sampled. Drafts are kept as far as they agree; the first that does not is replaced,
// and what was computed from it is dropped.
void BatchDecoder::take_verified(Request& request, std::span<float> logits) {
  TailoredRequest& tailored = *request.tailored;
  const size_t num_drafts = tailored.num_drafts(), vocab_size = model_->config().vocab_size;
  const size_t first = request.tokens.size() - num_drafts;
  const std::vector<Token> drafts(request.tokens.end() - static_cast<ptrdiff_t>(num_drafts),
                                  request.tokens.end());
  request.tokens.resize(first);
  size_t accepted = 0, sampled = 0;
  while (sampled < num_drafts && accepted == sampled && !request.done) {
    sample(request, logits.subspan(sampled * vocab_size, vocab_size));
    if (decoded_.back().error) break;
    if (request.tokens.back() == drafts[sampled]) ++accepted;
    ++sampled;
  }
  const size_t valid = first + (sampled == 0 ? 0 : sampled - 1);
  if (request.stored > valid) {
    cache_.truncate(request.sequence, valid);
    request.stored = cache_.length(request.sequence);
  }
  tailored.verified(accepted, sampled);
}

// What may be sampled; null: anything. Logits of all tokens are cut to the request's set here.
const TokenMask* BatchDecoder::allowed(Request& request) {
  const TokenMask* const filtered = request.filter ? &request.filter->mask() : nullptr;
  if (!request.masks_set()) return filtered;
  masked_ = request.tailored->mask();
  if (filtered != nullptr) masked_->keep_only(*filtered);
  return &*masked_;
}

void BatchDecoder::sample(Request& request, std::span<float> logits) {
  DecodedToken& out = decoded_.emplace_back();
  out.request = request.id;
  try {
    TokenFilterState* const filter = request.filter.get();
    out.sampled = request.sampler.sample(logits, request.tokens, request.want_logprobs,
                                         request.num_top_logprobs, allowed(request));
    if (filter != nullptr) {
      filter->accept(out.sampled.token);
      out.complete = filter->exhausted();
    }
    request.tokens.push_back(out.sampled.token);
    if (request.tailored != nullptr) request.tailored->sampled();
    if (request.masks_set()) request.tailored->escaped(out.sampled.token, cores_);
  } catch (const Error& error) {
    out.error = error;
  }
  request.done = out.error || out.complete || full(request);
  out.last = request.done;
}

size_t BatchDecoder::index_of(RequestId id) const {
  const auto it = std::find_if(requests_.begin(), requests_.end(),
                               [id](const Request& r) { return r.id == id; });
  WEFT_ASSERT(it != requests_.end());
  return static_cast<size_t>(it - requests_.begin());
}

}  // namespace

std::unique_ptr<PlainDecoder> make_plain_decoder(
    std::shared_ptr<const models::LanguageModel> model, const PlainDecoderOptions& options,
    CoreSet cores) {
  return std::make_unique<BatchDecoder>(std::move(model), options, cores);
}

}  // namespace weft::text
