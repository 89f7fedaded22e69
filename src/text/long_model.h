// For tests: a small model whose texts may be longer than it was made for.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "formats/checkpoint.h"
#include "models/language_model.h"

namespace weft::text {

class LongModel final : public models::LanguageModel {
 public:
  explicit LongModel(const char* path)
      : model_(models::load_language_model(formats::open_checkpoint(path), CoreSet())),
        config_(model_->config()) {
    config_.context_length = 4096;
  }
  const models::LanguageModelConfig& config() const override { return config_; }
  kernels::KvShape kv_shape() const override { return model_->kv_shape(); }
  size_t weight_bytes() const override { return model_->weight_bytes(); }
  std::unique_ptr<models::Workspace> make_workspace() const override {
    return model_->make_workspace();
  }
  void forward(std::span<const models::SequenceInput> batch, kernels::KvStore& cache, float* logits,
               models::Workspace& workspace, const CoreSet& cores) const override {
    model_->forward(batch, cache, logits, workspace, cores);
  }

 private:
  std::unique_ptr<models::LanguageModel> model_;
  models::LanguageModelConfig config_;
};

}  // namespace weft::text
