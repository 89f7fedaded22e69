// Attention over ranks, one exchange of keys and values against the others: transfers alone,
// attention alone, and both at once. And the prefill of a model, of which attention is a part.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/seconds.h"
#include "base/thread_pool.h"
#include "bench/bench.h"
#include "comm/communicator.h"
#include "formats/checkpoint.h"
#include "parallel/crew.h"
#include "parallel/exchange_choice.h"
#include "parallel/exchange_trial.h"
#include "parallel/spread_attention.h"
#include "parallel/tasp/tasp.h"

namespace weft::bench {
namespace {

using comm::Communicator;
using parallel::ExchangedAttention;
using parallel::FollowingPages;
using parallel::SpreadPart;
using Clock = std::chrono::steady_clock;

constexpr size_t kHeadDim = 64;
constexpr kernels::KvFormat kFormat = kernels::KvFormat::kF16;

struct Way {
  std::string name;
  parallel::Exchange exchange;
  bool zigzag = false;
};

// The first is the baseline. Ring is one only without a mask: with one, its ranks wait for the
// last.
std::vector<Way> ways(size_t num_ranks, size_t num_nodes, bool causal) {
  std::vector<Way> out;
  out.push_back({"Ring", parallel::ring_exchange(num_ranks), false});
  if (causal) out.push_back({"Zigzag-Ring", parallel::ring_exchange(num_ranks), true});
  out.push_back({"TASP", parallel::tasp::full_mesh_exchange(num_ranks), causal});
  out.push_back({"direct", parallel::direct_exchange(num_ranks), causal});
  if (num_nodes > 1)
    out.push_back({"TASP's paths",
                   parallel::tasp::nodes_exchange(num_nodes, num_ranks / num_nodes), causal});
  return out;
}

// Of all ranks, the largest.
double slowest(const Communicator& ranks, double seconds) {
  std::vector<double> all(ranks.size());
  all[ranks.rank()] = seconds;
  std::vector<size_t> begins(ranks.size() + 1);
  for (size_t r = 0; r < begins.size(); ++r) begins[r] = r * sizeof(double);
  ranks.all_gather(comm::writable_bytes_of(std::span(all)), begins);
  return *std::max_element(all.begin(), all.end());
}

// Bytes that rank r sends to rank c, at [r * n + c].
std::vector<double> sent_bytes(const Communicator& ranks) {
  const size_t n = ranks.size();
  std::vector<double> all(n * n);
  std::vector<size_t> begins(n + 1);
  for (size_t to = 0; to < n; ++to)
    all[ranks.rank() * n + to] = static_cast<double>(ranks.bytes_sent(to));
  for (size_t r = 0; r < begins.size(); ++r) begins[r] = r * n * sizeof(double);
  ranks.all_gather(comm::writable_bytes_of(std::span(all)), begins);
  return all;
}

// (most - least) / most of what the directed links carried in between.
double imbalance(const std::vector<double>& before, const std::vector<double>& after,
                 size_t num_ranks) {
  double most = 0, least = 1e300;
  for (size_t i = 0; i < before.size(); ++i) {
    if (i / num_ranks == i % num_ranks) continue;
    most = std::max(most, after[i] - before[i]);
    least = std::min(least, after[i] - before[i]);
  }
  return most == 0 ? 0 : (most - least) / most;
}

// One layer's attention of a sequence that is divided among the ranks.
class Sequence {
 public:
  Sequence(const Communicator& ranks, size_t tokens, size_t heads, size_t nodes, bool causal,
           const CoreSet& cores)
      : ranks_(ranks),
        tokens_(tokens),
        shape_{.num_heads = heads,
               .kv = {.num_kv_heads = heads, .head_dim = kHeadDim},
               .scale = 1 / std::sqrt(static_cast<float>(kHeadDim))},
        cores_(cores),
        pages_(1, shape_.kv, kFormat, pages_for(tokens)) {
    std::vector<uint32_t> blocks(pages_for(tokens));
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<uint32_t>(i);
    pages_.set_sequence(0, blocks, 0);
    for (Way& way : ways(ranks.size(), nodes, causal)) {
      names_.push_back(way.name);
      attentions_.push_back(
          std::make_unique<ExchangedAttention>(ranks, std::move(way.exchange), way.zigzag, causal));
    }
    imbalance_.resize(attentions_.size(), -1);
    // The most that any placement gives a rank.
    const size_t rows = (pages_for(tokens) / ranks.size() + 2) * kernels::kPageTokens;
    q_.resize(rows * heads * kHeadDim);
    out_.resize(q_.size());
    for (size_t i = 0; i < q_.size(); ++i)
      q_[i] = static_cast<float>((i * 7919 + ranks.rank()) % 1009) / 1009.0f - 0.5f;
  }

  size_t num_ways() const { return attentions_.size(); }
  const std::string& name(size_t way) const { return names_[way]; }
  const parallel::Exchange& exchange(size_t way) const { return attentions_[way]->exchange(); }

  // Seconds until the slowest rank is done.
  double run(size_t way, SpreadPart part) {
    ExchangedAttention& attention = *attentions_[way];
    attention.part = part;
    const bool counts = part == SpreadPart::kTransfers && imbalance_[way] < 0;
    const std::vector<double> before = counts ? sent_bytes(ranks_) : std::vector<double>();
    ranks_.barrier();
    const auto begin = Clock::now();
    attention.begin(pages_, 0, 0, tokens_);
    attention.attend(shape_, 0, q_.data(), q_.data(), q_.data(), out_.data(), cores_);
    const double seconds = seconds_since(begin);
    attention.part = SpreadPart::kAll;
    if (counts) imbalance_[way] = imbalance(before, sent_bytes(ranks_), ranks_.size());
    return slowest(ranks_, seconds);
  }

  // Of the directed links, when only transfers ran.
  double link_imbalance(size_t way) const { return imbalance_[way]; }

  size_t block_bytes() const {
    return pages_for(tokens_) * shape_.kv.page_bytes(kFormat) / ranks_.size();
  }

 private:
  static size_t pages_for(size_t tokens) {
    return (tokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
  }

  const Communicator& ranks_;
  size_t tokens_;
  kernels::AttentionShape shape_;
  CoreSet cores_;
  FollowingPages pages_;
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<ExchangedAttention>> attentions_;
  std::vector<double> imbalance_;  // by way; -1 until it was counted
  std::vector<float> q_, out_;
};

struct Totals {
  std::vector<double> vs_ring, vs_zigzag, over_bound, imbalance, errors;
};

// What was measured of one length: seconds by way; without attention only the transfers.
struct Measured {
  std::vector<Spread> transfers, attention, both;
};

Measured measure(const BenchOptions& options, Sequence& sequence, int rounds) {
  std::vector<SpreadPart> parts = {SpreadPart::kTransfers};
  if (!options.tasp.transfers_alone)
    parts.insert(parts.end(), {SpreadPart::kAttention, SpreadPart::kAll});
  std::vector<std::function<double()>> runs;
  for (size_t way = 0; way < sequence.num_ways(); ++way)
    for (const SpreadPart part : parts)
      runs.emplace_back([&sequence, way, part] { return sequence.run(way, part); });
  const auto values = alternate(rounds, runs, options.stop);
  Measured out;
  for (size_t way = 0; way < sequence.num_ways(); ++way) {
    const auto* const of_way = &values[way * parts.size()];
    out.transfers.push_back(spread_of(of_way[0]));
    if (parts.size() == 1) continue;
    out.attention.push_back(spread_of(of_way[1]));
    out.both.push_back(spread_of(of_way[2]));
  }
  return out;
}

// What the model of costs foretells from the links' rate and this attention's speed.
double foretell(const BenchOptions& options, const parallel::Exchange& exchange,
                const parallel::Placement& placement, double link_bytes_per_s,
                const parallel::AttentionWork& work) {
  const comm::Topology topology =
      options.tasp.topology.empty()
          ? comm::Topology::full_mesh(placement.num_ranks,
                                      {.latency_s = 1e-4, .bytes_per_s = link_bytes_per_s})
          : comm::Topology::read(options.tasp.topology);
  return parallel::predict(exchange, placement, topology, work).total_s;
}

void measure_attention(const BenchOptions& options, bool causal, size_t tokens, size_t heads,
                       int rounds, const CoreSet& cores, Table& table, Totals& totals) {
  const Communicator& ranks = *options.ranks;
  Sequence sequence(ranks, tokens, heads, options.tasp.nodes, causal, cores);
  const Measured measured = measure(options, sequence, rounds);
  const bool with_attention = !measured.both.empty();
  // Ring has one link of each rank at work, and keeps it busy: it says what a link carries.
  const double n = static_cast<double>(ranks.size()), ring_s = measured.transfers[0].median;
  const double link_bytes_per_s = (n - 1) * static_cast<double>(sequence.block_bytes()) / ring_s;
  const size_t baseline = causal ? 1 : 0;
  // All of attention's work, by the seconds that it takes where ranks have equal parts of it.
  const double pairs =
      static_cast<double>(tokens) * static_cast<double>(tokens) * (causal ? 0.5 : 1.0) / n;
  for (size_t way = 0; way < sequence.num_ways(); ++way) {
    const double imbalance = sequence.link_imbalance(way);
    const double transfer_s = measured.transfers[way].median;
    const double bound = way > baseline ? ring_s / (n - 1) : ring_s;  // over all links
    const auto ratio = [&](size_t base) {
      return with_attention ? measured.both[base].median / measured.both[way].median
                            : measured.transfers[base].median / transfer_s;
    };
    std::vector<Cell> row = {cell(sequence.name(way)), cell(causal ? "causal" : "full"),
                             cell(static_cast<double>(tokens), 0),
                             cell(measured.transfers[way], 4)};
    if (with_attention) {
      row.insert(row.end(),
                 {cell(measured.attention[way], 4), cell(measured.both[way], 4),
                  cell(std::max(0.0, measured.both[way].median - measured.attention[way].median),
                       4)});
    } else {
      row.insert(row.end(), 3, no_cell());
    }
    row.insert(row.end(), {cell(transfer_s / bound, 2), cell(ratio(0), 2),
                           causal ? cell(ratio(1), 2) : no_cell(), percent(imbalance)});
    if (with_attention) {
      const double foretold = foretell(
          options, sequence.exchange(way),
          {.num_tokens = tokens,
           .num_ranks = ranks.size(),
           .num_pieces = sequence.exchange(way).num_pieces,
           .causal = causal,
           .zigzag = causal && way != 0},
          link_bytes_per_s,
          {.num_heads = heads,
           .num_kv_heads = heads,
           .head_dim = kHeadDim,
           .bytes_per_value = 2,
           .flops_per_s = 4 * pairs * static_cast<double>(heads * kHeadDim) /
                          measured.attention[baseline].median});
      totals.errors.push_back(std::abs(foretold - measured.both[way].median) /
                              measured.both[way].median);
      row.push_back(cell(foretold, 4));
    } else {
      row.push_back(no_cell());
    }
    table.rows.push_back(std::move(row));
    if (sequence.name(way) != "TASP") continue;
    totals.vs_ring.push_back(ratio(0));
    if (causal) totals.vs_zigzag.push_back(ratio(1));
    totals.over_bound.push_back(transfer_s / bound);
    totals.imbalance.push_back(imbalance);
  }
}

// Prefill of a whole model by each exchange that balances causal work.
Table measure_model(const BenchOptions& options, const std::filesystem::path& path, int rounds,
                    const CoreSet& cores) {
  const Communicator& ranks = *options.ranks;
  const auto model = models::load_language_model(formats::open_checkpoint(path), cores);
  const models::LanguageModelConfig& config = model->config();
  Table table{"prefill of " + path.filename().string(),
              {"exchange", "tokens", "s", "of it attention", "waiting", "vs Zigzag-Ring"},
              {}};
  const auto workspace = model->make_workspace();
  for (const size_t tokens : {size_t{2048}, size_t{8192}}) {
    if (tokens > config.context_length) continue;
    std::vector<models::Token> prompt(tokens);
    for (size_t i = 0; i < tokens; ++i)
      prompt[i] = static_cast<models::Token>(i * 7919 % config.vocab_size);
    std::vector<uint32_t> blocks(tokens / kernels::kPageTokens);
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<uint32_t>(i);
    FollowingPages pages(config.num_layers, model->kv_shape(), kFormat, blocks.size());
    std::vector<float> logits(config.vocab_size);
    std::vector<std::unique_ptr<ExchangedAttention>> attentions;
    std::vector<std::string> names;
    std::vector<std::function<double()>> runs;
    for (Way& way : ways(ranks.size(), options.tasp.nodes, true)) {
      if (!way.zigzag) continue;
      names.push_back(way.name);
      attentions.push_back(
          std::make_unique<ExchangedAttention>(ranks, std::move(way.exchange), true, true));
      runs.emplace_back([&, spread = attentions.back().get()] {
        pages.set_sequence(0, blocks, 0);
        spread->times = {};
        const models::SequenceInput input{.sequence = 0, .tokens = prompt, .first_position = 0};
        ranks.barrier();
        const auto begin = Clock::now();
        parallel::spread_pass(*spread, *model, pages, input, logits.data(), *workspace, cores);
        return slowest(ranks, seconds_since(begin));
      });
    }
    const auto values = alternate(rounds, runs, options.stop);
    for (size_t way = 0; way < runs.size(); ++way)
      table.rows.push_back({cell(names[way]), cell(static_cast<double>(tokens), 0),
                            cell(spread_of(values[way]), 3),
                            cell(slowest(ranks, attentions[way]->times.attention_s), 3),
                            cell(slowest(ranks, attentions[way]->times.waiting_s), 3),
                            cell(spread_of(values[0]).median / spread_of(values[way]).median, 2)});
  }
  return table;
}

}  // namespace

Report run_tasp(const BenchOptions& options) {
  if (options.ranks == nullptr || options.ranks->size() < 2)
    fail(
        ErrorKind::kInvalidInput,
        "bench tasp measures several ranks: start it as `mpirun -n 4 weft bench tasp --threads 1`, "
        "or let tools/testbed.sh start it on shaped links");
  const Communicator& ranks = *options.ranks;
  ThreadPool pool(options.threads.front());
  const CoreSet cores = pool.cores();
  if (ranks.size() % options.tasp.nodes != 0)
    fail(ErrorKind::kInvalidInput, "--nodes {}: {} ranks are not as many on each", options.tasp.nodes,
         ranks.size());
  const int rounds = options.tasp.rounds != 0 ? options.tasp.rounds : options.quick ? 3 : 5;
  const size_t heads = options.tasp.heads != 0 ? options.tasp.heads : 8;
  std::vector<size_t> lengths = options.tasp.tokens;
  if (lengths.empty()) {
    for (const size_t about : {size_t{2048}, size_t{4096}, size_t{8192}}) {
      if (options.quick && about > 2048) break;
      // Whole pages in every piece: then all links carry the same.
      const size_t unit = 2 * ranks.size() * (ranks.size() - 1) * kernels::kPageTokens;
      lengths.push_back((about + unit - 1) / unit * unit);
    }
  }

  Report report;
  report.bench = "tasp";
  report.notes.push_back(fmt::format(
      "{} ranks, {} {} each; {} heads of {}, as many of keys and values, f16. Seconds until the "
      "slowest rank is done, medians of\n{} rounds in turn. The bound of transfers is what Ring "
      "needs for the same bytes over one link of each rank, divided by the links\nthat the "
      "exchange "
      "uses. Ratios above 1 are faster than the baseline.",
      ranks.size(), options.threads.front(), options.threads.front() == 1 ? "thread" : "threads",
      heads, kHeadDim, rounds));
  Table table{
      "attention",
      {"exchange", "mask", "tokens", "transfers alone", "attention alone", "both at once",
       "exposed", "transfers / bound", "vs Ring", "vs Zigzag-Ring", "link imbalance", "foretold"},
      {}};
  Totals totals;
  for (const bool causal : {true, false}) {
    if (options.tasp.mask == (causal ? "full" : "causal")) continue;
    for (const size_t tokens : lengths)
      measure_attention(options, causal, tokens, heads, rounds, cores, table, totals);
  }
  const auto named = parallel::named_exchanges(ranks.size(), options.tasp.nodes);
  report.notes.push_back(fmt::format("--exchange auto takes {} here.",
                                     named[parallel::quickest(ranks, named)].name));
  report.tables.push_back(std::move(table));
  if (!options.quick && !options.tasp.transfers_alone)
    for (const auto& path : options.models)
      report.tables.push_back(measure_model(options, path, rounds, cores));
  report.summary["speedup_vs_ring"] =
      *std::max_element(totals.vs_ring.begin(), totals.vs_ring.end());
  if (!totals.vs_zigzag.empty())
    report.summary["speedup_vs_zigzag"] =
        *std::max_element(totals.vs_zigzag.begin(), totals.vs_zigzag.end());
  report.summary["comm_over_bound"] = spread_of(totals.over_bound).median;
  report.summary["link_imbalance"] =
      *std::max_element(totals.imbalance.begin(), totals.imbalance.end());
  if (!totals.errors.empty())
    report.summary["median_prediction_error"] = spread_of(totals.errors).median;
  return report;
}

}  // namespace weft::bench
