// Several ranks that run one language model: rank 0 leads, the others follow its forward passes.
//
// Ranks form a grid of sequence x tensor. Ranks of one tensor team (neighbours) each have a share
// of the weights. A long piece of a prompt is divided among the teams (ExchangedAttention). Of
// everything else each team computes the products for itself; keys and values are divided among the
// teams page by page (DividedAttention), or every team has all of them: then there is nothing to send.
//
// What rank 0 sends before a pass: what was done to its cache (LeadingPages), the tokens, and whose
// logits are wanted. Followers sample nothing and know no requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "formats/checkpoint.h"
#include "models/language_model.h"
#include "parallel/divided_attention.h"
#include "parallel/spread_attention.h"
#include "parallel/tensor_team.h"

namespace weft::parallel {

struct RankPlan {
  size_t tensor = 1, sequence = 1;  // their product is the number of ranks
  std::string exchange = "tasp";    // of keys and values: of exchange_named.h, or auto (tried)
  bool divide_cache = true;         // of 16 bit: a team has some pages of keys and values, or all
  bool overlap = true;              // sums of a tensor team travel while they are computed
  std::filesystem::path tunings = {};  // a file that rank 0 keeps the overlap's tunings in; empty: none
  std::function<void(const std::string&)> notice = {};  // rank 0's sentences for the user

  bool divides_cache() const { return divide_cache && sequence > 1; }
  std::string describe() const;  // "tensor 2 x sequence 2 (tasp, divided cache)", the same on all ranks
};

// What a prompt's piece must have for each team to be divided among them: below, sending costs more
// than it saves.
inline constexpr size_t kSpreadTokens = 4 * kernels::kPageTokens;

struct Crew {
  comm::Communicator ranks;
  RankPlan plan;
  std::shared_ptr<models::TensorTeam> team;    // none for tensor = 1
  std::unique_ptr<ExchangedAttention> spread;  // none for sequence = 1
  std::unique_ptr<DividedAttention> divided;   // the same
  size_t row() const { return ranks.rank() / plan.tensor; }  // the team's
};

// kInvalidInput: a plan for another number of ranks, or an unknown exchange (lists the known ones).
std::shared_ptr<Crew> make_crew(const comm::Communicator& ranks, const RankPlan& plan);

// "NAME (0123456789abcdef)": a file's name with a fingerprint of its tensors' names, shapes, types
// and samples of their values, for the handshake.
std::string fingerprint(const formats::Checkpoint& checkpoint);

// Rank 0's model: loads its share and leads. Dismisses the followers when it goes. Its forward
// passes are for one engine thread and for caches that are LeadingPages.
std::unique_ptr<models::LanguageModel> lead(std::shared_ptr<Crew> crew,
                                            std::unique_ptr<models::LanguageModel> share);

// How many ranks the pages of each sequence are divided among, in a cache for this model (in
// KvCacheOptions); 1 for models that nobody else computes with.
size_t cache_division(const models::LanguageModel& model);

// Of each rank, now: its weights, and all memory that is its own (weights, keys and values, room to
// work in; not the model's mapped file).
struct RankMemory {
  uint64_t weight_bytes = 0, own_bytes = 0;
};
// By rank; nothing for models that nobody else computes with.
std::vector<RankMemory> memory_of_ranks(const models::LanguageModel& model);

// One forward pass over the new tokens of one sequence, divided among the members of `spread`, each
// of which calls it with the whole model and the whole input. The logits, if wanted, are the first
// member's.
void spread_pass(ExchangedAttention& spread, const models::LanguageModel& model, SharedPages& pages,
                 const models::SequenceInput& whole, float* logits, models::Workspace& workspace,
                 const CoreSet& cores);

// The other ranks: follow until dismissed. kPeerLost: rank 0 is gone.
void follow(Crew& crew, const models::LanguageModel& share, CacheCopies& copies,
            const CoreSet& cores);

}  // namespace weft::parallel
