#include "bench/serve_systems.h"

#include <algorithm>

#include "base/error.h"
#include "bench/split_executor.h"

namespace weft::bench {

namespace semi_pd = serve::semi_pd;

ServeSetting::ServeSetting(const BenchOptions& options)
    : options_(options),
      pool_(*std::max_element(options.threads.begin(), options.threads.end())),
      model_(text::TextModel::load(options.models.front(), {}, pool_.cores())),
      profile_(semi_pd::measure_profile(model_, pool_.size())) {}

std::unique_ptr<serve::PhaseExecutor> ServeSetting::unified(serve::UnifiedPolicy policy,
                                                            size_t chunk, size_t max_running) {
  const auto kv_pool = model_.make_pool(kv_tokens_);
  kv_pool->make_resident();
  return serve::make_unified_executor(
      model_.make_decoder(pool_.cores(), {.pool = kv_pool}), model_.tokenizer(),
      {.policy = policy, .chunk_tokens = chunk, .max_running = max_running, .max_queued = 1 << 20},
      pool_.cores(), turns_);
}

std::unique_ptr<serve::PhaseExecutor> ServeSetting::apart(const std::string& partition,
                                                          const Slo& slo) {
  semi_pd::SemiPdOptions o{.num_cores = num_cores(),
                           .partition = semi_pd::parse_partition(partition, num_cores()),
                           .profile = profile_,
                           .kv_tokens = kv_tokens_,
                           .max_running = kMaxRunning,
                           .max_queued = 1 << 20};
  o.controller.slo = {.ttft_s = slo.ttft_s, .tpot_s = slo.tpot_s};
  return semi_pd::make_semi_pd_executor(model_, o);
}

std::unique_ptr<serve::PhaseExecutor> ServeSetting::split() {
  return make_split_executor(
      model_, {.num_cores = num_cores(), .kv_tokens = kv_tokens_, .max_running = kMaxRunning});
}

std::vector<System> ServeSetting::systems() {
  std::vector<System> out;
  const std::vector<std::string>& only = options_.serve.only;
  const auto wanted = [&](const std::string& name) {
    return only.empty() || std::find(only.begin(), only.end(), name) != only.end();
  };
  const auto add_unified = [&](const std::string& name, serve::UnifiedPolicy policy, size_t chunk) {
    if (wanted(name))
      out.push_back({name, [this, policy, chunk](const Slo&) { return unified(policy, chunk); },
                     policy == serve::UnifiedPolicy::kChunked});
  };
  const auto add_apart = [&](const std::string& name, const std::string& partition) {
    if (wanted(name))
      out.push_back({name, [this, partition](const Slo& slo) { return apart(partition, slo); }});
  };
  add_unified(kPrefillFirst, serve::UnifiedPolicy::kPrefillFirst, 4096);
  if (!options_.quick) add_unified("decode-first", serve::UnifiedPolicy::kDecodeFirst, 4096);
  for (const size_t chunk : {512, 256, 128, 64})
    if (!options_.quick || chunk == 256 || chunk == 64)
      add_unified("chunked " + std::to_string(chunk), serve::UnifiedPolicy::kChunked, chunk);
  // llama.cpp's server by default: a fixed number of answers, a batch of 2048 tokens for all of
  // them.
  constexpr size_t kSlots = 16, kBatch = 2048;
  if (!options_.quick && wanted("slots"))
    out.push_back({"slots", [this](const Slo&) {
                     return unified(serve::UnifiedPolicy::kChunked, kBatch, kSlots);
                   }});
  if (num_cores() > 1) {
    if (!options_.quick && wanted(kSplit))
      out.push_back({kSplit, [this](const Slo&) { return split(); }});
    for (const semi_pd::Partition& partition : semi_pd::all_partitions(num_cores())) {
      const std::string name = semi_pd::to_string(partition);
      if (name == "1:1" ||
          (!options_.quick && (name == "unified" || name == "2/2:0.8" || name == "2/2:free")) ||
          !only.empty())
        add_apart("semi-PD " + name, name);
    }
    for (const std::string& name : only)  // any other partition
      if (name.starts_with("semi-PD 2/2:") && name.ends_with("ms")) add_apart(name, name.substr(8));
    add_apart(kDynamic, "auto");
  }
  for (const std::string& name : only)
    if (std::none_of(out.begin(), out.end(), [&](const System& s) { return s.name == name; }))
      fail(ErrorKind::kInvalidInput, "--only '{}': no such system; leave --only out to see all",
           name);
  return out;
}

}  // namespace weft::bench
