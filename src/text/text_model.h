// A language model with what turns text into tokens and back: everything that generate, chat, serve
// and the library load from one file or folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/chat.h"
#include "formats/checkpoint.h"
#include "formats/tokenizer.h"
#include "models/language_model.h"
#include "text/decoder.h"

namespace weft::text {

struct TextModelOptions {
  size_t context = 0;  // tokens of one conversation; 0: the model's, at most kDefaultContext
  kernels::KvFormat kv_format = kernels::KvFormat::kF16;
  size_t step_tokens = 512;           // most tokens in one pass, for the plan of memory
  size_t available_bytes = SIZE_MAX;  // of memory; loading that needs more is refused
};
inline constexpr size_t kDefaultContext = 4096;

// What loading and a full context take.
struct TextMemoryPlan {
  size_t weight_bytes = 0, kv_bytes = 0, scratch_bytes = 0;
  size_t total_bytes() const { return weight_bytes + kv_bytes + scratch_bytes; }
};

using formats::ChatMessage;

class TextModel {
 public:
  // kInvalidInput: a context longer than the model's. kOutOfResources: more memory than
  // `available_bytes`, before any is taken. Else as open_checkpoint and load_language_model.
  static TextModel load(const std::filesystem::path& path, const TextModelOptions& options,
                        const CoreSet& cores, const ProgressFn& progress = {});

  const std::string& name() const { return checkpoint_->name(); }
  const models::LanguageModel& model() const { return *model_; }
  const formats::Tokenizer& tokenizer() const { return *tokenizer_; }
  bool has_chat_template() const { return chat_template_.has_value(); }
  size_t context_length() const { return context_; }
  const TextMemoryPlan& memory_plan() const { return plan_; }

  std::unique_ptr<Decoder> make_decoder(CoreSet cores) const;

  // kInvalidInput: text that is not UTF-8, or nothing at all.
  std::vector<Token> encode_prompt(std::string_view prompt) const;
  // The conversation in the model's own form, up to where the answer begins. kUnsupported without a
  // template; kInvalidInput as above, or what the template objects to.
  std::vector<Token> encode_chat(std::span<const ChatMessage> messages) const;

 private:
  TextModel() = default;
  std::shared_ptr<const formats::Checkpoint> checkpoint_;
  std::unique_ptr<formats::Tokenizer> tokenizer_;
  std::optional<formats::ChatTemplate> chat_template_;
  std::shared_ptr<const models::LanguageModel> model_;
  TextModelOptions options_;
  size_t context_ = 0;
  TextMemoryPlan plan_;
};

}  // namespace weft::text
