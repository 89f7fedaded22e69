// `weft bench ranks`: a prompt and an answer of one model over several ranks with tensor
// parallelism, its sums overlapped with what computes them and not, beside llama.cpp's RPC backend
// on the same hosts. And what each rank holds in memory, beside its share. Run it under mpirun;
// rank 0 leads the others as `weft generate` does, and reports.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/seconds.h"
#include "bench/bench.h"
#include "bench/rpc_peer.h"
#include "comm/handshake.h"
#include "formats/checkpoint.h"
#include "models/teams.h"
#include "parallel/crew.h"
#include "parallel/flash_overlap/team.h"
#include "parallel/overlap_switch.h"
#include "text/kv_cache.h"
#include "text/text_model.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;
using models::Token;

// ---- what is measured: rank 0's model, which leads the others', and one sequence of it

text::TextModel load(const std::filesystem::path& path, std::shared_ptr<parallel::Crew> crew,
                     size_t context, const CoreSet& cores) {
  text::TextModelOptions options;
  options.context = context;
  options.crew = std::move(crew);
  Progress progress("Loading", 0, "bytes");
  return text::TextModel::load(path, options, cores, progress.callback());
}

class Leader {
 public:
  Leader(const std::filesystem::path& path, const std::shared_ptr<parallel::Crew>& crew,
         size_t context, const CoreSet& cores)
      : cores_(cores),
        // A prompt's piece, as `weft generate` cuts it.
        piece_(crew->plan.sequence == 1 ? 512 : 1024 * crew->plan.sequence),
        model_(load(path, crew, context, cores)),
        cache_(model_.make_pool(context)),
        sequence_(cache_.create()),
        workspace_(model().make_workspace()),
        logits_(model().config().vocab_size) {
    for (size_t i = 0; i < context; ++i)
      tokens_.push_back(static_cast<Token>(uniform(1, 0, static_cast<uint32_t>(i)) *
                                           static_cast<double>(logits_.size())));
  }

  const models::LanguageModel& model() const { return model_.model(); }
  const std::vector<float>& logits() const {
    return logits_;
  }  // after the last token that was read

  // Seconds from an empty context until the logits after the last of the tokens.
  double prefill(size_t count) {
    cache_.truncate(sequence_, 0);
    const auto begin = Clock::now();
    for (size_t done = 0; done < count;) {
      const size_t now = std::min({piece_, count - done, cache_.max_piece(sequence_)});
      read(now, done + now == count);
      done += now;
    }
    return seconds_since(begin);
  }

  // The same, one token after the other.
  double decode(size_t count) {
    cache_.truncate(sequence_, 0);
    const auto begin = Clock::now();
    for (size_t i = 0; i < count; ++i) read(1, true);
    return seconds_since(begin);
  }

 private:
  void read(size_t count, bool with_logits) {
    const size_t position = cache_.length(sequence_);
    WEFT_ASSERT(cache_.reserve(sequence_, count));
    const models::SequenceInput input{
        .sequence = sequence_,
        .tokens = std::span(tokens_).subspan(position, count),
        .first_position = position,
        .logits = with_logits ? models::LogitsWanted::kLast : models::LogitsWanted::kNone};
    model().forward({&input, 1}, cache_, logits_.data(), *workspace_, cores_);
  }

  CoreSet cores_;
  size_t piece_;
  text::TextModel model_;
  text::KvCache cache_;
  text::SequenceId sequence_;
  std::unique_ptr<models::Workspace> workspace_;
  std::vector<float> logits_;
  std::vector<Token> tokens_;
};

struct Measured {
  Spread prefill_on, prefill_off, decode;  // tokens/s
  Spread speedup;                          // of overlap, by single rounds
  double tuning_s = 0;                     // what the first overlapped prefill took longer
};

Spread rates(const std::vector<double>& seconds, size_t tokens) {
  std::vector<double> out;
  for (const double s : seconds) out.push_back(static_cast<double>(tokens) / s);
  return spread_of(std::move(out));
}

// Two rounds, and as many more as fit into so many seconds, of `most` at most.
std::vector<std::vector<double>> alternate_for(double seconds, int most,
                                               std::span<const std::function<double()>> ways,
                                               StopToken stop) {
  const auto begin = Clock::now();
  auto values = alternate(2, ways, stop, WarmUp::kNone);
  const double taken_s = seconds_since(begin);
  const int more = static_cast<int>(std::clamp(2 * (seconds - taken_s) / taken_s, 0.0, most - 2.0));
  const auto others = alternate(more, ways, stop, WarmUp::kNone);
  for (size_t way = 0; way < ways.size(); ++way)
    values[way].insert(values[way].end(), others[way].begin(), others[way].end());
  return values;
}

Measured measure(Leader& leader, const BenchOptions& options) {
  const size_t prompt = options.crew.prompt_tokens, answer = options.crew.answer_tokens;
  const auto prefill = [&](bool overlap) {
    parallel::set_overlap(leader.model(), overlap);
    return leader.prefill(prompt);
  };
  prefill(false);  // warms up
  const std::vector<float> expected = leader.logits();
  options.stop.throw_if_stopped();
  const double first_s = prefill(true);  // tunes
  if (leader.logits() != expected)
    fail(ErrorKind::kInvalidInput,
         "bench ranks: overlapped sums give other logits than plain ones");

  const std::vector<std::function<double()>> ways = {[&] { return prefill(false); },
                                                     [&] { return prefill(true); }};
  const auto values =
      alternate_for(options.quick ? 16 : 90, options.quick ? 7 : 15, ways, options.stop);
  const std::vector<std::function<double()>> decode = {[&] { return leader.decode(answer); }};
  const auto answers = alternate(options.quick ? 3 : 7, decode, options.stop);

  std::vector<double> ratios;
  for (size_t i = 0; i < values[0].size(); ++i) ratios.push_back(values[0][i] / values[1][i]);
  return {.prefill_on = rates(values[1], prompt),
          .prefill_off = rates(values[0], prompt),
          .decode = rates(answers[0], answer),
          .speedup = spread_of(std::move(ratios)),
          .tuning_s = std::max(0.0, first_s - spread_of(values[1]).median)};
}

// ---- memory

// Of `tokens` tokens' keys and values in 16 bit, rank r's part.
size_t kv_bytes(const parallel::RankPlan& plan, const models::LanguageModelConfig& config,
                size_t tokens, size_t rank) {
  const size_t pages = (tokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
  const size_t teams = plan.divides_cache() ? plan.sequence : 1;
  const size_t row = rank / plan.tensor % teams;
  const size_t own_pages = (pages + teams - 1 - row) / teams;  // row, row + teams, ...
  const models::Share heads =
      models::share(config.num_kv_heads, 1, rank % plan.tensor, plan.tensor);
  return config.num_layers * own_pages *
         kernels::KvShape{heads.size(), config.head_dim}.page_bytes(kernels::KvFormat::kF16);
}

Table memory_table(const parallel::RankPlan& plan, const std::filesystem::path& path,
                   const Leader& leader, const BenchOptions& options,
                   const std::vector<uint64_t>& before, Report& report) {
  const auto mib = [](double bytes) { return cell(bytes / (1 << 20), 1); };
  const models::LanguageModelConfig& config = leader.model().config();
  const size_t tokens = std::max(options.crew.prompt_tokens, options.crew.answer_tokens);
  const auto checkpoint = formats::open_checkpoint(path);
  const auto whole = models::plan_memory(*checkpoint, kernels::KvFormat::kF16, tokens);
  const size_t whole_kv = kv_bytes({}, config, tokens, 0);
  const size_t kv_parts = plan.tensor * (plan.divides_cache() ? plan.sequence : 1);
  const double share = static_cast<double>(whole.weight_bytes) / static_cast<double>(plan.tensor) +
                       static_cast<double>(whole_kv) / static_cast<double>(kv_parts);
  Table table{fmt::format("memory, MiB: the whole model has {:.1f} of weights, {} tokens {:.1f} of "
                          "keys and values",
                          static_cast<double>(whole.weight_bytes) / (1 << 20), tokens,
                          static_cast<double>(whole_kv) / (1 << 20)),
              {"rank", "share", "weights", "keys and values", "both / share", "all of its own",
               "before loading", "all / share"},
              {}};
  double most_told = 0, most_own = 0;
  const std::vector<parallel::RankMemory> ranks = parallel::memory_of_ranks(leader.model());
  for (size_t r = 0; r < ranks.size(); ++r) {
    const auto weights = static_cast<double>(ranks[r].weight_bytes);
    const auto own = static_cast<double>(ranks[r].own_bytes);
    const auto kv = static_cast<double>(kv_bytes(plan, config, tokens, r));
    most_told = std::max(most_told, (weights + kv) / share);
    most_own = std::max(most_own, own / share);
    table.rows.push_back({cell(std::to_string(r)), mib(share), mib(weights), mib(kv),
                          cell((weights + kv) / share, 3), mib(own),
                          mib(static_cast<double>(before[r])), cell(own / share, 3)});
  }
  report.summary["weights_and_cache_over_share"] = most_told;
  report.summary["memory_over_share"] = most_own;
  return table;
}

// ---- the report

Table tuning_table(const parallel::Crew& crew) {
  Table table{
      "what the overlap was tuned to: groups of tiles that are sent at a time; 1: no overlap",
      {"product on rank 0", "rows", "groups"},
      {}};
  if (const auto* const team =
          dynamic_cast<const parallel::flash_overlap::OverlappedTeam*>(crew.team.get()))
    for (const auto& tuned : team->tuned())
      table.rows.push_back({cell(fmt::format("{} x {}", tuned.outputs, tuned.features)),
                            cell(static_cast<double>(tuned.rows), 0),
                            cell(static_cast<double>(tuned.group_ends.size()), 0)});
  return table;
}

Spread best(const std::vector<RpcRun>& runs, Spread RpcRun::*what) {
  Spread out;
  for (const RpcRun& run : runs)
    if ((run.*what).median > out.median) out = run.*what;
  return out;
}

// Ours beside the best of the peer's.
Table speed_table(const std::filesystem::path& model, const BenchOptions& options,
                  const Measured& ours, const std::vector<RpcRun>& peer, Report& report) {
  Table table{model.stem().string(),
              {"tokens/s", "overlap on", "overlap off", "on / off", "llama.cpp RPC", "on / its"},
              {}};
  const auto beside = [&](std::vector<Cell> row, const Spread& on, Spread RpcRun::*what,
                          const char* name) {
    if (peer.empty()) {
      row.insert(row.end(), 2, no_cell());
    } else {
      const Spread its = best(peer, what);
      row.push_back(cell(its, 2));
      row.push_back(cell(on.median / its.median, 2));
      report.summary[name] = on.median / its.median;
    }
    table.rows.push_back(std::move(row));
  };
  report.summary["overlap_speedup"] = ours.speedup.median;
  beside({cell(fmt::format("prompt of {}", options.crew.prompt_tokens)), cell(ours.prefill_on, 1),
          cell(ours.prefill_off, 1), cell(ours.speedup, 3)},
         ours.prefill_on, &RpcRun::prefill, "vs_peer_prefill");
  beside({cell(fmt::format("answer of {}", options.crew.answer_tokens)), cell(ours.decode, 2),
          no_cell(), no_cell()},
         ours.decode, &RpcRun::decode, "vs_peer_decode");
  report.summary["prefill_tokens_per_s"] = ours.prefill_on.median;
  report.summary["prefill_tokens_per_s_overlap_off"] = ours.prefill_off.median;
  report.summary["decode_tokens_per_s"] = ours.decode.median;
  report.summary["tuning_s"] = ours.tuning_s;
  return table;
}

Table peer_table(const std::vector<RpcRun>& runs) {
  Table table{"llama.cpp over RPC, tokens/s", {"its layers are", "prompt", "answer"}, {}};
  for (const RpcRun& run : runs)
    table.rows.push_back({cell(run.layers), cell(run.prefill, 2), cell(run.decode, 2)});
  return table;
}

// What cannot be is said before the peer's minutes.
parallel::RankPlan plan_of(const RanksBenchOptions& asked, const formats::Checkpoint& checkpoint,
                           size_t num_ranks) {
  parallel::RankPlan plan;
  plan.sequence = asked.sequence;
  plan.tensor = asked.tensor != 0 ? asked.tensor : std::max<size_t>(1, num_ranks / asked.sequence);
  if (plan.tensor == 1)
    fail(ErrorKind::kInvalidInput,
         "bench ranks measures the sums of tensor parallelism: take --tensor-parallel 2 or more");
  const models::LanguageModelConfig config = models::read_config(checkpoint);
  if (plan.tensor > config.num_kv_heads)
    fail(ErrorKind::kInvalidInput,
         "{}: has {} heads of keys and values, so tensor parallelism divides it among {} ranks at "
         "most; {} were asked for. Give the others another part: --tensor-parallel {} "
         "--sequence-parallel {}",
         checkpoint.name(), config.num_kv_heads, config.num_kv_heads, plan.tensor,
         config.num_kv_heads, (num_ranks + config.num_kv_heads - 1) / config.num_kv_heads);
  if (const size_t most = std::max(asked.prompt_tokens, asked.answer_tokens);
      most > config.context_length)
    fail(ErrorKind::kInvalidInput, "{}: has a context of {} tokens; {} were asked for",
         checkpoint.name(), config.context_length, most);
  return plan;
}

// Bytes of each rank's own memory now. All ranks together.
std::vector<uint64_t> own_memory(const comm::Communicator& ranks) {
  std::vector<uint64_t> all(ranks.size());
  all[ranks.rank()] = resident_memory().anonymous_bytes;
  std::vector<size_t> begins(ranks.size() + 1);
  for (size_t r = 0; r < begins.size(); ++r) begins[r] = r * sizeof(uint64_t);
  ranks.all_gather(comm::writable_bytes_of(std::span(all)), begins);
  return all;
}

}  // namespace

Report run_ranks(const BenchOptions& options) {
  if (options.ranks == nullptr || options.ranks->size() < 2)
    fail(ErrorKind::kInvalidInput,
         "bench ranks measures several ranks: start it as `mpirun -n 2 weft bench ranks --threads "
         "1`, or let tools/testbed.sh start it on shaped links");
  const comm::Communicator& ranks = *options.ranks;
  const std::filesystem::path& path = options.models.front();
  const size_t threads = options.threads.front();
  std::shared_ptr<const formats::Checkpoint> checkpoint = formats::open_checkpoint(path);
  const parallel::RankPlan plan = plan_of(options.crew, *checkpoint, ranks.size());
  const std::string planned =
      fmt::format("{}, {} {}", plan.describe(), threads, threads == 1 ? "thread" : "threads");
  comm::shake_hands(ranks, {.version = WEFT_VERSION,
                            .model = parallel::fingerprint(*checkpoint),
                            .plan = planned + (options.peer ? ", beside llama.cpp" : "")});
  const auto crew = parallel::make_crew(ranks, plan);
  std::vector<RpcRun> peer;
  if (options.peer)
    peer = measure_rpc_peer(ranks,
                            {.llama_bench = *options.peer,
                             .model = path,
                             .num_layers = models::read_config(*checkpoint).num_layers,
                             .threads = threads,
                             .prompt_tokens = options.crew.prompt_tokens,
                             .answer_tokens = options.crew.answer_tokens,
                             .repetitions = options.quick ? size_t{1} : size_t{5},
                             .all_divisions = !options.quick},
                            options.stop);

  ThreadPool pool(threads);
  const std::vector<uint64_t> before = own_memory(ranks);
  if (ranks.rank() != 0) {
    const auto share =
        models::load_language_model(std::move(checkpoint), pool.cores(), {},
                                    models::HeadLoading::kNow, nullptr, {}, crew->team);
    text::KvCopies copies(*share, crew->row());
    parallel::follow(*crew, *share, copies, pool.cores());
    return {};
  }
  Leader leader(path, crew, std::max(options.crew.prompt_tokens, options.crew.answer_tokens),
                pool.cores());
  const Measured ours = measure(leader, options);

  Report report;
  report.bench = "ranks";
  report.notes.push_back(fmt::format(
      "{} ranks: {} each. Medians of {} prompts with overlap and as many without, in turns; 'on / "
      "off' "
      "is that of single rounds.\nAn answer begins in an empty context. Tuning the overlap took "
      "{:.1f} "
      "s before; it is done once for a model on these links\n(--overlap-tunings of generate and "
      "serve).\n'all of its own' is what the system counts for the process: weights, keys and "
      "values, "
      "room to work in, and the program\nitself, which has 'before loading' of it.",
      ranks.size(), planned, ours.prefill_on.count, ours.tuning_s));
  if (!peer.empty())
    report.notes.push_back(
        fmt::format("llama.cpp ran before, on the same hosts with as many threads on each: "
                    "llama-bench -r {}, its "
                    "servers on all hosts but the first.",
                    peer.front().prefill.count));
  report.tables.push_back(speed_table(path, options, ours, peer, report));
  if (!peer.empty()) report.tables.push_back(peer_table(peer));
  report.tables.push_back(tuning_table(*crew));
  report.tables.push_back(memory_table(plan, path, leader, options, before, report));
  return report;
}

}  // namespace weft::bench
