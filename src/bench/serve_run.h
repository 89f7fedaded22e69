// Runs a load against a server, in this process or over HTTP, and says how each request fared.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/interrupt.h"
#include "bench/serve_load.h"
#include "serve/phase_executor.h"

namespace weft::bench {

// Abandoned and refused requests are misses.
struct RequestOutcome {
  bool answered = false;
  double ttft_s = 0;         // arrival to first token
  double tpot_s = 0;         // mean gap of the later tokens; 0 for a single one
  double longest_gap_s = 0;  // between two tokens
  size_t tokens = 0;
  std::string text = {};  // over HTTP
};

struct LoadOutcome {
  std::vector<RequestOutcome> requests;
  double seconds = 0;      // until the last answer
  double span_s = 0;       // of the arrivals
  double cpu_seconds = 0;  // of this process
};

// Tokens of request number `request`: random, so that no two prompts begin alike.
std::vector<int32_t> random_prompt(size_t request, size_t tokens, size_t vocab_size, uint64_t seed);

LoadOutcome run_in_process(serve::PhaseExecutor& executor, const std::vector<LoadRequest>& load,
                           size_t vocab_size, uint64_t seed, StopToken stop);

// Against /v1/completions on this machine, streamed; a thread for each request that runs.
LoadOutcome run_over_http(int port, const std::vector<LoadRequest>& load, size_t vocab_size,
                          uint64_t seed, StopToken stop);

// A server program that runs as long as this lives.
class ServerProcess {
 public:
  // Starts `command` and waits until http://127.0.0.1:port/health says 200. kNotFound, kTimeout.
  ServerProcess(const std::vector<std::string>& command, int port, StopToken stop);
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;
  int pid() const { return pid_; }

 private:
  int pid_;
};
int free_port();

// What a server on this machine says at /metrics. kIo.
std::string fetch_metrics(int port);
// The first value of a metric in that text; nothing where there is none of this name.
std::optional<double> metric_value(std::string_view metrics, std::string_view name);

struct Slo {
  double ttft_s, tpot_s;
};
double attainment(const LoadOutcome& outcome, const Slo& slo);  // share of all requests
// Requests per second that were answered within the SLO.
double goodput(const LoadOutcome& outcome, const Slo& slo);
// The p-quantile over the answered requests; 0 if there are none.
double quantile(const LoadOutcome& outcome, double RequestOutcome::*value, double p);

}  // namespace weft::bench
