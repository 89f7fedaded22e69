// The shared part of a tailored head: the rows of the required and the task's tokens, gathered once
// from the model's file and shared by all requests, and the modes in which a request may use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/thread_pool.h"
#include "kernels/linear.h"
#include "models/language_model.h"
#include "text/vocabtailor/vocab_profile.h"
#include "text/vocabtailor/vocab_set.h"
#include "text/vocabtailor/vocab_sketch.h"

namespace weft::text {

// kOff: the whole head. kStatic: required and task tokens; kHybrid: the prompt's too (the paper's).
// kScreen: hybrid, and a sketch of all other rows tells which of them may do better; those are
// computed too. kVerify: hybrid, but steps that look uncertain ask the whole head. kDraft: hybrid
// proposes, the whole head decides several tokens at once: the answers are those of kOff, bit for bit.
enum class VocabMode : uint8_t { kOff, kScreen, kVerify, kHybrid, kStatic, kDraft };
const char* name(VocabMode mode);
std::optional<VocabMode> parse_vocab_mode(std::string_view name);

// Above this share of the vocabulary the whole head is used: gathering saves nothing any more.
inline constexpr double kLargestSetShare = 0.5;

// Immutable, so thread-safe.
class PackedHead {
 public:
  // Without a profile: the required tokens alone. kUnsupported: a model whose head is not apart;
  // kInvalidInput: a profile of another tokenizer.
  // `sketch`: the model's, which several heads share; null: one of its own.
  PackedHead(std::shared_ptr<const models::LanguageModel> model,
             const formats::Tokenizer& tokenizer, std::string_view chat_template,
             const VocabProfile* profile, const CoreSet& cores,
             std::shared_ptr<const VocabSketch> sketch = nullptr);

  const std::string& name() const { return name_; }  // of the profile; "" without
  const VocabSet& set() const { return set_; }
  size_t num_required() const { return num_required_; }
  const kernels::Linear& rows() const { return rows_; }  // (set().size(), hidden_size)
  const models::LanguageModel& model() const { return *model_; }
  const VerifySignals& signals() const { return signals_; }
  // Of all selectable rows (kScreen).
  const kernels::RowSketch& sketch(const CoreSet& cores) const { return sketch_->rows(cores); }
  // Tokens from here on are padding of the matrix, which no tokenizer knows: never in a set.
  size_t num_selectable() const { return num_selectable_; }
  // Single bytes that begin no character of their own: as best token, a sign that a word is missing.
  bool is_fallback_byte(Token token) const { return fallback_bytes_.allows(token); }
  bool ends_answer(Token token) const { return ends_.allows(token); }

  struct Memory {
    size_t full_bytes = 0;    // the vocabulary of the model as it is: embedding and head
    size_t packed_bytes = 0;  // of the shared rows
    size_t map_bytes = 0;     // ids and bitmap
    double saved(size_t sketch_bytes = 0) const {  // kScreen: beside a sketch
      return full_bytes == 0 ? 0
                             : 1 - static_cast<double>(packed_bytes + map_bytes + sketch_bytes) /
                                       static_cast<double>(full_bytes);
    }
  };
  Memory memory() const;

 private:
  std::shared_ptr<const models::LanguageModel> model_;
  std::string name_;
  size_t num_selectable_;
  VerifySignals signals_;
  size_t num_required_ = 0;
  std::shared_ptr<const VocabSketch> sketch_;
  VocabSet set_;
  TokenMask fallback_bytes_, ends_;
  kernels::Linear rows_;
};

// How a request is to use the vocabulary.
struct VocabChoice {
  VocabMode mode = VocabMode::kOff;
  std::shared_ptr<const PackedHead> head;  // for all modes but kOff
  size_t draft_tokens = 4;                 // kDraft: proposed before the whole head is asked; 1 to 16
};

// What a request has made of it so far.
struct VocabUse {
  VocabMode mode = VocabMode::kOff;
  size_t size = 0;          // |S|: of the set now; the whole vocabulary where it was too large
  size_t static_size = 0;   // of them, required and the task's
  size_t dynamic_size = 0;  // the request's own
  size_t steps = 0;         // tokens sampled
  size_t escapes = 0;       // steps that asked the whole head (kScreen: computed rows outside the set)
  size_t misses = 0;        // of them, those whose token was not in the set
  size_t screened = 0;      // kScreen: rows outside the set that were computed, of all steps
  size_t audits = 0, audit_misses = 0;  // asked without a sign; of them, misses that no sign showed
  size_t rejected = 0;      // kDraft: proposals that the whole head did not make
  bool whole = false;       // the set was too large, or escapes were too many: the whole head
};

}  // namespace weft::text
