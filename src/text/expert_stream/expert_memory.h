// Experts streamed within a budget of memory, as users ask for it: --expert-memory 1.5G or 50%.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "models/expert_store.h"
#include "models/language_model.h"
#include "text/expert_stream/expert_stream.h"

namespace weft::text {

// How much memory the experts' slots may take: bytes, or a part of what all experts take.
struct ExpertBudget {
  size_t bytes = 0;
  double fraction = 0;  // where bytes is 0
};
// "1.5G", "800M", "50%"; kInvalidInput says so.
ExpertBudget parse_expert_budget(std::string_view text);
ExpertIo parse_expert_io(std::string_view name);  // kInvalidInput lists them

struct ExpertMemoryOptions {
  ExpertBudget budget = {};
  ExpertIo io = ExpertIo::kAuto;
  ExpertPolicy policy = ExpertPolicy::kExpected;
  bool prefetch = true;
  // Empty: beside the model, MODEL.experts; where that cannot be written, and with "none", experts
  // are read from the model's own file.
  std::filesystem::path pack = {};
  std::function<void(size_t layer, std::span<const uint32_t> experts)> on_visit = {};
  std::function<void(const std::string&)> log =
      {};  // one line, where experts are read from and why
};

// Slots that the budget has room for; all experts' at most. kOutOfResources when it has none, with
// the sum that is needed; kInvalidInput when the model is no mixture.
size_t plan_expert_slots(const ExpertBudget& budget, const models::MemoryPlan& plan,
                         size_t kv_bytes, const std::string& model);
// Of one slot, as the plan knows it.
size_t expert_slot_bytes(const models::MemoryPlan& plan);

// What loads a model's experts so. Packing reports its progress record by record; where that throws
// (Ctrl-C), nothing is left behind. `stream` is set to the store that the model then owns.
models::OpenExperts open_expert_stream(const ExpertMemoryOptions& options, size_t num_slots,
                                       const std::filesystem::path& model, ExpertStream** stream);

}  // namespace weft::text
