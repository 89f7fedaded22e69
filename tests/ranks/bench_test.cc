// `weft bench ranks`, beside programs that stand in for llama.cpp's.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "tests/ranks/launch.h"

namespace weft::tests {
namespace {

// Goes with what is in it.
struct Folder {
  Folder() : path(fmt::format("{}/ranks-bench-{}", testing::TempDir(), getpid())) {
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const std::string& name) const { return path + "/" + name; }
  void write_script(const std::string& name, const std::string& text) const {
    std::ofstream(file(name)) << "#!/bin/sh\n" << text;
    std::filesystem::permissions(file(name), std::filesystem::perms::owner_all);
  }
  // Stand-ins: a server that leaves its number and listens, a bench that leaves its arguments.
  void write_peer(const std::string& bench) const {
    write_script("ggml-rpc-server", fmt::format("echo $$ >{}\nexec {} listen \"$@\"\n", file("pid"),
                                                WEFT_RANK_PROGRAM));
    write_script("llama-bench", fmt::format("echo \"$@\" >{}\n{}", file("arguments"), bench));
  }
  std::string path;
};

// mpirun of it, with an answer of 4 tokens.
Finished run_bench(size_t num_ranks, const std::vector<std::string>& more,
                   const std::string& prompt_tokens = "192") {
  std::vector<std::string> command = {"-n",
                                      std::to_string(num_ranks),
                                      WEFT_PROGRAM,
                                      "bench",
                                      "ranks",
                                      "--quick",
                                      "--threads",
                                      "1",
                                      "--model",
                                      tiny_model(1),
                                      "--prompt-tokens",
                                      prompt_tokens,
                                      "--answer-tokens",
                                      "4"};
  command.insert(command.end(), more.begin(), more.end());
  return mpirun(command);
}

nlohmann::json read_report(const Finished& run, const std::string& file) {
  EXPECT_EQ(run.exit_code, 0) << run.err;
  if (run.exit_code != 0) return {};
  return nlohmann::json::parse(read_file(file, 1 << 20));
}

// Of a process that nobody here has started. A long deadline turns a leftover into a failure.
bool has_ended(pid_t pid) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return errno == ESRCH;
  pollfd end{.fd = fd, .events = POLLIN, .revents = 0};
  const bool ended = poll(&end, 1, 30'000) > 0;
  close(fd);
  return ended;
}

// The share is a half of the weights and of the keys and values. Beyond it a rank has the other
// half of the norms: five of 256 values, beside products of two million.
TEST(ranks_bench, overlap_and_memory) {
  const Folder folder;
  const std::string file = folder.file("report.json");
  const auto report = read_report(run_bench(2, {"--json", file}), file);
  ASSERT_TRUE(report.is_object());
  const auto& summary = report.at("summary");
  for (const char* const name :
       {"overlap_speedup", "prefill_tokens_per_s", "prefill_tokens_per_s_overlap_off",
        "decode_tokens_per_s", "memory_over_share", "weights_and_cache_over_share"}) {
    EXPECT_TRUE(std::isfinite(summary.at(name).get<double>())) << name;
    EXPECT_GT(summary.at(name).get<double>(), 0) << name;
  }
  EXPECT_GE(summary.at("tuning_s").get<double>(), 0);
  EXPECT_FALSE(summary.contains("vs_peer_prefill"));
  EXPECT_LE(summary.at("weights_and_cache_over_share").get<double>(), 1.1);
  // All of a process holds what it says of weights, keys and values, and more.
  EXPECT_GE(summary.at("memory_over_share").get<double>(),
            summary.at("weights_and_cache_over_share").get<double>());
  const auto& memory = report.at("tables").back().at("rows");
  ASSERT_EQ(memory.size(), 2u);
  for (const auto& rank : memory) EXPECT_LE(rank.at("both / share").get<double>(), 1.1);
}

TEST(ranks_bench, both_ways_to_divide_a_model) {
  const Folder folder;
  const std::string file = folder.file("report.json");
  const auto report = read_report(
      run_bench(4, {"--tensor-parallel", "2", "--sequence-parallel", "2", "--json", file}, "320"),
      file);
  ASSERT_TRUE(report.is_object());
  EXPECT_EQ(report.at("tables").back().at("rows").size(), 4u);
  EXPECT_LE(report.at("summary").at("weights_and_cache_over_share").get<double>(), 1.1);
}

TEST(ranks_bench, stands_beside_llama_cpp) {
  const Folder folder;
  folder.write_peer(
      R"(echo '[{"n_threads": 1, "n_prompt": 192, "n_gen": 0, "n_depth": 0, "samples_ts": [90, 110]},
  {"n_threads": 1, "n_prompt": 0, "n_gen": 4, "n_depth": 0, "samples_ts": [10]}]')");
  const std::string file = folder.file("report.json");
  const auto report =
      read_report(run_bench(2, {"--peer", folder.file("llama-bench"), "--json", file}), file);
  ASSERT_TRUE(report.is_object());
  const auto& summary = report.at("summary");
  EXPECT_DOUBLE_EQ(summary.at("vs_peer_prefill").get<double>(),
                   summary.at("prefill_tokens_per_s").get<double>() / 100);
  EXPECT_DOUBLE_EQ(summary.at("vs_peer_decode").get<double>(),
                   summary.at("decode_tokens_per_s").get<double>() / 10);
  const std::string arguments = read_file(folder.file("arguments"), 1 << 16);
  // Two layers: one stays, one and the head are the server's.
  EXPECT_NE(arguments.find("-t 1 -p 192 -n 4 -r 1 -ngl 2 -ts 1 --rpc 127.0.0.1:"),
            std::string::npos)
      << arguments;
  EXPECT_TRUE(has_ended(std::stoi(read_file(folder.file("pid"), 100))));
}

TEST(ranks_bench, a_llama_bench_that_fails_leaves_no_server) {
  const Folder folder;
  folder.write_peer("echo 'out of memory' >&2\nexit 3\n");
  const Finished run = run_bench(2, {"--peer", folder.file("llama-bench")});
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.err.find("ended with 3: out of memory"), std::string::npos) << run.err;
  EXPECT_TRUE(has_ended(std::stoi(read_file(folder.file("pid"), 100))));
}

TEST(ranks_bench, a_server_that_does_not_start_is_told) {
  const Folder folder;
  folder.write_peer("");
  folder.write_script("ggml-rpc-server", "echo 'no such device'\nexit 1\n");
  const Finished run = run_bench(2, {"--peer", folder.file("llama-bench")});
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.err.find("ended at once: no such device"), std::string::npos) << run.err;
}

TEST(ranks_bench, what_cannot_be_is_refused) {
  const auto refused = [](const Finished& run, const std::string& words) {
    EXPECT_NE(run.exit_code, 0);
    EXPECT_NE(run.err.find(words), std::string::npos) << run.err;
  };
  refused(run_weft({"bench", "ranks", "--model", tiny_model(1), "--threads", "1"}),
          "start it as `mpirun -n 2");
  refused(run_bench(4, {}), "--tensor-parallel 2 --sequence-parallel 2");
  refused(run_bench(2, {"--sequence-parallel", "2"}), "take --tensor-parallel 2 or more");
  refused(run_bench(2, {}, "513"), "has a context of 512 tokens");
  refused(run_bench(3, {"--tensor-parallel", "2"}), "is not the number of ranks, 3");
  const Folder folder;
  refused(run_bench(2, {"--peer", folder.file("llama-bench")}), "no such program");
  folder.write_script("llama-bench", "");
  refused(run_bench(2, {"--peer", folder.file("llama-bench")}), "-DGGML_RPC=ON");
}

}  // namespace
}  // namespace weft::tests
