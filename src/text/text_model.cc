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

TextMemoryPlan make_plan(const Checkpoint& checkpoint, const TextModelOptions& options,
                         size_t context) {
  const models::MemoryPlan model =
      models::plan_memory(checkpoint, options.kv_format, std::min(options.step_tokens, context));
  return {.weight_bytes = model.weight_bytes,
          .kv_bytes = model.kv_bytes_per_token * context,
          .scratch_bytes = model.scratch_bytes};
}

double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

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
  out.checkpoint_ = formats::open_checkpoint(path);
  const Checkpoint& checkpoint = *out.checkpoint_;
  out.context_ = choose_context(checkpoint, options.context);
  out.plan_ = make_plan(checkpoint, options, out.context_);
  check_memory(checkpoint, out.plan_, options.available_bytes);
  out.tokenizer_ = checkpoint.load_tokenizer();
  out.filters_ = std::make_unique<grammar::FilterCache>(*out.tokenizer_);
  if (auto source = checkpoint.chat_template()) {
    out.chat_template_.emplace(*source, checkpoint.name() + ": chat template");
    out.chat_template_text_ = *std::move(source);
  }
  out.model_ = models::load_language_model(out.checkpoint_, cores, progress);
  return out;
}

std::unique_ptr<PlainDecoder> TextModel::make_decoder(CoreSet cores,
                                                      const DecoderOptions& options) const {
  const size_t capacity = options.capacity_tokens == 0 ? context_ : options.capacity_tokens;
  return make_plain_decoder(model_,
                            {.kv_format = options_.kv_format,
                             .capacity_tokens = capacity,
                             .context_length = context_,
                             .keep_prefixes = options.keep_prefixes,
                             .pool = options.pool},
                            cores);
}

std::shared_ptr<KvPool> TextModel::make_pool(size_t capacity_tokens) const {
  return std::make_shared<KvPool>(KvCacheOptions{.num_layers = model_->config().num_layers,
                                                 .shape = model_->kv_shape(),
                                                 .format = options_.kv_format,
                                                 .capacity_tokens = capacity_tokens});
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
