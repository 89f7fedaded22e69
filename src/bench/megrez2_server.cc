// Streamed experts as a server's users meet them: `weft serve` with all, half and a quarter of the
// experts in memory answers the same requests in turns, one and several at a time.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "bench/megrez2_tables.h"
#include "bench/serve_run.h"
#include "text/expert_stream/expert_memory.h"

namespace weft::bench {
namespace {

namespace fs = std::filesystem;

constexpr double kParts[] = {1.0, 0.5, 0.25};  // of all experts, in memory
constexpr size_t kStreams[] = {1, 4};          // answers at a time
constexpr size_t kContext = 256, kKvTokens = 1024, kPromptTokens = 64;

// What a server has counted so far, by its /metrics.
struct Counted {
  double hits = 0, misses = 0, bytes_read = 0, stall_s = 0;
  double own_bytes = 0;  // of memory, now

  explicit Counted(int port) {
    const std::string text = fetch_metrics(port);
    hits = metric_value(text, "weft_expert_hits_total").value_or(0);
    misses = metric_value(text, "weft_expert_misses_total").value_or(0);
    bytes_read = metric_value(text, "weft_expert_read_bytes_total").value_or(0);
    stall_s = metric_value(text, "weft_expert_stall_seconds_total").value_or(0);
    own_bytes = metric_value(text, "weft_memory_anonymous_bytes").value_or(0);
  }
};

// What one server did with one number of answers at a time.
struct Served {
  std::vector<double> tokens_per_s, ttft_s;  // by round; by request
  double hits = 0, misses = 0, bytes_read = 0, stall_s = 0, tokens = 0;
  std::vector<std::string> answers;  // of all rounds, in order
};

class Contestant {
 public:
  Contestant(const BenchOptions& options, const fs::path& model, const fs::path& pack,
             size_t threads, double part)
      : options_(options),
        part_(part),
        port_(free_port()),
        server_({fs::read_symlink("/proc/self/exe").string(), "serve", "--model", model.string(),
                 "--threads", std::to_string(threads), "--port", std::to_string(port_), "--context",
                 std::to_string(kContext), "--kv-tokens", std::to_string(kKvTokens),
                 "--expert-memory", fmt::format("{}%", 100 * part), "--expert-io", "direct",
                 "--expert-pack", pack.string()},
                port_, options.stop),
        vocab_size_(models::read_config(*formats::open_checkpoint(model)).vocab_size) {}

  double part() const { return part_; }
  double most_own_bytes() const { return most_own_bytes_; }

  // So many answers to prompts of `seed`. Tokens per second, the reading of the prompts included.
  double answer(size_t streams, size_t answer_tokens, uint64_t seed, Served& served) {
    const Counted before(port_);
    const std::vector<LoadRequest> load(
        streams, {.prompt_tokens = kPromptTokens, .answer_tokens = answer_tokens});
    const LoadOutcome outcome = run_over_http(port_, load, vocab_size_, seed, options_.stop);
    const Counted after(port_);
    double tokens = 0;
    for (const RequestOutcome& request : outcome.requests) {
      if (!request.answered)
        fail(ErrorKind::kIo, "bench megrez2: a server with {:.0f} % of its experts gave no answer",
             100 * part_);
      tokens += static_cast<double>(request.tokens);
      served.ttft_s.push_back(request.ttft_s);
      served.answers.push_back(request.text);
    }
    served.tokens += tokens;
    served.hits += after.hits - before.hits;
    served.misses += after.misses - before.misses;
    served.bytes_read += after.bytes_read - before.bytes_read;
    served.stall_s += after.stall_s - before.stall_s;
    most_own_bytes_ = std::max(most_own_bytes_, after.own_bytes);
    served.tokens_per_s.push_back(tokens / outcome.seconds);
    return served.tokens_per_s.back();
  }

 private:
  const BenchOptions& options_;
  double part_;
  int port_;
  ServerProcess server_;
  size_t vocab_size_;
  double most_own_bytes_ = 0;
};

// Weights, slots, KV cache and what a pass works in.
double planned_bytes(const fs::path& model, double part) {
  const models::MemoryPlan plan =
      models::plan_memory(*formats::open_checkpoint(model), kernels::KvFormat::kF16, kContext);
  const size_t kv_bytes = plan.kv_bytes_per_token * kKvTokens;
  const size_t slots =
      text::plan_expert_slots({.bytes = 0, .fraction = part}, plan, kv_bytes, model.string());
  const size_t experts =
      slots == plan.num_experts ? plan.expert_bytes : slots * text::expert_slot_bytes(plan);
  return static_cast<double>(plan.weight_bytes - plan.expert_bytes + experts + kv_bytes +
                             plan.scratch_bytes);
}

}  // namespace

void bench_server(const BenchOptions& options, const fs::path& model, const fs::path& pack,
                  size_t threads, Report& report) {
  const int rounds = options.quick ? 2 : 7;
  const size_t answer_tokens = options.quick ? 24 : 48;
  std::vector<std::unique_ptr<Contestant>> servers;
  for (const double part : kParts)
    servers.push_back(std::make_unique<Contestant>(options, model, pack, threads, part));
  Served unused;  // fills slots and page tables
  for (const auto& server : servers) server->answer(1, answer_tokens, 0, unused);

  std::vector<std::vector<Served>> served(std::size(kStreams), std::vector<Served>(servers.size()));
  {
    Progress progress("Serving", std::size(kStreams) * servers.size() * static_cast<size_t>(rounds),
                      "runs");
    for (size_t s = 0; s < std::size(kStreams); ++s) {
      std::vector<uint64_t> round(servers.size(), 0);  // other prompts in each, the same for all
      std::vector<std::function<double()>> contestants;
      for (size_t i = 0; i < servers.size(); ++i)
        contestants.emplace_back([&, i] {
          const double rate =
              servers[i]->answer(kStreams[s], answer_tokens, ++round[i], served[s][i]);
          progress.advance(1);
          return rate;
        });
      alternate(rounds, contestants, options.stop, WarmUp::kNone);
    }
  }

  Table table;
  table.name = fmt::format(
      "servers of {}, routed by its own gates (random weights: at random), read past the page "
      "cache: prompts of {} tokens, answers of {}",
      model.stem().string(), kPromptTokens, answer_tokens);
  table.columns = {"experts in memory", "at a time", "tokens/s",      "of all in memory",
                   "TTFT ms",           "hits",      "wait ms/token", "MB/token",
                   "own memory MB",     "of planned"};
  for (size_t s = 0; s < std::size(kStreams); ++s)
    for (size_t i = 0; i < servers.size(); ++i) {
      const Contestant& server = *servers[i];
      Served& now = served[s][i];
      if (now.answers != served[s][0].answers)
        fail(ErrorKind::kInvalidInput,
             "answers of a server with {:.0f} % of its experts in memory differ from those with "
             "all: a bug",
             100 * server.part());
      for (double& seconds : now.ttft_s) seconds *= 1e3;
      const double of_all = median_ratio(now.tokens_per_s, served[s][0].tokens_per_s);
      const bool streams = now.hits + now.misses > 0;
      table.rows.push_back(
          {percent(server.part()), cell(static_cast<double>(kStreams[s]), 0),
           cell(spread_of(now.tokens_per_s), 1), percent(of_all), cell(spread_of(now.ttft_s), 0),
           streams ? percent(now.hits / (now.hits + now.misses)) : no_cell(),
           streams ? cell(now.stall_s / now.tokens * 1e3, 1) : no_cell(),
           streams ? cell(now.bytes_read / now.tokens * 1e-6, 1) : no_cell(),
           cell(server.most_own_bytes() * 1e-6, 0),
           percent(server.most_own_bytes() / planned_bytes(model, server.part()))});
      if (server.part() == 0.5)
        report.summary[fmt::format("server_half_speed_{}", kStreams[s])] = of_all;
    }
  report.tables.push_back(std::move(table));
}

}  // namespace weft::bench
