#include "text/vocabtailor/packed_head.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace weft::text {
namespace {

constexpr std::pair<VocabMode, const char*> kModes[] = {{VocabMode::kOff, "off"},
                                                        {VocabMode::kScreen, "screen"},
                                                        {VocabMode::kVerify, "verify"},
                                                        {VocabMode::kHybrid, "hybrid"},
                                                        {VocabMode::kStatic, "static"},
                                                        {VocabMode::kDraft, "draft"}};

VocabSet make_set(size_t vocab_size, std::vector<uint32_t> ids, const VocabProfile* profile) {
  if (profile != nullptr) ids.insert(ids.end(), profile->ids.begin(), profile->ids.end());
  return VocabSet(vocab_size, std::move(ids));
}

}  // namespace

const char* name(VocabMode mode) {
  for (const auto& [value, text] : kModes)
    if (value == mode) return text;
  return "";
}

std::optional<VocabMode> parse_vocab_mode(std::string_view name) {
  for (const auto& [value, text] : kModes)
    if (text == name) return value;
  return std::nullopt;
}

PackedHead::PackedHead(std::shared_ptr<const models::LanguageModel> model,
                       const formats::Tokenizer& tokenizer, std::string_view chat_template,
                       const VocabProfile* profile, const CoreSet& cores,
                       std::shared_ptr<const VocabSketch> sketch)
    : model_(std::move(model)),
      name_(profile != nullptr ? profile->name : ""),
      num_selectable_(std::min(tokenizer.vocab_size(), model_->config().vocab_size)),
      sketch_(sketch != nullptr ? std::move(sketch)
                                : std::make_shared<VocabSketch>(model_, num_selectable_)),
      set_(model_->config().vocab_size, {}),
      fallback_bytes_(model_->config().vocab_size),
      ends_(model_->config().vocab_size) {
  const size_t vocab_size = model_->config().vocab_size;
  if (model_->head_weight().data == nullptr)
    fail(ErrorKind::kUnsupported,
         "models of architecture '{}' have no head whose rows could be selected: use --vocab-mode "
         "off",
         model_->config().architecture);
  if (profile != nullptr) {
    check_profile(*profile, tokenizer, vocab_size, "the model");
    signals_ = profile->verify;
    for (const uint32_t id : profile->ids)
      if (id >= num_selectable_)
        fail(ErrorKind::kInvalidInput,
             "vocabulary profile '{}' has token {}, but the tokenizer ends at {}", profile->name, id,
             num_selectable_ - 1);
  }
  std::vector<uint32_t> required = required_tokens(tokenizer, chat_template);
  std::erase_if(required, [this](uint32_t id) { return id >= num_selectable_; });
  num_required_ = required.size();
  set_ = make_set(vocab_size, std::move(required), profile);
  for (size_t id = 0; id < num_selectable_; ++id) {
    const auto token = static_cast<Token>(id);
    if (!set_.contains(token)) continue;
    if (tokenizer.is_end(token)) ends_.allow(token);
    const std::string piece = tokenizer.piece(token);
    if (piece.size() == 1 && static_cast<unsigned char>(piece[0]) >= 0x80)
      fallback_bytes_.allow(token);
  }
  rows_ = kernels::Linear::pack_rows(model_->head_weight(), set_.ids(), cores);
}

PackedHead::Memory PackedHead::memory() const {
  const TensorView head = model_->head_weight();
  return {.full_bytes = head.bytes() + model_->embedding_bytes(),
          .packed_bytes = rows_.packed_bytes(),
          .map_bytes = set_.ids().size_bytes() + set_.mask().words().size_bytes()};
}

}  // namespace weft::text
