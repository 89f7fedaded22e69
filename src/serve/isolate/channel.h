// What the front and one worker process tell each other: a step to compute and its results, in
// memory that both map. One request is under way at a time. The worker reads what the front has
// written; of what the worker has written, the front believes logits, hidden states and a bounded
// message, and nothing that it would follow as an address or a size.
//
//   Header | WorkerSetup | logits (rows, vocab_size) f32 | hidden (tokens, hidden_size) f32
//          | SequenceRecord (sequences) | tokens int32 | blocks uint32
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/core_share.h"
#include "base/shared_memory.h"
#include "base/shared_sync.h"
#include "kernels/kv_view.h"
#include "models/language_model.h"
#include "text/kv_pool.h"

namespace weft::serve::isolate {

inline constexpr size_t kNumPools = 2;  // the executor's, and one for embeddings

// The most that one step may have.
struct ChannelSizes {
  uint64_t logit_rows = 0, tokens = 0, sequences = 0, blocks = 0;
  uint64_t vocab_size = 0, hidden_size = 0;
};

// What a worker needs to know before it can compute.
struct WorkerSetup {
  char model[4096] = {};  // file or folder
  uint64_t fingerprint = 0;
  uint32_t num_cores = 1;
  CoreShareRole role = CoreShareRole::kWhole;  // kWhole: both phases, on a pool of its own
  kernels::KvFormat kv_format = kernels::KvFormat::kF16;
  uint64_t kv_tokens[kNumPools] = {};
  ChannelSizes sizes;
};

struct SequenceRecord {
  uint64_t first_position = 0;
  uint32_t sequence = 0, num_tokens = 0, num_blocks = 0;
  models::LogitsWanted logits = models::LogitsWanted::kNone;
  bool hidden = false;
};

// An Error on its way between processes.
struct ErrorRecord {
  int32_t kind = -1;  // none
  char message[1020] = {};
  void set(ErrorKind kind, const char* text);
  std::optional<Error> get() const;
};

class Channel {
 public:
  static constexpr uint32_t kLost = ~uint32_t{0};  // for a response: the worker has died

  struct Header {
    SharedSignal request;   // its number, counted up by the front
    SharedSignal response;  // the number of the request that has been computed, or kLost
    alignas(64) std::atomic<uint32_t> beat{0};  // goes up while the worker gets on
    alignas(64) uint32_t pool = 0;              // of the request
    uint32_t num_sequences = 0;
    uint64_t first_logit_row = 0;  // where its logits go
    ErrorRecord error;             // of the response, or of the worker's start
  };

  // Appends itself to `memory`: the front's end.
  Channel(SharedMemory& memory, const WorkerSetup& setup);
  // The worker's: maps the beginning of `memory`.
  explicit Channel(const SharedMemory& memory);

  Header& header() const { return *header_; }
  const WorkerSetup& setup() const { return *setup_; }
  const ChannelSizes& sizes() const { return sizes_; }
  float* logits() const { return logits_; }
  float* hidden() const { return hidden_; }
  SequenceRecord* sequences() const { return sequences_; }
  models::Token* tokens() const { return tokens_; }
  text::KvBlock* blocks() const { return blocks_; }

 private:
  void lay_out(const ChannelSizes& sizes);
  Buffer memory_;
  ChannelSizes sizes_;
  Header* header_ = nullptr;
  WorkerSetup* setup_ = nullptr;
  float *logits_ = nullptr, *hidden_ = nullptr;
  SequenceRecord* sequences_ = nullptr;
  models::Token* tokens_ = nullptr;
  text::KvBlock* blocks_ = nullptr;
};

// Descriptors that a worker is started with.
enum WorkerFd : int { kChannelFd = 3, kWeightsFd, kKvFd, kSharesFd, kReadyFd, kEndFd };

}  // namespace weft::serve::isolate
