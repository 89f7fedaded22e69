// llama.cpp over the hosts of a job: its llama-bench on rank 0's, its ggml-rpc-server on each other
// rank's, as a user would start them. It divides a model by layers: hosts take turns.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/interrupt.h"
#include "bench/report.h"
#include "comm/communicator.h"

namespace weft::bench {

struct RpcTest {
  std::filesystem::path llama_bench;  // ggml-rpc-server lies beside it, on every host
  std::filesystem::path model;        // rank 0's alone: the others are sent what they compute with
  size_t num_layers = 0;              // of the model
  size_t threads = 1;                 // of each host
  size_t prompt_tokens = 0, answer_tokens = 0;
  size_t repetitions = 1;
  bool all_divisions = false;  // or layers in equal shares on all hosts alone
};

// A way to divide the layers, and tokens/s.
struct RpcRun {
  std::string layers;
  Spread prefill, decode;
};

// All ranks call it. Rank 0 gets the runs, the others nothing. Servers are gone when it returns,
// however it does. kNotFound: a program is missing, or hosts share no network. kTimeout,
// kInvalidInput: a server does not start, or llama-bench fails.
std::vector<RpcRun> measure_rpc_peer(const comm::Communicator& ranks, const RpcTest& test,
                                     StopToken stop);

// llama-bench's arguments. Of the layers, and the head behind them, the last `offloaded` are on the
// servers ("10.77.1.1:41000,10.77.2.1:40000"), of which each has as many.
std::vector<std::string> llama_bench_over_rpc(const RpcTest& test, const std::string& servers,
                                              size_t num_servers, size_t offloaded);
// Of them, so many that rank 0 keeps its equal share of the layers.
size_t equal_offload(size_t num_layers, size_t num_ranks);

}  // namespace weft::bench
