#include "serve/isolate/isolation.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "serve/isolate/remote_model.h"
#include "serve/isolate/worker_main.h"
#include "text/score.h"

namespace weft::serve::isolate {
namespace {

const char* name(CoreShareRole role) {
  switch (role) {
    case CoreShareRole::kPrefill:
      return "prefill";
    case CoreShareRole::kDecode:
      return "decode";
    default:
      return "compute";
  }
}

}  // namespace

Isolation::Isolation(const text::TextModel& model, std::unique_ptr<SharedWeights> weights,
                     const IsolationOptions& options)
    : weights_(std::move(weights)), fingerprint_(fingerprint(options.model)) {
  if (kernels::bits(options.kv_format) != 16 || model.kv_policy() != nullptr)
    fail(
        ErrorKind::kUnsupported,
        "worker processes keep keys and values in 16 bit: leave out --isolate, or take --kv f16 or "
        "bf16");
  if (!model.vocab_heads().empty())
    fail(ErrorKind::kUnsupported,
         "worker processes compute the whole vocabulary: leave out --isolate, or the vocabulary's "
         "profiles");
  weights_->arena.seal();
  const models::LanguageModel& local = model.model();
  for (const size_t tokens : {options.kv_tokens, local.config().context_length})
    pools_.push_back(std::make_shared<text::KvPool>(
        text::KvCacheOptions{.num_layers = local.config().num_layers,
                             .shape = local.kv_shape(),
                             .format = options.kv_format,
                             .capacity_tokens = tokens,
                             .memory = [this](size_t bytes) { return kv_.append(bytes); }}));
  if (!options.two_phases) {
    start_worker(model, options, CoreShareRole::kWhole);
    return;
  }
  shares_.emplace("the cores' shares");
  share_memory_ = shares_->append(CoreShare::shared_bytes(options.num_cores));
  share_.emplace(CoreShareOptions{.num_cores = options.num_cores,
                                  .role = CoreShareRole::kFront,
                                  .memory = share_memory_.data()});
  start_worker(model, options, CoreShareRole::kPrefill);
  start_worker(model, options, CoreShareRole::kDecode);
}

void Isolation::start_worker(const text::TextModel& model, const IsolationOptions& options,
                             CoreShareRole role) {
  const models::LanguageModelConfig& config = model.model().config();
  // Embeddings come in pieces of 256 tokens; the largest step has a chunk and all answers.
  const size_t tokens = std::max<size_t>(options.chunk_tokens, 256) + options.max_running;
  WorkerSetup setup{.fingerprint = fingerprint_,
                    .num_cores = static_cast<uint32_t>(options.num_cores),
                    .role = role,
                    .kv_format = options.kv_format,
                    .sizes = {.logit_rows = std::max(options.max_running, text::kScorePiece),
                              .tokens = tokens,
                              .sequences = options.max_running,
                              .vocab_size = config.vocab_size,
                              .hidden_size = config.hidden_size}};
  const std::string path = std::filesystem::absolute(options.model).string();
  if (path.size() >= sizeof setup.model)
    fail(ErrorKind::kInvalidInput, "{}: the path is longer than {} bytes", path,
         sizeof setup.model - 1);
  std::strcpy(setup.model, path.c_str());
  for (size_t i = 0; i < kNumPools; ++i) setup.kv_tokens[i] = pools_[i]->capacity_tokens();
  // Each sequence has its own list, of shared blocks too.
  const size_t longest = std::max(setup.kv_tokens[0], setup.kv_tokens[1]);
  const size_t context = std::min<size_t>(longest, config.context_length);
  setup.sizes.blocks = options.max_running * (context / kernels::kPageTokens + 1);

  channel_memory_.push_back(std::make_unique<SharedMemory>("a worker's channel"));
  channels_.push_back(std::make_unique<Channel>(*channel_memory_.back(), setup));
  Channel& channel = *channels_.back();
  const Phase phase = role == CoreShareRole::kDecode ? Phase::kDecode : Phase::kPrefill;
  const int fds[] = {channel_memory_.back()->fd(), weights_->memory.fd(), kv_.fd(),
                     shares_ ? shares_->fd() : -1};
  // A guess that errs on the long side: the speed of a fast memory for each token.
  constexpr double kBytesPerSecond = 50e9;
  WorkerOptions worker{
      .role = name(role),
      .command = options.command.empty() ? worker_command() : options.command,
      .silence = options.silence,
      .s_per_token = static_cast<double>(model.model().weight_bytes()) / kBytesPerSecond,
      .may_start_again = [this, options] { return may_start_again(options); },
      .gave_up =
          [this](const Error& error) {
            const std::lock_guard lock(mutex_);
            if (!lost_) lost_ = error;
          },
      .log = options.log};
  if (share_) worker.after_death = [this, phase] { share_->evict(phase); };
  workers_.push_back(std::make_unique<WorkerProcess>(channel, fds, std::move(worker)));
  remotes_.push_back(
      make_remote_model(model.shared_model(), channel, *workers_.back(),
                        {.pools = pools_, .share = share_ ? &*share_ : nullptr, .phase = phase}));
}

bool Isolation::may_start_again(const IsolationOptions& options) {
  const auto now = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex_);
  while (!deaths_.empty() && now - deaths_.front() > options.death_window) deaths_.pop_front();
  deaths_.push_back(now);
  return deaths_.size() < options.max_deaths;
}

std::vector<WorkerState> Isolation::workers() const {
  std::vector<WorkerState> out;
  for (const auto& worker : workers_) out.push_back(worker->state());
  return out;
}

std::optional<Error> Isolation::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

}  // namespace weft::serve::isolate
