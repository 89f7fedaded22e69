// `weft serve --isolate`: the forward passes of one model run in worker processes, so that a crash
// or a hang of one is a pause for clients and not the end of the server (the fault isolation of
// semi-PD's processes, Hong et al., arXiv 2504.19867, §4.1; that paper leaves failures out).
//
// Everything that is decided stays in the front process: requests, blocks of the cache, samplers,
// executors. Only the computation is elsewhere, over memory that both map: packed weights, which
// nobody can write once they are packed, and the pages of the KV cache. So a worker that dies takes
// nothing along, and the front asks the next one for the same step.
#pragma once

#include <chrono>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/core_share.h"
#include "serve/isolate/channel.h"
#include "serve/isolate/worker_process.h"
#include "text/text_model.h"

namespace weft::serve::isolate {

// Where the model's packed weights go when it is loaded (TextModelOptions::weights).
struct SharedWeights {
  SharedMemory memory{"packed weights"};
  Arena arena{"packed weights", memory};
};

struct IsolationOptions {
  std::filesystem::path model = {};  // the same that `model` was loaded from
  kernels::KvFormat kv_format = kernels::KvFormat::kF16;
  size_t kv_tokens = 4096;
  size_t num_cores = 1;
  bool two_phases = false;                // semi-PD: a worker for each; else one for both
  size_t max_running = 64;                // the executor's
  size_t chunk_tokens = 256;              // the executor's
  std::vector<std::string> command = {};  // worker_command() if empty
  std::chrono::nanoseconds silence = std::chrono::seconds(5);
  // So many deaths of workers within `death_window` end the service.
  size_t max_deaths = 3;
  std::chrono::nanoseconds death_window = std::chrono::minutes(1);
  std::function<void(const std::string&)> log = {};  // deaths that were mended, in words
};

class Isolation {
 public:
  // Starts the workers. `model` was loaded into `weights`, which are sealed now. Throws what keeps
  // a worker from starting; kUnsupported for a KV cache narrower than 16 bit (a crash in the middle
  // of narrowing a page would lose it) and for tailored vocabularies (their heads are the front's).
  Isolation(const text::TextModel& model, std::unique_ptr<SharedWeights> weights,
            const IsolationOptions& options);

  // What executors compute with, instead of the model's own.
  const std::shared_ptr<text::KvPool>& pool() const { return pools_[0]; }
  const std::shared_ptr<const models::LanguageModel>& model(Phase phase) const {
    return remotes_[remotes_.size() == 1 ? 0 : static_cast<size_t>(phase)];
  }
  CoreShare& share() { return *share_; }  // of two phases

  // Room for one embedding or text to score at a time, of any length.
  const std::shared_ptr<text::KvPool>& embedding_pool() const { return pools_[1]; }
  std::mutex& embedding_turn() { return embedding_turn_; }

  std::vector<WorkerState> workers() const;
  std::optional<Error> lost() const;  // why no more can be computed

 private:
  void start_worker(const text::TextModel& model, const IsolationOptions& options,
                    CoreShareRole role);
  bool may_start_again(const IsolationOptions& options);

  std::unique_ptr<SharedWeights> weights_;
  SharedMemory kv_{"the KV cache (ask for a shorter context)"};
  std::vector<std::shared_ptr<text::KvPool>> pools_;  // kNumPools
  std::optional<SharedMemory> shares_;
  Buffer share_memory_;
  std::optional<CoreShare> share_;
  uint64_t fingerprint_ = 0;
  std::mutex embedding_turn_;

  mutable std::mutex mutex_;  // guards deaths_ and lost_
  std::deque<std::chrono::steady_clock::time_point> deaths_;
  std::optional<Error> lost_;

  std::vector<std::unique_ptr<SharedMemory>> channel_memory_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;  // before all that they use
  std::vector<std::shared_ptr<const models::LanguageModel>> remotes_;
};

}  // namespace weft::serve::isolate
