// The models that a server answers with, by name. Each has its own weights, KV cache and executor;
// they share the machine's cores.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "serve/isolate/isolation.h"
#include "serve/phase_executor.h"
#include "text/text_model.h"

namespace weft::serve {

class ServedModel {
 public:
  ServedModel(std::string name, std::unique_ptr<const text::TextModel> model,
              std::unique_ptr<PhaseExecutor> executor,
              std::unique_ptr<isolate::Isolation> isolation = nullptr);

  const std::string& name() const { return name_; }
  const text::TextModel& model() const { return *model_; }
  const PhaseExecutor& executor() const { return *executor_; }
  isolate::Isolation* isolation() const { return isolation_.get(); }  // null: computes here
  int64_t created() const { return created_; }                        // seconds since 1970

  // As PhaseExecutor::submit; the job shows in jobs() until it has ended.
  void submit(std::shared_ptr<Job> job);
  void cancel(Job& job);
  std::vector<std::shared_ptr<const Job>> jobs() const;  // not yet ended, oldest first

  // text::embed and text::score, between the executor's steps.
  std::vector<float> embed(std::span<const text::Token> tokens) const;
  std::vector<text::Sampled> score(std::span<const text::Token> tokens, size_t num_top) const;

 private:
  // Runs body(model, turn, pool) between the executor's steps, wherever it computes.
  template <typename Body>
  auto between_steps(Body&& body) const;

  std::string name_;
  std::unique_ptr<const text::TextModel> model_;
  std::unique_ptr<isolate::Isolation> isolation_;
  std::unique_ptr<PhaseExecutor> executor_;  // before the others go
  int64_t created_;
  mutable std::mutex mutex_;  // guards jobs_
  mutable std::vector<std::shared_ptr<const Job>> jobs_;
};

// Filled while the server already listens; models never go again. Thread-safe.
class ModelSet {
 public:
  void add(std::unique_ptr<ServedModel> model);
  void set_progress(double fraction) { progress_.store(fraction); }
  void set_ready() { ready_.store(true); }

  bool ready() const { return ready_.load(); }          // all are loaded
  double progress() const { return progress_.load(); }  // of loading, 0 to 1
  std::vector<ServedModel*> all() const;                // the first is the default
  ServedModel* find(const std::string& name) const;     // null: no such model
  // Why one of them cannot compute any more; the server ends.
  std::optional<Error> lost() const;

 private:
  mutable std::mutex mutex_;  // guards models_
  std::vector<std::unique_ptr<ServedModel>> models_;
  std::atomic<bool> ready_{false};
  std::atomic<double> progress_{0};
};

text::RequestId new_request_id();

}  // namespace weft::serve
