// What narrow keys and values bring and cost (PM-KVQ, docs/pm-kvq.md): decoding speed over the
// context for each width and policy, the worst step while a sequence narrows, how much context or
// how many sequences the same bytes hold, and the divergence of progressive and direct storage on a
// text that the model wrote.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/seconds.h"
#include "bench/bench.h"
#include "bench/kernel_tables.h"
#include "bench/peer.h"
#include "formats/checkpoint.h"
#include "kernels/kv_transform.h"
#include "models/language_model.h"
#include "text/kv_cache.h"
#include "text/kv_replay.h"
#include "text/sampler.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;
using models::Token;
using text::KvMode;
using text::KvPolicyOptions;

struct Way {
  std::string name;
  KvPolicyOptions policy;  // kPlain: no policy
};

KvPolicyOptions direct(uint8_t k, uint8_t v) { return {.mode = KvMode::kDirect, .widths = {k, v}}; }

KvPolicyOptions pressure(uint8_t bits) {
  return {.mode = KvMode::kPressure, .widths = {bits, bits}};
}

KvPolicyOptions progressive(uint8_t bits, size_t budget, size_t length) {
  return {.mode = KvMode::kProgressive,
          .widths = {bits, bits},
          .budget_bytes = budget,
          .max_length = length};
}

// One sequence, filled with random keys and values.
class Sequence {
 public:
  Sequence(const models::LanguageModel& model, const KvPolicyOptions& policy, size_t capacity)
      : model_(model),
        cache_({.num_layers = model.config().num_layers,
                .shape = model.kv_shape(),
                .capacity_tokens = capacity,
                .policy = policy.mode == KvMode::kPlain
                              ? nullptr
                              : std::make_shared<const text::KvPolicy>(
                                    policy, model.config().num_layers, model.kv_shape())}),
        workspace_(model.make_workspace()),
        sequence_(cache_.create()),
        logits_(model.config().vocab_size) {}

  void fill(size_t length) {
    const size_t width = model_.kv_shape().num_kv_heads * model_.kv_shape().head_dim;
    constexpr size_t kPass = 128;
    const std::vector<float> values = random_values(kPass * width, 3);
    for (size_t at = cache_.length(sequence_); at < length;) {
      const size_t count =
          std::min({kPass, length - at, std::max<size_t>(1, cache_.max_piece(sequence_))});
      WEFT_ASSERT(cache_.reserve(sequence_, count));
      for (size_t layer = 0; layer < model_.config().num_layers; ++layer) {
        for (size_t p = at; p < at + count;) {
          const size_t end = std::min(at + count, cache_.piece_end(layer, sequence_, p));
          cache_.append(layer, sequence_, p, end - p, values.data(), values.data(), width);
          p = end;
        }
      }
      at += count;
    }
  }

  // Seconds for one token more.
  double step(const CoreSet& cores) {
    const auto start = Clock::now();
    WEFT_ASSERT(cache_.reserve(sequence_, 1));
    const Token token = static_cast<Token>(cache_.length(sequence_) % 1000);
    const models::SequenceInput input{
        .sequence = sequence_, .tokens = {&token, 1}, .first_position = cache_.length(sequence_)};
    model_.forward({&input, 1}, cache_, logits_.data(), *workspace_, cores);
    return seconds_since(start);
  }

  const text::KvCache& cache() const { return cache_; }
  size_t stored_bytes() const {
    const text::KvUsage usage = cache_.usage(sequence_);
    return usage.block_bytes;
  }

 private:
  const models::LanguageModel& model_;
  text::KvCache cache_;
  std::unique_ptr<models::Workspace> workspace_;
  text::SequenceId sequence_;
  std::vector<float> logits_;
};

size_t narrowest_room(const models::LanguageModel& model, const KvPolicyOptions& options,
                      size_t length) {
  const text::KvPolicy policy(options, model.config().num_layers, model.kv_shape());
  return policy.peak_blocks(length) * kernels::kPageTokens;
}

void bench_decode(const models::LanguageModel& model, const BenchOptions& options, ThreadPool& pool,
                  Report& report) {
  const std::vector<size_t> contexts = options.quick ? std::vector<size_t>{1024, 4096}
                                                     : std::vector<size_t>{1024, 4096, 8192, 16384};
  const size_t longest = contexts.back();
  const int rounds = options.quick ? 12 : 24;
  for (const size_t threads : options.threads) {
    const CoreSet cores = pool.subset(0, threads);
    Table table{.name = fmt::format("decode, tokens/s, {} threads", threads),
                .columns = {"cache"},
                .rows = {}};
    for (const size_t context : contexts) {
      table.columns.push_back(fmt::format("at {}", context));
      table.columns.push_back(fmt::format("MiB at {}", context));
    }
    const size_t budget = text::direct_peak_bytes(direct(4, 4), model.config().num_layers,
                                                  model.kv_shape(), longest + 64);
    const std::vector<Way> ways = {{"16 bit", {}},
                                   {"8 bit", direct(8, 8)},
                                   {"K 8, V 4", direct(8, 4)},
                                   {"4 bit", direct(4, 4)},
                                   {"2 bit", direct(2, 2)},
                                   {"progressive to 4", progressive(4, budget, longest + 64)},
                                   {"pressure to 4", pressure(4)}};
    for (const Way& way : ways) table.rows.push_back({cell(way.name)});
    for (const size_t context : contexts) {
      std::vector<std::unique_ptr<Sequence>> sequences;
      std::vector<std::function<double()>> contestants;
      for (const Way& way : ways) {
        // Under pressure in a pool that it fits into when all of it is narrow, and no better.
        const size_t capacity = way.policy.mode == KvMode::kPressure
                                    ? narrowest_room(model, way.policy, context + 64)
                                    : longest + 256;
        sequences.push_back(std::make_unique<Sequence>(model, way.policy, capacity));
        sequences.back()->fill(context);
        contestants.emplace_back([&, s = sequences.back().get()] { return s->step(cores); });
      }
      const auto seconds = alternate(rounds, contestants, options.stop);
      double exact = 0;
      for (size_t i = 0; i < ways.size(); ++i) {
        std::vector<double> speeds;
        for (const double s : seconds[i]) speeds.push_back(1 / s);
        const Spread spread = spread_of(speeds);
        table.rows[i].push_back(cell(spread, 1));
        table.rows[i].push_back(
            cell(static_cast<double>(sequences[i]->stored_bytes()) / (1 << 20), 1));
        if (i == 0) exact = spread.median;
        report.summary[fmt::format("decode {} at {} t{}", ways[i].name, context, threads)] =
            spread.median;
        if (context == 4096 && threads == options.threads.back() && ways[i].name == "8 bit")
          report.summary["decode8_vs_f16_4k"] = spread.median / exact;
      }
    }
    report.tables.push_back(std::move(table));
  }
}

// llama.cpp with its own narrow caches, at 4096 tokens and the most threads alone: it takes minutes
// to read a context into them.
void bench_peer(const Peer& peer, const std::filesystem::path& path, const BenchOptions& options,
                Report& report) {
  const size_t threads = options.threads.back();
  Table table{.name = fmt::format("llama.cpp, tokens/s at 4096, {} threads", threads),
              .columns = {"cache", "tokens/s"},
              .rows = {}};
  for (const std::string type : {"f16", "q8_0", "q4_0"}) {
    const PeerTest test{.model = path,
                        .threads = threads,
                        .generated_tokens = 32,
                        .depth = 4096,
                        .cache_type = type};
    // Its narrow caches need flash attention; f16 is faster without, on some machines.
    double speed = peer.tokens_per_second(test, "on");
    if (type == "f16") speed = std::max(speed, peer.tokens_per_second(test, "off"));
    table.rows.push_back({cell("llama.cpp " + type), cell(speed, 1)});
    report.summary[fmt::format("decode llama.cpp {} at 4096 t{}", type, threads)] = speed;
  }
  report.tables.push_back(std::move(table));
}

// Steps around the time when a progressive sequence narrows: from 16 bit to 8 in all layers.
// Several sequences take the same steps; the least time of each step is the one without the
// machine's own pauses.
void bench_pause(const models::LanguageModel& model, const BenchOptions& options, ThreadPool& pool,
                 Report& report) {
  const size_t length = options.quick ? 4096 : 16384, repeats = options.quick ? 3 : 5;
  const size_t budget =
      text::direct_peak_bytes(direct(4, 4), model.config().num_layers, model.kv_shape(), length);
  const auto policy = progressive(4, budget, length);
  const text::KvPolicy schedule(policy, model.config().num_layers, model.kv_shape());
  const size_t start = schedule.exact_until() - 32, steps = options.quick ? 192 : 448;
  const CoreSet cores = pool.cores();
  std::vector<double> least[2], once[2];
  for (size_t repeat = 0; repeat < repeats; ++repeat) {
    Sequence plain(model, {}, length + 256), narrowing(model, policy, length + 256);
    plain.fill(start);
    narrowing.fill(start);
    for (size_t i = 0; i < steps; ++i) {
      options.stop.throw_if_stopped();
      const double times[2] = {plain.step(cores), narrowing.step(cores)};
      for (size_t way = 0; way < 2; ++way) {
        once[way].push_back(times[way]);
        if (repeat == 0)
          least[way].push_back(times[way]);
        else
          least[way][i] = std::min(least[way][i], times[way]);
      }
    }
  }
  Table table{.name = fmt::format("steps from {} tokens on, where narrowing begins; {} sequences",
                                  start, repeats),
              .columns = {"cache", "median ms", "p99 ms", "worst ms",
                          "least of each step: worst ms", "worst / median"},
              .rows = {}};
  for (size_t way = 0; way < 2; ++way) {
    std::sort(once[way].begin(), once[way].end());
    std::sort(least[way].begin(), least[way].end());
    const double median = least[way][steps / 2], worst = least[way].back();
    table.rows.push_back({cell(way == 0 ? "16 bit" : "progressive to 4"),
                          cell(1e3 * once[way][once[way].size() / 2], 2),
                          cell(1e3 * once[way][once[way].size() * 99 / 100], 2),
                          cell(1e3 * once[way].back(), 2), cell(1e3 * worst, 2),
                          cell(worst / median, 2)});
    report.summary[way == 0 ? "plain_worst_step_over_median" : "worst_step_over_median"] =
        worst / median;
  }
  report.tables.push_back(std::move(table));
}

// What is in memory when one sequence has filled a pool of `capacity` tokens of 16 bit: of its
// pool's blocks, and of the process.
std::vector<Cell> fill(const models::LanguageModel& model, const KvPolicyOptions& policy,
                       size_t capacity, size_t length) {
  const size_t before = resident_memory().anonymous_bytes;
  Sequence sequence(model, policy, capacity);
  sequence.fill(length);
  const size_t after = resident_memory().anonymous_bytes;
  const auto mib = [](size_t bytes) { return cell(static_cast<double>(bytes) / (1 << 20), 1); };
  return {mib(sequence.stored_bytes()), mib(after > before ? after - before : 0)};
}

// Plans, and sequences that fill them.
void bench_room(const models::LanguageModel& model, const BenchOptions& options, Report& report) {
  const size_t layers = model.config().num_layers;
  const kernels::KvShape shape = model.kv_shape();
  constexpr size_t kQuickContext = 8192;
  for (const size_t context : {kQuickContext, size_t{16384}}) {
    const size_t bytes =
        layers * shape.page_bytes(kernels::KvFormat::kF16) * (context / kernels::kPageTokens);
    Table table{.name = fmt::format("what the bytes of {} tokens in 16 bit hold ({:.0f} MiB)",
                                    context, static_cast<double>(bytes) / (1 << 20)),
                .columns = {"cache", "longest sequence", "of 16 bit", "sequences of 2048 tokens",
                            "filled: blocks, MiB", "process grew, MiB"},
                .rows = {}};
    const auto sequences = [&](const text::KvPolicy& policy) {
      return cell(static_cast<double>(bytes / policy.block_bytes() / policy.peak_blocks(2048)), 0);
    };
    const auto add_filled = [&](const KvPolicyOptions& policy, size_t length) {
      options.stop.throw_if_stopped();
      const std::vector<Cell> cells = options.quick && context > kQuickContext
                                          ? std::vector<Cell>(2, no_cell())
                                          : fill(model, policy, context, length);
      table.rows.back().insert(table.rows.back().end(), cells.begin(), cells.end());
    };
    const auto add = [&](const std::string& name, const text::KvPolicy& longest,
                         const text::KvPolicy& many) {
      const double multiple =
          static_cast<double>(longest.max_length()) / static_cast<double>(context);
      table.rows.push_back({cell(name), cell(static_cast<double>(longest.max_length()), 0),
                            cell(multiple, 3), sequences(many)});
      add_filled(longest.options(), longest.max_length());
      return multiple;
    };
    table.rows.push_back({cell("16 bit"), cell(static_cast<double>(context), 0), cell(1.0, 3),
                          cell(static_cast<double>(context) / 2048, 0)});
    add_filled({}, context);
    for (const uint8_t bits : {8, 4, 2}) {
      const double multiple = add(fmt::format("progressive to {}", bits),
                                  {progressive(bits, bytes, 16 * context), layers, shape},
                                  {direct(bits, bits), layers, shape});
      if (bits == 4 && context == 8192) report.summary["context_multiple"] = multiple;
    }
    KvPolicyOptions shared = pressure(4);
    shared.budget_bytes = bytes;
    shared.max_length = 16 * context;
    add("pressure to 4", {shared, layers, shape}, {pressure(4), layers, shape});
    report.tables.push_back(std::move(table));
  }
  report.notes.push_back(
      "Sequences: stored directly in the narrow widths, or as narrow as pressure makes them.");
}

// A text of the model's own, sampled with 16-bit keys and values.
std::vector<Token> sampled_text(const models::LanguageModel& model, size_t length,
                                const CoreSet& cores, StopToken stop) {
  text::KvCache cache({.num_layers = model.config().num_layers,
                       .shape = model.kv_shape(),
                       .capacity_tokens = length + kernels::kPageTokens});
  const auto workspace = model.make_workspace();
  std::vector<float> logits(model.config().vocab_size);
  text::Sampler sampler({.temperature = 0.8f, .top_p = 0.95f, .seed = 7}, 0);
  const text::SequenceId sequence = cache.create();
  std::vector<Token> tokens = {1};
  while (tokens.size() < length) {
    stop.throw_if_stopped();
    WEFT_ASSERT(cache.reserve(sequence, 1));
    const models::SequenceInput input{
        .sequence = sequence, .tokens = {&tokens.back(), 1}, .first_position = tokens.size() - 1};
    model.forward({&input, 1}, cache, logits.data(), *workspace, cores);
    tokens.push_back(sampler.sample(logits, tokens).token);
  }
  return tokens;
}

void bench_divergence(const models::LanguageModel& model, const BenchOptions& options,
                      ThreadPool& pool, Report& report) {
  const size_t length = options.quick ? 769 : 4097;
  const std::vector<Token> tokens = sampled_text(model, length, pool.cores(), options.stop);
  const auto two_tier =
      text::ForeignKv{.format = text::ForeignKv::Format::kTwoTier,
                      .widths = {4, 4},
                      .hadamard = kernels::has_hadamard(model.kv_shape().head_dim)};
  const std::vector<text::ReplayMethod> methods = {
      {.name = "8 bit", .policy = direct(8, 8)},
      {.name = "4 bit", .policy = direct(4, 4)},
      {.name = "two tiers, 16 and 4", .foreign = two_tier},
      {.name = "progressive to 4", .policy = progressive(4, 0, length - 1)}};
  const auto results = text::replay_kv(model, tokens, methods, {}, pool.cores(), options.stop);
  Table table{.name = fmt::format("divergence over {} tokens that the model wrote", length - 1),
              .columns = {"cache", "peak MiB", "mean MiB", "mean KL", "+-", "perplexity of 16 bit"},
              .rows = {}};
  for (const text::ReplayResult& r : results) {
    const text::ReplayBucket all = r.total();
    table.rows.push_back(
        {cell(r.method.name), cell(static_cast<double>(r.peak_bytes) / (1 << 20), 2),
         cell(r.mean_bytes / (1 << 20), 2), cell(all.mean_kl(), 6),
         cell(all.kl_standard_error(), 6), cell(all.perplexity() / all.exact_perplexity(), 5)});
  }
  report.summary["kl_progressive_over_direct"] =
      results[3].total().mean_kl() / results[1].total().mean_kl();
  report.tables.push_back(std::move(table));
}

}  // namespace

Report run_kv(const BenchOptions& options) {
  Report report;
  report.bench = "kv";
  std::unique_ptr<Peer> peer;
  if (options.peer) peer = std::make_unique<Peer>(*options.peer, options.stop);
  ThreadPool pool(*std::max_element(options.threads.begin(), options.threads.end()));
  const std::filesystem::path& path = options.models.front();
  const auto model = models::load_language_model(formats::open_checkpoint(path), pool.cores());
  report.notes.push_back(
      fmt::format("{}; keys and values of the context are random.", path.filename().string()));
  bench_room(*model, options, report);
  bench_decode(*model, options, pool, report);
  if (peer) bench_peer(*peer, path, options, report);
  bench_pause(*model, options, pool, report);
  bench_divergence(*model, options, pool, report);
  return report;
}

}  // namespace weft::bench
