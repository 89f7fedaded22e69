// How much worse a model predicts when its cache is kept in fewer bits: a text is replayed with the
// cache evolving as it would in generation, next to the 16-bit cache, and the distributions of each
// next token are compared (pm-kvq.md §5.3). Progressive narrowing gains only in time, so one
// prefill over a whole text would show nothing.
//
// What a token's query sees is a function of its position: everything up to the last cut (a
// multiple of kReplayCut) less one cut is as the method stores it, the rest is exact, and so is the
// sink. The replay therefore runs in large passes, cut into pieces there (KvStore::piece_end), and
// computes what token by token would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "kernels/kv_view.h"
#include "models/language_model.h"

namespace weft::text {

inline constexpr size_t kReplayCut = 128;

struct ReplayWidths {
  uint8_t k = 16, v = 16;  // bits: 16, 8, 4 or 2
  bool operator==(const ReplayWidths&) const = default;
};

struct ReplayMethod {
  enum class Storage : uint8_t {
    kPages,   // PM-KVQ's: per token, group of head_dim features; one page of sink, exact newest
              // tokens
    kKivi,    // K per feature over 32 tokens, V per token over 32 features; newest tokens exact
    kBlocks,  // q8_0 or q4_0: blocks of 32 features, no token exact
  };
  enum class Schedule : uint8_t {
    kDirect,       // the final widths from the first cut on
    kTwoTier,      // 16 bit while the budget lasts, then the final widths
    kProgressive,  // 16 bit, then 8, 4, 2 as late as the budget allows
  };
  std::string name;
  Storage storage = Storage::kPages;
  Schedule schedule = Schedule::kDirect;
  std::vector<ReplayWidths> widths;  // final, of each layer
  bool hadamard = false;             // heads are rotated before they are rounded
};

// A method with the same widths in each layer.
ReplayMethod uniform_method(std::string name, ReplayMethod::Storage storage,
                            ReplayMethod::Schedule schedule, ReplayWidths widths,
                            size_t num_layers);

// The cache of a method, for one sequence (handle 0). kPages without rotation holds real pages,
// read by the attention kernels as they are; the others are rounded and widened again. Its bytes
// are what the stored numbers would take, metadata, sink and exact tokens included; the replay
// itself keeps the 16-bit pages beside them. Not for serving.
class ReplayCache final : public kernels::KvStore {
 public:
  // A budget is that of direct storage at the final widths when `length` tokens are stored.
  // kInvalidInput: a width other than 16, 8, 4, 2 (4 and 8 for kBlocks), a rotation of heads whose
  // size is no power of two, or widths of another number of layers.
  ReplayCache(ReplayMethod method, const kernels::KvShape& shape, size_t num_layers, size_t length);
  ~ReplayCache() override;

  void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
              const float* k, const float* v, size_t stride) override;
  kernels::KvView view(size_t layer, size_t sequence) const override;
  size_t piece_end(size_t layer, size_t sequence, size_t position) const override;

  const ReplayMethod& method() const { return method_; }
  size_t bytes(size_t length) const;  // once so many tokens are stored
  ReplayWidths widths_at(size_t layer, size_t position) const;

 private:
  struct Layer;
  size_t bytes(ReplayWidths widths, size_t length) const;  // of one layer
  size_t first_narrow() const;
  size_t end_narrow(size_t position) const;
  void narrow(size_t layer, size_t position);
  void narrow_page(size_t layer, size_t page, ReplayWidths widths);

  ReplayMethod method_;
  kernels::KvShape shape_;
  size_t length_;
  std::vector<size_t> budgets_;  // of each layer
  std::vector<Layer> layers_;
  std::vector<float> rows_k_, rows_v_;
};

struct ReplayBucket {  // of positions
  size_t tokens = 0;
  double surprise = 0;          // sums: of -log p(next token)
  double exact_surprise = 0;    // the 16-bit cache's
  double kl = 0;                // of KL(16-bit || method)
  size_t agree = 0;             // tokens whose most probable successor is the same
  std::vector<float> token_kl;  // of each token

  double perplexity() const;
  double exact_perplexity() const;
  double mean_kl() const { return kl / static_cast<double>(tokens); }
  double kl_quantile(double q) const;
  // Of the mean KL, as if tokens were independent.
  double kl_standard_error() const;
};

struct ReplayResult {
  ReplayMethod method;
  std::vector<ReplayBucket> buckets;
  size_t peak_bytes = 0;
  double mean_bytes = 0;

  ReplayBucket total() const;
};

struct ReplayOptions {
  size_t bucket_tokens = 1024;
  size_t pass_tokens = 256;
};

// Replays `tokens` (2 at least; the last is predicted, not read) under every method.
std::vector<ReplayResult> replay_kv(const models::LanguageModel& model,
                                    std::span<const models::Token> tokens,
                                    std::span<const ReplayMethod> methods,
                                    const ReplayOptions& options, const CoreSet& cores,
                                    StopToken stop = {}, const ProgressFn& progress = {});

}  // namespace weft::text
