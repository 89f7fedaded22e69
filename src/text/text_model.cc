#include "text/text_model.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "formats/unicode.h"

namespace weft::text {
namespace {

using formats::Checkpoint;

size_t choose_context(const Checkpoint& checkpoint, size_t asked) {
  const size_t longest = models::read_config(checkpoint).context_length;
  if (asked == 0) return std::min(longest, kDefaultContext);
  if (asked > longest)
    fail(ErrorKind::kInvalidInput,
         "{}: a context of {} tokens was asked for; the model's limit is {}", checkpoint.name(),
         asked, longest);
  return asked;
}

double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// 4 bit is what a small model bears, 2 bit what a large one does (arXiv 2505.18610, table 2).
uint8_t narrowest(const Checkpoint& checkpoint) {
  constexpr double kLarge = 3e9;
  double parameters = 0;
  for (const std::string& name : checkpoint.tensor_names())
    parameters += static_cast<double>(checkpoint.require(name).shape.elements());
  return parameters < kLarge ? 4 : 2;
}

// Null: everything in 16 bit.
std::shared_ptr<const KvPolicy> make_policy(const Checkpoint& checkpoint, KvPolicyOptions options,
                                            size_t context) {
  if (options.mode == KvMode::kPlain) return nullptr;
  for (uint8_t* const width : {&options.widths.k, &options.widths.v})
    if (*width == 0) *width = narrowest(checkpoint);
  const size_t asked = options.max_length;
  const models::LanguageModelConfig config = models::read_config(checkpoint);
  if (asked > config.context_length)
    fail(ErrorKind::kInvalidInput,
         "{}: a longest sequence of {} tokens was asked for; the model's limit is {}",
         checkpoint.name(), asked, config.context_length);
  if (asked == 0) options.max_length = context;
  auto policy = std::make_shared<KvPolicy>(
      options, config.num_layers,
      kernels::KvShape{.num_kv_heads = config.num_kv_heads, .head_dim = config.head_dim});
  if (policy->max_length() < asked)
    fail(ErrorKind::kInvalidInput,
         "{}: a KV budget of {:.1f} MiB holds {} tokens at the narrowest widths, but sequences of "
         "{} "
         "were asked for. Give a larger budget or allow narrower widths.",
         checkpoint.name(), mib(options.budget_bytes), policy->max_length(), asked);
  if (options.mode == KvMode::kDirect && policy->exact_until() == KvPolicy::kNever) return nullptr;
  return policy;
}

void check_memory(const Checkpoint& checkpoint, const TextMemoryPlan& plan, size_t available) {
  if (plan.total_bytes() <= available) return;
  fail(ErrorKind::kOutOfResources,
       "{}: needs {:.0f} MiB of memory ({:.0f} of weights, {:.0f} of KV cache, {:.0f} to work in), "
       "but {:.0f} MiB are available. Ask for a shorter context or take a smaller model.",
       checkpoint.name(), mib(plan.total_bytes()), mib(plan.weight_bytes), mib(plan.kv_bytes),
       mib(plan.scratch_bytes), mib(available));
}

void check_utf8(std::string_view text, const char* what) {
  for (size_t at = 0; at < text.size();) {
    const formats::Utf8Unit unit = formats::read_utf8(text, at);
    if (!unit.valid)
      fail(ErrorKind::kInvalidInput, "{} is not valid UTF-8 (byte {} is 0x{:02x})", what, at,
           static_cast<unsigned char>(text[at]));
    at += unit.length;
  }
}

}  // namespace

TextModel TextModel::load(const std::filesystem::path& path, const TextModelOptions& options,
                          const CoreSet& cores, const ProgressFn& progress) {
  TextModel out;
  out.options_ = options;
  out.files_ = FileStamps(path);
  out.checkpoint_ = formats::open_checkpoint(path);
  const Checkpoint& checkpoint = *out.checkpoint_;
  out.asked_context_ = out.context_ = choose_context(checkpoint, options.context);
  out.policy_ = make_policy(checkpoint, options.kv, out.context_);
  if (out.policy_) out.context_ = std::min(out.context_, out.policy_->max_length());
  if (options.crew && options.experts)
    fail(ErrorKind::kUnsupported,
         "several ranks need all experts in memory: leave out --expert-memory");
  out.make_plan();
  if (options.on_plan) options.on_plan(out.plan_);
  check_memory(checkpoint, out.plan_, options.available_bytes);
  out.tokenizer_ = checkpoint.load_tokenizer();
  out.filters_ = std::make_unique<grammar::FilterCache>(*out.tokenizer_);
  if (auto source = checkpoint.chat_template()) {
    out.chat_template_.emplace(*source, checkpoint.name() + ": chat template");
    out.chat_template_text_ = *std::move(source);
  }
  models::OpenExperts open_experts;
  if (out.expert_slots_ != 0)
    open_experts = open_expert_stream(*options.experts, out.expert_slots_, path, &out.experts_);
  auto model = models::load_language_model(out.checkpoint_, cores, progress, options.head,
                                           options.weights, open_experts,
                                           options.crew ? options.crew->team : nullptr);
  if (options.crew) model = parallel::lead(options.crew, std::move(model));
  out.model_ = std::move(model);
  out.vocab_sketch_ = std::make_shared<VocabSketch>(
      out.model_, std::min(out.tokenizer_->vocab_size(), out.model_->config().vocab_size));
  return out;
}

void TextModel::make_plan() {
  const models::MemoryPlan model = models::plan_memory(*checkpoint_, options_.kv_format,
                                                       std::min(options_.step_tokens, context_),
                                                       options_.crew ? options_.crew->plan.tensor : 1);
  kv_room_ = context_;
  if (policy_ && policy_->mode() == KvMode::kPressure) {
    // Narrowing begins where it is full but for a block to narrow in.
    kv_room_ += kernels::kPageTokens;
    if (options_.kv.budget_bytes != 0)
      kv_room_ = options_.kv.budget_bytes / policy_->block_bytes() * kernels::kPageTokens;
  } else if (policy_) {
    kv_room_ = policy_->peak_blocks(context_) * kernels::kPageTokens;
  }
  const bool waits = options_.head == models::HeadLoading::kWhenNeeded;
  size_t kv_bytes = model.kv_bytes_per_token * kv_room_;
  if (options_.crew && options_.crew->plan.divides_cache() && !policy_)
    kv_bytes = (kv_bytes + options_.crew->plan.sequence - 1) / options_.crew->plan.sequence;
  size_t weight_bytes = model.weight_bytes - (waits ? model.head_bytes : 0);
  if (options_.experts) {
    expert_slots_ =
        plan_expert_slots(options_.experts->budget, model, kv_bytes, checkpoint_->name());
    if (expert_slots_ == model.num_experts) expert_slots_ = 0;  // all fit: nothing to stream
    if (expert_slots_ != 0)
      weight_bytes -= model.expert_bytes - expert_slots_ * expert_slot_bytes(model);
  }
  plan_ = {.weight_bytes = weight_bytes,
           .kv_bytes = kv_bytes,
           .scratch_bytes = model.scratch_bytes,
           .head_bytes = model.head_bytes,
           .context_length = context_,
           .kv = policy_ ? policy_->describe() : "16 bit"};
}

void TextModel::offer_kv_widths() {
  const KvMode mode = options_.kv.mode;
  if ((mode != KvMode::kPlain && mode != KvMode::kDirect) || !options_.kv.layer_widths.empty()) return;
  // A short sequence of narrow pages takes a block more than one of 16 bit.
  if (asked_context_ < 4 * KvPolicy::kCutTokens) return;
  const KvWidths own = policy_ ? policy_->options().widths : KvWidths{};
  for (const uint8_t k : {16, 8, 4, 2}) {
    for (const uint8_t v : {16, 8, 4, 2}) {
      KvPolicyOptions options = options_.kv;
      options.mode = KvMode::kDirect;
      options.widths = {k, v};
      if (k > own.k || v > own.v || options.widths == own) continue;
      offered_kv_.push_back(std::make_shared<const KvPolicy>(
          options, model_->config().num_layers, model_->kv_shape()));
    }
  }
}

std::shared_ptr<const KvPolicy> TextModel::choose_kv(std::optional<size_t> k,
                                                     std::optional<size_t> v) const {
  if (!k && !v) return nullptr;
  if (offered_kv_.empty())
    fail(ErrorKind::kInvalidInput,
         "keys and values are kept as this server was started ({}); widths that requests choose need "
         "--kv f16, 8 or 4, no --isolate, one process and a context of {} tokens",
         plan_.kv, 4 * KvPolicy::kCutTokens);
  const KvWidths own = policy_ ? policy_->options().widths : KvWidths{};
  for (const size_t bits : {k.value_or(own.k), v.value_or(own.v)})
    if (bits != 16 && bits != 8 && bits != 4 && bits != 2)
      fail(ErrorKind::kInvalidInput, "a width of {} bits; 16, 8, 4 and 2 are possible", bits);
  const KvWidths wanted{static_cast<uint8_t>(k.value_or(own.k)),
                        static_cast<uint8_t>(v.value_or(own.v))};
  if (wanted == own) return nullptr;
  if (wanted.k > own.k || wanted.v > own.v)
    fail(ErrorKind::kInvalidInput,
         "K {} bit, V {} bit were asked for; this server keeps them in {} and {} at most", wanted.k,
         wanted.v, own.k, own.v);
  return *std::find_if(offered_kv_.begin(), offered_kv_.end(),
                       [&](const auto& policy) { return policy->options().widths == wanted; });
}

void TextModel::add_vocab_head(const VocabProfile* profile, const CoreSet& cores) {
  if (profile != nullptr)
    for (const auto& head : vocab_heads_)
      if (head->name() == profile->name)
        fail(ErrorKind::kInvalidInput,
             "two vocabulary profiles are called '{}': give one another name, --vocab-profile "
             "FILE@NAME",
             profile->name);
  vocab_heads_.push_back(make_vocab_head(profile, cores));
}

std::shared_ptr<const PackedHead> TextModel::make_vocab_head(const VocabProfile* profile,
                                                             const CoreSet& cores) const {
  return std::make_shared<PackedHead>(model_, *tokenizer_, chat_template_text_, profile, cores,
                                      vocab_sketch_);
}

void TextModel::set_vocab_default(VocabMode mode, const CoreSet& cores) {
  vocab_default_ = mode;
  if (mode == VocabMode::kScreen && !vocab_heads_.empty()) vocab_sketch_->rows(cores);
}

VocabChoice TextModel::choose_vocab(std::optional<std::string> profile,
                                    std::optional<VocabMode> mode) const {
  const VocabMode chosen = mode.value_or(vocab_default_);
  if (chosen == VocabMode::kOff && !profile) return {};
  if (vocab_heads_.empty())
    fail(ErrorKind::kInvalidInput,
         "tailored vocabularies are not offered here: start with --vocab-profile FILE, or "
         "--vocab-mode hybrid for prompts' tokens alone");
  VocabChoice choice{.mode = chosen, .head = vocab_heads_.front()};
  if (profile) {
    const auto it = std::find_if(vocab_heads_.begin(), vocab_heads_.end(),
                                 [&](const auto& head) { return head->name() == *profile; });
    if (it == vocab_heads_.end()) {
      std::string known;
      for (const auto& head : vocab_heads_)
        known += (known.empty() ? "'" : ", '") + head->name() + "'";
      fail(ErrorKind::kInvalidInput, "there is no vocabulary profile '{}'. Known are {}.", *profile,
           known);
    }
    choice.head = *it;
  }
  return chosen == VocabMode::kOff ? VocabChoice{} : choice;
}

std::unique_ptr<PlainDecoder> TextModel::make_decoder(CoreSet cores,
                                                      const DecoderOptions& options) const {
  const size_t capacity = options.capacity_tokens == 0 ? kv_room_ : options.capacity_tokens;
  return make_plain_decoder(options.model != nullptr ? options.model : model_,
                            {.kv_format = options_.kv_format,
                             .capacity_tokens = capacity,
                             .context_length = asked_context_,
                             .keep_prefixes = options.keep_prefixes,
                             .kv_policy = policy_,
                             .pool = options.pool},
                            cores);
}

std::shared_ptr<KvPool> TextModel::make_pool(size_t capacity_tokens) const {
  KvCacheOptions pool{.num_layers = model_->config().num_layers,
                      .shape = model_->kv_shape(),
                      .format = options_.kv_format,
                      .capacity_tokens = capacity_tokens,
                      .policy = policy_};
  if (policy_ == nullptr) pool.division = parallel::cache_division(*model_);
  return std::make_shared<KvPool>(pool);
}

std::vector<Token> TextModel::encode_prompt(std::string_view prompt) const {
  if (prompt.empty()) fail(ErrorKind::kInvalidInput, "the prompt is empty: give it some text");
  check_utf8(prompt, "the prompt");
  return tokenizer_->encode(prompt);
}

std::vector<Token> TextModel::encode_chat(std::span<const ChatMessage> messages,
                                          formats::ChatOptions options) const {
  if (!chat_template_)
    fail(ErrorKind::kUnsupported,
         "{}: has no chat template, so it can continue text but hold no conversation", name());
  for (const ChatMessage& message : messages) {
    check_utf8(message.content, "the message");
    if (message.role == "user" && message.content.empty())
      fail(ErrorKind::kInvalidInput, "the prompt is empty: give it some text");
  }
  const auto text_of = [this](std::optional<Token> token) {
    return token ? std::string(tokenizer_->text(*token)) : std::string();
  };
  options.bos_token = text_of(tokenizer_->special().bos);
  options.eos_token = text_of(tokenizer_->special().eos);
  std::string begun;
  if (!messages.empty() && messages.back().role == "assistant" &&
      !messages.back().extra.contains("tool_calls")) {
    begun = messages.back().content;
    messages = messages.first(messages.size() - 1);
  }
  const std::string prompt = formats::render_chat(*chat_template_, messages, options) + begun;
  return tokenizer_->encode(prompt, {.add_special = false});  // the template writes its own
}

}  // namespace weft::text
