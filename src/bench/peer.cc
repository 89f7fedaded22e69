#include "bench/peer.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace weft::bench {

std::vector<double> parse_llama_bench(std::string_view json, const PeerTest& test) {
  try {
    for (const auto& row : nlohmann::json::parse(json)) {
      if (row.at("n_prompt") == test.prompt_tokens && row.at("n_gen") == test.generated_tokens &&
          row.at("n_depth") == test.depth && row.at("n_threads") == test.threads) {
        auto samples = row.at("samples_ts").get<std::vector<double>>();
        if (!samples.empty()) return samples;
      }
    }
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorKind::kInvalidInput, "llama-bench printed something else than its JSON: {}",
         error.what());
  }
  fail(ErrorKind::kInvalidInput,
       "llama-bench did not report the test of {} prompt and {} generated tokens at {}",
       test.prompt_tokens, test.generated_tokens, test.depth);
}

Peer::Peer(std::filesystem::path llama_bench, StopToken stop)
    : llama_bench_(std::move(llama_bench)), stop_(stop) {
  if (access(llama_bench_.c_str(), X_OK) != 0) {
    fail(ErrorKind::kNotFound,
         "--peer {}: no such program. tools/build_peer.sh builds one as "
         "build/peer/bin/llama-bench.",
         llama_bench_.string());
  }
}

double Peer::tokens_per_second(const PeerTest& test, const std::string& flash_attention) const {
  const ChildResult child = run_child({llama_bench_.string(),
                                       "-m",
                                       test.model.string(),
                                       "-t",
                                       std::to_string(test.threads),
                                       "-p",
                                       std::to_string(test.prompt_tokens),
                                       "-n",
                                       std::to_string(test.generated_tokens),
                                       "-d",
                                       std::to_string(test.depth),
                                       "-ctk",
                                       test.cache_type,
                                       "-ctv",
                                       test.cache_type,
                                       "-fa",
                                       flash_attention,
                                       "-r",
                                       "1",
                                       "-o",
                                       "json"},
                                      stop_);
  if (child.exit_code != 0)
    fail(ErrorKind::kInvalidInput, "{} ended with {}: {}", llama_bench_.string(), child.exit_code,
         child.error_tail);
  return parse_llama_bench(child.out, test).front();
}

std::optional<ChildResult> Peer::complete(const std::filesystem::path& model,
                                          std::string_view prompt, size_t threads,
                                          size_t context) const {
  const std::filesystem::path program = llama_bench_.parent_path() / "llama-completion";
  if (access(program.c_str(), X_OK) != 0) return std::nullopt;
  ChildResult child =
      run_child({program.string(), "-m", model.string(), "-t", std::to_string(threads), "-c",
                 std::to_string(context), "-n", "1", "-p", std::string(prompt), "-no-cnv",
                 "--no-display-prompt", "--no-warmup"},
                stop_);
  if (child.exit_code != 0)
    fail(ErrorKind::kInvalidInput, "{} ended with {}: {}", program.string(), child.exit_code,
         child.error_tail);
  return child;
}

BesidePeer measure_beside(const std::optional<Peer>& peer, const PeerTest& test, int rounds,
                          const std::function<double()>& ours, const BenchOptions& options,
                          const std::function<void()>& measured) {
  const auto counted = [&](double value) {
    if (measured) measured();
    return value;
  };
  std::string flash_attention = "auto";
  if (peer && !options.quick &&
      peer->tokens_per_second(test, "on") > peer->tokens_per_second(test, "auto"))
    flash_attention = "on";
  std::vector<std::function<double()>> contestants = {[&] { return counted(ours()); }};
  if (peer)
    contestants.emplace_back(
        [&] { return counted(peer->tokens_per_second(test, flash_attention)); });
  const auto values = alternate(rounds, contestants, options.stop, WarmUp::kNone);
  BesidePeer result{spread_of(values[0]), std::nullopt};
  if (peer) result.peer = spread_of(values[1]);
  return result;
}

}  // namespace weft::bench
