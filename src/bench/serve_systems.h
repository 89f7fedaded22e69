// The systems that `bench serve` and `bench stall` compare, over one model.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench.h"
#include "bench/serve_run.h"
#include "serve/semi_pd/executor.h"
#include "serve/unified_executor.h"
#include "text/text_model.h"

namespace weft::bench {

struct System {
  std::string name;
  std::function<std::unique_ptr<serve::PhaseExecutor>(const Slo& slo)> make;
  bool is_chunked = false;  // one of those from which the best is taken as the tuned baseline
};
inline constexpr const char* kDynamic = "semi-PD dynamic";
inline constexpr const char* kPrefillFirst = "prefill-first";
inline constexpr const char* kSplit = "static split";

class ServeSetting {
 public:
  static constexpr size_t kKvTokens = 32768;
  static constexpr size_t kMaxRunning = 128;

  explicit ServeSetting(const BenchOptions& options);

  std::unique_ptr<serve::PhaseExecutor> unified(serve::UnifiedPolicy policy, size_t chunk,
                                                size_t max_running = kMaxRunning);
  std::unique_ptr<serve::PhaseExecutor> split();  // split_executor.h
  std::unique_ptr<serve::PhaseExecutor> apart(const std::string& partition, const Slo& slo);
  // All, or those that options.serve.only names; the setting outlives them.
  std::vector<System> systems();

  void set_kv_tokens(size_t tokens) { kv_tokens_ = tokens; }  // of executors from now on

  const BenchOptions& options() const { return options_; }
  const text::TextModel& model() const { return model_; }
  size_t vocab_size() const { return model_.model().config().vocab_size; }
  size_t num_cores() const { return pool_.size(); }

 private:
  const BenchOptions& options_;
  size_t kv_tokens_ = kKvTokens;
  ThreadPool pool_;
  std::shared_ptr<serve::Turns> turns_ = std::make_shared<serve::Turns>();
  text::TextModel model_;
  serve::semi_pd::PhaseProfile profile_;
};

}  // namespace weft::bench
