// `weft bench http`: a server streams many answers at once; how much of its time is HTTP's (reading
// requests, templates, tokens into text, JSON, sockets), and how much the computation's. By the CPU
// time of each thread, as the system counts it.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "base/error.h"
#include "bench/bench.h"
#include "bench/serve_run.h"
#include "models/language_model.h"

namespace weft::bench {
namespace {

struct ThreadTime {
  std::string name;
  double seconds = 0;
};

// By thread id. Those that have ended are gone.
std::map<int, ThreadTime> thread_times(int pid) {
  std::map<int, ThreadTime> out;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
    std::ifstream file(entry.path() / "schedstat");
    double on_cpu_ns = 0;
    if (!(file >> on_cpu_ns)) continue;
    std::string name;
    std::getline(std::ifstream(entry.path() / "comm") >> std::ws, name);
    out[std::stoi(entry.path().filename())] = {name, on_cpu_ns * 1e-9};
  }
  return out;
}

}  // namespace

Report run_http(const BenchOptions& options) {
  if (options.models.size() != 1)
    fail(ErrorKind::kInvalidInput, "bench http takes one --model at a time");
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string threads =
      std::to_string(*std::max_element(options.threads.begin(), options.threads.end()));
  const size_t vocab_size =
      models::read_config(*formats::open_checkpoint(options.models.front())).vocab_size;
  Report report;
  report.bench = "http";
  report.notes.push_back(fmt::format(
      "{} with {} threads: /v1/completions, streamed; a prompt of 32 tokens for each answer.",
      options.models.front().filename().string(), threads));
  Table table{.name = "CPU time of the server's threads",
              .columns = {"streams", "tokens/s", "compute s", "HTTP s", "HTTP %", "us/token"},
              .rows = {}};
  for (const size_t streams : {size_t{1}, size_t{8}, size_t{32}}) {
    std::vector<double> shares;
    std::vector<Cell> row;
    for (int round = 0; round < (options.quick ? 1 : 3); ++round) {
      const int port = free_port();
      const ServerProcess server({self, "serve", "--model", options.models.front().string(),
                                  "--threads", threads, "--port", std::to_string(port)},
                                 port, options.stop);
      const std::vector<LoadRequest> load(
          streams,
          {.prompt_tokens = 32, .answer_tokens = options.quick ? size_t{64} : size_t{192}});
      const auto before = thread_times(server.pid());
      const LoadOutcome outcome =
          run_over_http(port, load, vocab_size, 5 + static_cast<uint64_t>(round), options.stop);
      double http = 0, compute = 0, tokens = 0;
      for (const auto& [id, now] : thread_times(server.pid())) {
        const auto then = before.find(id);
        const double seconds = now.seconds - (then == before.end() ? 0 : then->second.seconds);
        (now.name == "weft-http" ? http : compute) += seconds;
      }
      for (const RequestOutcome& r : outcome.requests) {
        if (!r.answered) fail(ErrorKind::kIo, "bench http: a request was not answered");
        tokens += static_cast<double>(r.tokens);
      }
      shares.push_back(http / (http + compute));
      row = {cell(static_cast<double>(streams), 0),
             cell(tokens / outcome.seconds, 0),
             cell(compute, 2),
             cell(http, 3),
             cell(spread_of(shares).median * 100, 1),
             cell(http / tokens * 1e6, 1)};
    }
    table.rows.push_back(std::move(row));
    if (streams == 32) report.summary["http_share_32"] = spread_of(shares).median;
  }
  report.tables.push_back(std::move(table));
  return report;
}

}  // namespace weft::bench
