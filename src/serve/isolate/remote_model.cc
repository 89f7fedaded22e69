#include "serve/isolate/remote_model.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace weft::serve::isolate {
namespace {

using models::LogitsWanted;
using models::SequenceInput;
using Outcome = WorkerProcess::Outcome;

class RemoteWorkspace final : public models::Workspace {
 public:
  explicit RemoteWorkspace(const Channel& channel) : channel_(channel) {}
  float* logits(size_t count) override {
    WEFT_ASSERT(count <= channel_.sizes().logit_rows * channel_.sizes().vocab_size);
    return channel_.logits();
  }
  const Error* failure(size_t input) const override {
    return input < failures_.size() && failures_[input] ? &*failures_[input] : nullptr;
  }

  std::vector<std::optional<Error>> failures_;  // of each input; empty: none

 private:
  const Channel& channel_;
};

size_t logit_rows(const SequenceInput& input) {
  switch (input.logits) {
    case LogitsWanted::kNone:
      return 0;
    case LogitsWanted::kLast:
      return 1;
    case LogitsWanted::kAll:
      return input.tokens.size();
  }
  return 0;
}

class RemoteModel final : public models::LanguageModel {
 public:
  RemoteModel(std::shared_ptr<const models::LanguageModel> local, Channel& channel,
              WorkerProcess& worker, RemoteModelOptions options)
      : local_(std::move(local)),
        channel_(channel),
        worker_(worker),
        options_(std::move(options)) {}

  const models::LanguageModelConfig& config() const override { return local_->config(); }
  kernels::KvShape kv_shape() const override { return local_->kv_shape(); }
  size_t weight_bytes() const override { return local_->weight_bytes(); }
  std::unique_ptr<models::Workspace> make_workspace() const override {
    return std::make_unique<RemoteWorkspace>(channel_);
  }
  void forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
               models::Workspace& workspace, const CoreSet& cores) const override;

 private:
  Outcome compute(std::span<const SequenceInput> batch, text::KvCache& cache, float* logits,
                  size_t first_row) const;
  void write(std::span<const SequenceInput> batch, const text::KvCache& cache,
             size_t first_row) const;

  std::shared_ptr<const models::LanguageModel> local_;
  Channel& channel_;
  WorkerProcess& worker_;
  RemoteModelOptions options_;
};

void RemoteModel::forward(std::span<const SequenceInput> batch, kernels::KvStore& store,
                          float* logits, models::Workspace& workspace, const CoreSet&) const {
  auto& cache = static_cast<text::KvCache&>(store);
  auto& failures = static_cast<RemoteWorkspace&>(workspace).failures_;
  failures.clear();
  Outcome outcome = compute(batch, cache, logits, 0);
  if (outcome == Outcome::kDone) return;
  failures.resize(batch.size());
  size_t row = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (outcome != Outcome::kGivenUp) outcome = compute(batch.subspan(i, 1), cache, logits, row);
    if (outcome == Outcome::kGivenUp) failures[i] = worker_.why_given_up();
    if (outcome == Outcome::kLost)
      failures[i] = Error(ErrorKind::kPeerLost,
                          "the process that computed this request died twice at the same token, "
                          "and it has been given up. Please report this.");
    row += logit_rows(batch[i]);
  }
}

Outcome RemoteModel::compute(std::span<const SequenceInput> batch, text::KvCache& cache,
                             float* logits, size_t first_row) const {
  size_t num_tokens = 0, num_rows = 0;
  for (const SequenceInput& input : batch) {
    num_tokens += input.tokens.size();
    num_rows += logit_rows(input);
  }
  const Outcome outcome = worker_.call([&] { write(batch, cache, first_row); }, num_tokens);
  if (outcome != Outcome::kDone) {
    if (options_.share != nullptr) options_.share->retake(options_.phase);
    return outcome;
  }
  if (const auto error = channel_.header().error.get()) throw *error;

  const ChannelSizes& sizes = channel_.sizes();
  if (num_rows != 0 && logits != channel_.logits())
    std::memcpy(logits + first_row * sizes.vocab_size,
                channel_.logits() + first_row * sizes.vocab_size,
                num_rows * sizes.vocab_size * sizeof(float));
  const float* hidden = channel_.hidden();
  for (const SequenceInput& input : batch) {
    const size_t values = input.tokens.size() * sizes.hidden_size;
    if (input.hidden != nullptr) std::memcpy(input.hidden, hidden, values * sizeof(float));
    hidden += values;
    cache.stored_elsewhere(input.sequence, input.first_position + input.tokens.size());
  }
  return outcome;
}

void RemoteModel::write(std::span<const SequenceInput> batch, const text::KvCache& cache,
                        size_t first_row) const {
  const ChannelSizes& sizes = channel_.sizes();
  Channel::Header& header = channel_.header();
  const auto pool = std::find(options_.pools.begin(), options_.pools.end(), cache.pool());
  WEFT_ASSERT(pool != options_.pools.end() && batch.size() <= sizes.sequences);
  header.pool = static_cast<uint32_t>(pool - options_.pools.begin());
  header.num_sequences = static_cast<uint32_t>(batch.size());
  header.first_logit_row = first_row;
  header.error.kind = -1;
  size_t num_tokens = 0, num_blocks = 0, num_rows = first_row;
  for (size_t i = 0; i < batch.size(); ++i) {
    const SequenceInput& input = batch[i];
    const size_t length = input.first_position + input.tokens.size();
    const auto blocks = cache.blocks(input.sequence)
                            .first((length + kernels::kPageTokens - 1) / kernels::kPageTokens);
    num_rows += logit_rows(input);
    WEFT_ASSERT(input.tokens.size() <= sizes.tokens - num_tokens &&
                blocks.size() <= sizes.blocks - num_blocks && num_rows <= sizes.logit_rows);
    channel_.sequences()[i] = {.first_position = input.first_position,
                               .sequence = static_cast<uint32_t>(input.sequence),
                               .num_tokens = static_cast<uint32_t>(input.tokens.size()),
                               .num_blocks = static_cast<uint32_t>(blocks.size()),
                               .logits = input.logits,
                               .hidden = input.hidden != nullptr};
    std::copy(input.tokens.begin(), input.tokens.end(), channel_.tokens() + num_tokens);
    std::copy(blocks.begin(), blocks.end(), channel_.blocks() + num_blocks);
    num_tokens += input.tokens.size();
    num_blocks += blocks.size();
  }
}

}  // namespace

std::shared_ptr<const models::LanguageModel> make_remote_model(
    std::shared_ptr<const models::LanguageModel> local, Channel& channel, WorkerProcess& worker,
    RemoteModelOptions options) {
  return std::make_shared<RemoteModel>(std::move(local), channel, worker, std::move(options));
}

}  // namespace weft::serve::isolate
