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
#include "base/thread_pool.h"
#include "bench/bench.h"
#include "comm/communicator.h"
#include "formats/checkpoint.h"
#include "parallel/crew.h"
#include "parallel/exchange_choice.h"
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
std::vector<Way> ways(size_t num_ranks, bool causal) {
  std::vector<Way> out;
  out.push_back({"Ring", parallel::ring_exchange(num_ranks), false});
  if (causal) out.push_back({"Zigzag-Ring", parallel::ring_exchange(num_ranks), true});
  out.push_back({"TASP", parallel::tasp::full_mesh_exchange(num_ranks), causal});
  out.push_back({"direct", parallel::direct_exchange(num_ranks), causal});
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

// One layer's attention of a sequence that is divided among the ranks.
class Sequence {
 public:
  Sequence(const Communicator& ranks, size_t tokens, size_t heads, bool causal,
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
    for (Way& way : ways(ranks.size(), causal)) {
      names_.push_back(way.name);
      attentions_.push_back(
          std::make_unique<ExchangedAttention>(ranks, std::move(way.exchange), way.zigzag, causal));
    }
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
    ranks_.barrier();
    const auto begin = Clock::now();
    attention.begin(pages_, 0, 0, tokens_);
    attention.attend(shape_, 0, q_.data(), q_.data(), q_.data(), out_.data(), cores_);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    attention.part = SpreadPart::kAll;
    return slowest(ranks_, seconds);
  }

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
  std::vector<float> q_, out_;
};

// What every way puts on the links, in one run: (most - least) / most over the directed links.
double link_imbalance(const Communicator& ranks, Sequence& sequence, size_t way) {
  const std::vector<double> before = sent_bytes(ranks);
  // sent_bytes() and slowest() send the same on every link; what is left is the exchange's.
  sequence.run(way, SpreadPart::kTransfers);
  const std::vector<double> after = sent_bytes(ranks), again = sent_bytes(ranks);
  double most = 0, least = 1e300;
  const size_t n = ranks.size();
  for (size_t from = 0; from < n; ++from)
    for (size_t to = 0; to < n; ++to) {
      if (from == to) continue;
      const size_t i = from * n + to;
      const double bytes = (after[i] - before[i]) - (again[i] - after[i]);
      most = std::max(most, bytes);
      least = std::min(least, bytes);
    }
  return most == 0 ? 0 : (most - least) / most;
}

struct Totals {
  std::vector<double> vs_ring, vs_zigzag, over_bound, imbalance, errors;
};

void measure_attention(const BenchOptions& options, bool causal, size_t tokens, size_t heads,
                       int rounds, const CoreSet& cores, Table& table, Totals& totals) {
  const Communicator& ranks = *options.ranks;
  Sequence sequence(ranks, tokens, heads, causal, cores);
  std::vector<std::function<double()>> runs;
  for (size_t way = 0; way < sequence.num_ways(); ++way)
    for (const SpreadPart part : {SpreadPart::kTransfers, SpreadPart::kAttention, SpreadPart::kAll})
      runs.emplace_back([&sequence, way, part] { return sequence.run(way, part); });
  const auto values = alternate(rounds, runs, options.stop);
  const auto median = [&](size_t way, size_t part) {
    return spread_of(values[way * 3 + part]).median;
  };
  // Ring has one link of each rank at work, and keeps it busy: it says what a link carries.
  const double n = static_cast<double>(ranks.size());
  const double link_bytes_per_s =
      (n - 1) * static_cast<double>(sequence.block_bytes()) / median(0, 0);
  const size_t baseline = causal ? 1 : 0;
  for (size_t way = 0; way < sequence.num_ways(); ++way) {
    const double imbalance = link_imbalance(ranks, sequence, way);
    const double transfer_s = median(way, 0), attention_s = median(way, 1), all_s = median(way, 2);
    const bool spreads = way > baseline;  // over all links
    const double bound = spreads ? median(0, 0) / (n - 1) : median(0, 0);
    table.rows.push_back({cell(sequence.name(way)), cell(causal ? "causal" : "full"),
                          cell(static_cast<double>(tokens), 0), cell(spread_of(values[way * 3]), 4),
                          cell(spread_of(values[way * 3 + 1]), 4),
                          cell(spread_of(values[way * 3 + 2]), 4),
                          cell(std::max(0.0, all_s - attention_s), 4), cell(transfer_s / bound, 2),
                          cell(median(0, 2) / all_s, 2),
                          causal ? cell(median(1, 2) / all_s, 2) : no_cell(), percent(imbalance)});
    if (sequence.name(way) != "TASP") continue;
    totals.vs_ring.push_back(median(0, 2) / all_s);
    if (causal) totals.vs_zigzag.push_back(median(1, 2) / all_s);
    totals.over_bound.push_back(transfer_s / bound);
    totals.imbalance.push_back(imbalance);
  }
  // What the model of costs foretells from the links' rate and this attention's speed.
  const comm::Topology topology =
      options.tasp.topology.empty()
          ? comm::Topology::full_mesh(ranks.size(),
                                      {.latency_s = 1e-4, .bytes_per_s = link_bytes_per_s})
          : comm::Topology::read(options.tasp.topology);
  const double pairs =
      static_cast<double>(tokens) * static_cast<double>(tokens) * (causal ? 0.5 : 1.0) / n;
  parallel::AttentionWork work{
      .num_heads = heads,
      .num_kv_heads = heads,
      .head_dim = kHeadDim,
      .bytes_per_value = 2,
      .flops_per_s = 4 * pairs * static_cast<double>(heads * kHeadDim) / median(baseline, 1)};
  for (size_t way = 0; way < sequence.num_ways(); ++way) {
    const parallel::Placement placement{.num_tokens = tokens,
                                        .num_ranks = ranks.size(),
                                        .num_pieces = sequence.exchange(way).num_pieces,
                                        .causal = causal,
                                        .zigzag = causal && way != 0};
    const double foretold =
        parallel::predict(sequence.exchange(way), placement, topology, work).total_s;
    const double error = std::abs(foretold - median(way, 2)) / median(way, 2);
    totals.errors.push_back(error);
    table.rows[table.rows.size() - sequence.num_ways() + way].push_back(cell(foretold, 4));
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
    for (Way& way : ways(ranks.size(), true)) {
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
        return slowest(ranks, std::chrono::duration<double>(Clock::now() - begin).count());
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
  const int rounds = options.quick ? 3 : 5;
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
  for (const bool causal : {true, false})
    for (const size_t tokens : lengths)
      measure_attention(options, causal, tokens, heads, rounds, cores, table, totals);
  report.tables.push_back(std::move(table));
  if (!options.quick)
    for (const auto& path : options.models)
      report.tables.push_back(measure_model(options, path, rounds, cores));
  report.summary["speedup_vs_ring"] =
      *std::max_element(totals.vs_ring.begin(), totals.vs_ring.end());
  report.summary["speedup_vs_zigzag"] =
      *std::max_element(totals.vs_zigzag.begin(), totals.vs_zigzag.end());
  report.summary["comm_over_bound"] = spread_of(totals.over_bound).median;
  report.summary["link_imbalance"] =
      *std::max_element(totals.imbalance.begin(), totals.imbalance.end());
  report.summary["median_prediction_error"] = spread_of(totals.errors).median;
  return report;
}

}  // namespace weft::bench
