// A language model with what turns text into tokens and back: everything that generate, chat, serve
// and the library load from one file or folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/chat.h"
#include "formats/checkpoint.h"
#include "formats/tokenizer.h"
#include "models/language_model.h"
#include "parallel/crew.h"
#include "text/decoder.h"
#include "text/expert_stream/expert_memory.h"
#include "text/file_stamp.h"
#include "text/grammar/filter_cache.h"

namespace weft::text {

// What loading and a full context take.
struct TextMemoryPlan {
  size_t weight_bytes = 0, kv_bytes = 0, scratch_bytes = 0;
  size_t head_bytes = 0;  // of the whole head; part of weight_bytes unless it waits in the file
  size_t context_length = 0;
  std::string kv;  // how keys and values are kept
  size_t total_bytes() const { return weight_bytes + kv_bytes + scratch_bytes; }
};

struct TextModelOptions {
  size_t context = 0;  // tokens of one conversation; 0: the model's, at most kDefaultContext
  kernels::KvFormat kv_format = kernels::KvFormat::kF16;  // of what is kept in 16 bit
  // Widths of the KV cache's older pages. Widths of 0: 4 bit, or 2 from 3e9 parameters on. A
  // max_length of 0: the context.
  KvPolicyOptions kv = {};
  size_t step_tokens = 512;           // most tokens in one pass, for the plan of memory
  size_t available_bytes = SIZE_MAX;  // of memory; loading that needs more is refused
  // kWhenNeeded with heads that are tailored: the whole one stays in the file as long as none asks
  // it.
  models::HeadLoading head = models::HeadLoading::kNow;
  // A part of a mixture's experts in memory, the others in their file; nothing: all in memory.
  std::optional<ExpertMemoryOptions> experts = {};
  std::function<void(const TextMemoryPlan&)> on_plan = {};  // before anything is loaded
  Arena* weights = nullptr;  // for the packed weights (models::load_language_model)
  // Where this process is rank 0 of several: the ranks that compute with it.
  std::shared_ptr<parallel::Crew> crew = nullptr;
};
inline constexpr size_t kDefaultContext = 4096;

using formats::ChatMessage;

class TextModel {
 public:
  // kUnsupported: several ranks and streamed experts. kInvalidInput: experts are to be streamed and
  // the model has none, a context longer than the model's, or a KV policy that cannot be (KvPolicy)
  // or cannot hold its max_length. kOutOfResources: more memory than `available_bytes`, before any is
  // taken. Else as open_checkpoint and load_language_model, and what `progress` throws (Ctrl-C while
  // a large file is loaded or its experts are packed).
  static TextModel load(const std::filesystem::path& path, const TextModelOptions& options,
                        const CoreSet& cores, const ProgressFn& progress = {});

  const std::string& name() const { return checkpoint_->name(); }
  void check_files() const { files_.check(); }  // kIo: written to since they were loaded
  const models::LanguageModel& model() const { return *model_; }
  std::shared_ptr<const models::LanguageModel> shared_model() const { return model_; }
  const formats::Tokenizer& tokenizer() const { return *tokenizer_; }
  bool has_chat_template() const { return chat_template_.has_value(); }
  std::string_view chat_template_text() const { return chat_template_text_; }  // "" without one
  size_t context_length() const { return context_; }  // no longer than the KV policy can hold
  // The context is shorter than what was asked for because keys and values have no more room: an
  // answer that is asked to be longer is refused, not cut short (Decoder::start).
  bool kv_limits_context() const { return context_ < asked_context_; }
  const TextMemoryPlan& memory_plan() const { return plan_; }
  const ExpertStream* experts() const { return experts_; }  // null: none are streamed
  const std::shared_ptr<const KvPolicy>& kv_policy() const { return policy_; }  // null: plain
  kernels::KvFormat kv_format() const { return options_.kv_format; }
  // Lets requests have keys and values in fewer bits than the model's own (DecodeRequest::kv). Before
  // the model is shared, and not where worker processes compute. Without effect where memory decides
  // about widths, or they differ by layer.
  void offer_kv_widths();
  // Of a request that asks for such widths of its keys or values; null: the model's own.
  // kInvalidInput: they are not offered, not 16, 8, 4 or 2, or more than the model's.
  std::shared_ptr<const KvPolicy> choose_kv(std::optional<size_t> k, std::optional<size_t> v) const;
  // Of the KV cache, in tokens of 16 bit, for one request with a full context; under KvMode::kPressure
  // with a budget, for all requests.
  size_t kv_room() const { return kv_room_; }
  grammar::FilterCache& filters() const { return *filters_; }  // thread-safe

  // Packed heads that requests may choose between, by the names of their profiles (VocabTailor).
  // Filled before the model is shared.
  void add_vocab_head(const VocabProfile* profile, const CoreSet& cores);  // as PackedHead
  std::shared_ptr<const PackedHead> make_vocab_head(const VocabProfile* profile,
                                                    const CoreSet& cores) const;
  // Mode kScreen has its sketch made here instead of by its first request.
  void set_vocab_default(VocabMode mode, const CoreSet& cores);
  VocabMode vocab_default() const { return vocab_default_; }
  std::span<const std::shared_ptr<const PackedHead>> vocab_heads() const { return vocab_heads_; }
  size_t vocab_sketch_bytes() const { return vocab_sketch_->bytes(); }  // 0 until one is made
  // What a request gets that names a profile, a mode, both or neither; the first head is the
  // default. kInvalidInput: a profile that is not there (lists them), or any mode but off without
  // heads.
  VocabChoice choose_vocab(std::optional<std::string> profile, std::optional<VocabMode> mode) const;

  struct DecoderOptions {
    size_t capacity_tokens = 0;  // of the KV cache in 16 bit, all requests together; 0: one context
    bool keep_prefixes = true;
    std::shared_ptr<KvPool> pool = nullptr;  // instead of one of its own
    // Computes instead of model(), with the same results.
    std::shared_ptr<const models::LanguageModel> model = nullptr;
  };
  std::unique_ptr<PlainDecoder> make_decoder(CoreSet cores, const DecoderOptions& options) const;
  std::unique_ptr<PlainDecoder> make_decoder(CoreSet cores) const {
    return make_decoder(cores, {});
  }
  std::shared_ptr<KvPool> make_pool(size_t capacity_tokens) const;  // for several decoders

  // kInvalidInput: text that is not UTF-8, or nothing at all.
  std::vector<Token> encode_prompt(std::string_view prompt) const;
  // The conversation in the model's own form, up to where the answer begins; a last message of the
  // assistant's is the beginning of the answer. `options` brings tools and more variables of the
  // template. kUnsupported without a template; kInvalidInput as above, or what the template objects
  // to.
  std::vector<Token> encode_chat(std::span<const ChatMessage> messages,
                                 formats::ChatOptions options = {}) const;

 private:
  TextModel() = default;
  void make_plan();

  FileStamps files_;
  std::shared_ptr<const formats::Checkpoint> checkpoint_;
  std::unique_ptr<formats::Tokenizer> tokenizer_;
  std::unique_ptr<grammar::FilterCache> filters_;
  std::optional<formats::ChatTemplate> chat_template_;
  std::string chat_template_text_;
  std::shared_ptr<const models::LanguageModel> model_;
  ExpertStream* experts_ = nullptr;  // the model's
  size_t expert_slots_ = 0;          // of them; 0: all experts are in memory
  std::vector<std::shared_ptr<const PackedHead>> vocab_heads_;
  std::shared_ptr<const VocabSketch> vocab_sketch_;  // of all of them
  VocabMode vocab_default_ = VocabMode::kOff;
  TextModelOptions options_;
  size_t asked_context_ = 0, context_ = 0;
  std::shared_ptr<const KvPolicy> policy_;
  std::vector<std::shared_ptr<const KvPolicy>> offered_kv_;  // what requests may choose
  size_t kv_room_ = 0;
  TextMemoryPlan plan_;
};

}  // namespace weft::text
