// llama.cpp as the one to beat: its own llama-bench and llama-completion, run as a user would.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/interrupt.h"
#include "bench/bench.h"
#include "bench/child.h"
#include "bench/report.h"

namespace weft::bench {

// One of llama-bench's tests. prompt_tokens or generated_tokens is 0.
struct PeerTest {
  std::filesystem::path model;
  size_t threads = 1;
  size_t prompt_tokens = 0, generated_tokens = 0;
  size_t depth = 0;                // tokens in the context before
  std::string cache_type = "f16";  // of keys and values
};

// Reads llama-bench's JSON and gives the samples (tokens/s) of the one test that was asked for.
// kInvalidInput when it reports another test, or none.
std::vector<double> parse_llama_bench(std::string_view json, const PeerTest& test);

class Peer {
 public:
  // kNotFound unless `llama_bench` is an executable file.
  Peer(std::filesystem::path llama_bench, StopToken stop);

  // Tokens/s of one repetition (llama-bench warms up first). `flash_attention` is its -fa: "auto"
  // (the default), "on" or "off".
  double tokens_per_second(const PeerTest& test, const std::string& flash_attention) const;

  // A run of llama-completion that stands beside llama-bench; nothing if it does not. `context` 0
  // is its default. Warm-up is off: kinder to it, where time to the first token counts.
  std::optional<ChildResult> complete(const std::filesystem::path& model, std::string_view prompt,
                                      size_t threads, size_t context) const;

 private:
  std::filesystem::path llama_bench_;
  StopToken stop_;
};

// Tokens/s of ours and of the peer, taking turns.
struct BesidePeer {
  Spread ours;
  std::optional<Spread> peer;  // none was named
  double ratio() const { return ours.median / peer->median; }
};
// The peer is at its best: unless `quick`, a trial of both settings of flash attention chooses.
// `measured`, if any, is called after each measurement.
BesidePeer measure_beside(const std::optional<Peer>& peer, const PeerTest& test, int rounds,
                          const std::function<double()>& ours, const BenchOptions& options,
                          const std::function<void()>& measured = {});

}  // namespace weft::bench
