#include <algorithm>
#include <thread>

#include "base/core_share.h"
#include "base/seconds.h"
#include "serve/semi_pd/executor.h"

namespace weft::serve::semi_pd {
namespace {

constexpr size_t kPromptTokens = 64;     // beyond 16 rows a product's cost is linear
constexpr size_t kContext = 128;         // of each answer
constexpr size_t kLargeBatch = 16;       // answers; enough to be bound by arithmetic
constexpr double kSecondsEach = 0.1;

// One phase's work: a prompt, or a step of so many answers, again and again.
class Work {
 public:
  Work(const models::LanguageModel& model, size_t num_sequences, size_t stored, size_t num_tokens)
      : model_(model),
        stored_(stored),
        cache_({.num_layers = model.config().num_layers,
                .shape = model.kv_shape(),
                .capacity_tokens = num_sequences * (stored + num_tokens + kernels::kPageTokens)}),
        workspace_(model.make_workspace()),
        tokens_(std::max(stored, num_tokens), 1),
        logits_(num_sequences * model.config().vocab_size) {
    for (size_t i = 0; i < num_sequences; ++i) {
      sequences_.push_back(cache_.create());
      batch_.push_back({.sequence = sequences_[i],
                        .tokens = std::span(tokens_).first(num_tokens),
                        .first_position = stored,
                        .logits = models::LogitsWanted::kLast});
    }
  }

  // Fills the context, whose speed does not matter.
  void prepare(const CoreSet& cores) {
    if (stored_ == 0) return;
    for (const text::SequenceId id : sequences_) {
      const models::SequenceInput input{.sequence = id,
                                        .tokens = std::span(tokens_).first(stored_),
                                        .logits = models::LogitsWanted::kNone};
      WEFT_ASSERT(cache_.reserve(id, stored_));
      model_.forward({&input, 1}, cache_, nullptr, *workspace_, cores);
    }
  }

  void run_once(const CoreSet& cores) {
    for (const models::SequenceInput& input : batch_) {
      cache_.truncate(input.sequence, stored_);
      WEFT_ASSERT(cache_.reserve(input.sequence, input.tokens.size()));
    }
    model_.forward(batch_, cache_, logits_.data(), *workspace_, cores);
  }

  // The median.
  double seconds(const CoreSet& cores) {
    run_once(cores);  // caches warm
    std::vector<double> times;
    double sum = 0;
    while (times.size() < 2 || (sum < kSecondsEach && times.size() < 64)) {
      const Clock::time_point start = Clock::now();
      run_once(cores);
      times.push_back(seconds_since(start));
      sum += times.back();
    }
    std::nth_element(times.begin(), times.begin() + static_cast<ptrdiff_t>(times.size() / 2),
                     times.end());
    return times[times.size() / 2];
  }

 private:
  const models::LanguageModel& model_;
  const size_t stored_;
  text::KvCache cache_;
  std::unique_ptr<models::Workspace> workspace_;
  std::vector<text::Token> tokens_;
  std::vector<float> logits_;
  std::vector<text::SequenceId> sequences_;
  std::vector<models::SequenceInput> batch_;
};

double operations_per_token(const models::LanguageModelConfig& c) {
  const auto product = [](size_t a, size_t b) {
    return static_cast<double>(a) * static_cast<double>(b);
  };
  const size_t query = c.num_heads * c.head_dim, key = c.num_kv_heads * c.head_dim;
  const double layer = product(c.hidden_size, 2 * query + 2 * key) +
                       3 * product(c.hidden_size, c.intermediate_size);
  return 2 * (static_cast<double>(c.num_layers) * layer + product(c.hidden_size, c.vocab_size));
}

}  // namespace

PhaseProfile measure_profile(const text::TextModel& text_model, size_t num_cores) {
  const models::LanguageModel& model = text_model.model();
  const models::LanguageModelConfig& config = model.config();
  CoreShare share({.num_cores = num_cores, .pin = false});
  Work prompt(model, 1, 0, kPromptTokens), one(model, 1, kContext, 1),
      many(model, kLargeBatch, kContext, 1);
  const CoreSet prefill_cores = share.cores(Phase::kPrefill);
  const CoreSet decode_cores = share.cores(Phase::kDecode);
  const auto with_cores = [&](size_t prefill, size_t decode) {
    share.apply({.prefill_cores = prefill, .decode_cores = decode, .lend = false});
  };

  PhaseProfile profile;
  profile.weight_bytes = static_cast<double>(model.weight_bytes());
  profile.kv_bytes_per_token =
      static_cast<double>(2 * 2 * config.num_layers * config.num_kv_heads * config.head_dim);
  profile.flops_per_token = operations_per_token(config);
  const double one_step_bytes =
      profile.weight_bytes + static_cast<double>(kContext) * profile.kv_bytes_per_token;
  {
    with_cores(num_cores, num_cores);
    const CoreShare::Running running(share, Phase::kDecode);
    one.prepare(decode_cores);
    many.prepare(decode_cores);
  }
  std::vector<double> decode_s;
  for (size_t cores = 1; cores <= num_cores; ++cores) {
    with_cores(cores, cores);
    PhaseProfile::OnCores& speed = profile.on_cores.emplace_back();
    {
      const CoreShare::Running running(share, Phase::kPrefill);
      speed.prompt_s_per_token = prompt.seconds(prefill_cores) / static_cast<double>(kPromptTokens);
    }
    const CoreShare::Running running(share, Phase::kDecode);
    decode_s.push_back(one.seconds(decode_cores));
    speed.decode_bytes_per_s = one_step_bytes / decode_s.back();
    speed.decode_flops_per_s =
        static_cast<double>(kLargeBatch) * profile.flops_per_token / many.seconds(decode_cores);
  }
  if (num_cores == 1) return profile;

  // How much they slow each other down, side by side on half the cores each.
  const size_t half = num_cores / 2, rest = num_cores - half;
  with_cores(half, rest);
  std::atomic<bool> done{false};
  double decode_beside_prefill = 0;
  std::thread decoding([&] {
    const CoreShare::Running running(share, Phase::kDecode);
    decode_beside_prefill = one.seconds(decode_cores);
    while (!done.load()) one.run_once(decode_cores);
  });
  double prefill_beside_decode = 0;
  {
    const CoreShare::Running running(share, Phase::kPrefill);
    prefill_beside_decode = prompt.seconds(prefill_cores) / static_cast<double>(kPromptTokens);
  }
  done.store(true);
  decoding.join();
  profile.prefill_slowdown =
      std::max(1.0, prefill_beside_decode / profile.on_cores[half - 1].prompt_s_per_token);
  profile.decode_slowdown = std::max(1.0, decode_beside_prefill / decode_s[rest - 1]);
  return profile;
}

}  // namespace weft::serve::semi_pd
