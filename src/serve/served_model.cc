#include "serve/served_model.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "text/embedding.h"
#include "text/score.h"

namespace weft::serve {

ServedModel::ServedModel(std::string name, std::unique_ptr<const text::TextModel> model,
                         std::unique_ptr<PhaseExecutor> executor,
                         std::unique_ptr<isolate::Isolation> isolation)
    : name_(std::move(name)),
      model_(std::move(model)),
      isolation_(std::move(isolation)),
      executor_(std::move(executor)),
      created_(std::time(nullptr)) {}

void ServedModel::submit(std::shared_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(jobs_, [](const auto& other) { return other->phase.load() == JobPhase::kDone; });
    jobs_.push_back(job);
  }
  try {
    executor_->submit(job);
  } catch (...) {
    job->phase.store(JobPhase::kDone);
    throw;
  }
}

void ServedModel::cancel(Job& job) {
  job.cancelled.store(true);
  executor_->wake();
}

std::vector<std::shared_ptr<const Job>> ServedModel::jobs() const {
  const std::lock_guard lock(mutex_);
  std::erase_if(jobs_, [](const auto& job) { return job->phase.load() == JobPhase::kDone; });
  return jobs_;
}

template <typename Body>
auto ServedModel::between_steps(Body&& body) const {
  const auto turn = [this](const std::function<void(const CoreSet&)>& work) {
    executor_->compute(work);
  };
  if (isolation_ == nullptr) return body(model_->model(), turn, nullptr);
  const std::lock_guard one_at_a_time(isolation_->embedding_turn());
  return body(*isolation_->model(Phase::kPrefill), turn, isolation_->embedding_pool());
}

std::vector<float> ServedModel::embed(std::span<const text::Token> tokens) const {
  return between_steps([&](const models::LanguageModel& model, const text::CoresTurn& turn,
                           std::shared_ptr<text::KvPool> pool) {
    return text::embed(model, tokens, turn, std::move(pool));
  });
}

std::vector<text::Sampled> ServedModel::score(std::span<const text::Token> tokens,
                                              size_t num_top) const {
  return between_steps([&](const models::LanguageModel& model, const text::CoresTurn& turn,
                           std::shared_ptr<text::KvPool> pool) {
    return text::score(model, tokens, num_top, turn, std::move(pool));
  });
}

void ModelSet::add(std::unique_ptr<ServedModel> model) {
  const std::lock_guard lock(mutex_);
  models_.push_back(std::move(model));
}

std::vector<ServedModel*> ModelSet::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<ServedModel*> out;
  for (const auto& model : models_) out.push_back(model.get());
  return out;
}

ServedModel* ModelSet::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  for (const auto& model : models_)
    if (model->name() == name) return model.get();
  return nullptr;
}

std::optional<Error> ModelSet::lost() const {
  for (const ServedModel* const model : all()) {
    if (model->isolation() == nullptr) continue;
    if (const auto error = model->isolation()->lost()) return error->in(model->name());
  }
  return std::nullopt;
}

text::RequestId new_request_id() {
  static std::atomic<text::RequestId> next{1};
  return next.fetch_add(1);
}

}  // namespace weft::serve
