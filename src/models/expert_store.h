// Where a mixture's routed experts are while a forward pass wants them: all in memory (below), or
// read from the file as they are needed (text/expert_stream). The forward pass is the same: it says
// early what the next layer will want, asks for this layer's experts, and computes with whichever
// have come.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "models/mlp.h"

namespace weft::models {

// An expert's matrices as they lie in the mapped files, (F, E), (F, E) and (E, F).
struct ExpertMatrices {
  TensorView gate, up, down;
};

// All routed experts of a model. Consecutive layers that share their experts are a group; layers
// and groups are counted from the first layer that has experts.
struct ExpertTable {
  size_t num_layers = 0, layers_per_group = 1, num_groups = 0;
  size_t experts_per_group = 0, experts_per_token = 0;
  size_t first_dense = 0;               // layers of the model before layer 0 of these
  std::vector<ExpertMatrices> experts;  // [group * experts_per_group + expert]

  size_t group_of(size_t layer) const { return layer / layers_per_group; }
  size_t leader(size_t group) const { return first_dense + group * layers_per_group; }
  const ExpertMatrices& at(size_t group, size_t expert) const {
    return experts[group * experts_per_group + expert];
  }
};

// One forward pass's dealings with a store; belongs to the pass's workspace. Several may be under
// way in different threads.
class ExpertPass {
 public:
  virtual ~ExpertPass() = default;

  // `layer`, the next but for this one, will visit these, the heaviest first. Never waits.
  virtual void expect(size_t layer, std::span<const uint32_t> experts) = 0;

  // Asks for these, each once. next() then gives them all, in any order.
  virtual void visit(size_t layer, std::span<const uint32_t> experts) = 0;
  struct Arrival {
    uint32_t expert = 0;
    const Mlp* mlp = nullptr;      // nullptr: it could not be read,
    const Error* error = nullptr;  // for this reason
  };
  enum class Wait : uint8_t { kNo, kForOne };
  // Some that are here, at most kMost; none when there are no more (or, with kNo, none yet). Valid
  // until the next call.
  static constexpr size_t kMost = 8;
  virtual std::span<const Arrival> next(Wait wait) = 0;

  // The pass is over, also when it ended in an exception.
  virtual void end() noexcept = 0;
};

class ExpertStore {
 public:
  virtual ~ExpertStore() = default;
  virtual std::unique_ptr<ExpertPass> make_pass() = 0;
  virtual size_t memory_bytes() const = 0;  // that the experts take
};

// `checkpoint` outlives the store. Progress counts bytes.
using OpenExperts = std::function<std::unique_ptr<ExpertStore>(
    const ExpertTable& table, const formats::Checkpoint& checkpoint, const CoreSet& cores,
    const ProgressFn& progress)>;

// Everything in memory, packed before: [group * experts_per_group + expert].
std::unique_ptr<ExpertStore> make_resident_experts(const ExpertTable& table,
                                                   std::vector<Mlp> experts);

}  // namespace weft::models
