#include "bench/peer.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>

#include "base/error.h"
#include "bench/rpc_peer.h"

namespace weft::bench {
namespace {

// As llama-bench (build 0c1e570) prints it, cut to the fields that matter and some that do not.
constexpr const char* kReport = R"([
  {"build_commit": "0c1e570", "n_threads": 2, "n_prompt": 512, "n_gen": 0, "n_depth": 0,
   "avg_ts": 172.6, "samples_ts": [ 172.632, 171.5 ]},
  {"build_commit": "0c1e570", "n_threads": 2, "n_prompt": 0, "n_gen": 64, "n_depth": 16,
   "avg_ts": 78.7, "samples_ts": [ 78.6791 ]}
])";

TEST(llama_bench, finds_the_test_that_was_asked_for) {
  EXPECT_EQ(parse_llama_bench(kReport, {.model = "m", .threads = 2, .prompt_tokens = 512}),
            (std::vector<double>{172.632, 171.5}));
  EXPECT_EQ(
      parse_llama_bench(kReport, {.model = "m", .threads = 2, .generated_tokens = 64, .depth = 16}),
      std::vector<double>{78.6791});
}

TEST(llama_bench, refuses_other_answers) {
  for (const PeerTest& other :
       {PeerTest{.model = "m", .threads = 1, .prompt_tokens = 512},
        PeerTest{.model = "m", .threads = 2, .generated_tokens = 64, .depth = 4096}})
    EXPECT_THROW(parse_llama_bench(kReport, other), Error);
  for (const char* text : {"", "error: no model", "{}", "[{\"n_prompt\": 512}]", "[1]"})
    EXPECT_THROW(parse_llama_bench(text, {.model = "m", .threads = 2, .prompt_tokens = 512}), Error)
        << text;
}

TEST(child, prints_ends_and_is_measured) {
  const ChildResult child =
      run_child({"/bin/sh", "-c", "printf 'out'; printf 'last words' >&2; exit 3"}, {});
  EXPECT_EQ(child.out, "out");
  EXPECT_EQ(child.error_tail, "last words");
  EXPECT_EQ(child.exit_code, 3);
  EXPECT_GT(child.seconds_to_output, 0);
  EXPECT_GE(child.seconds, child.seconds_to_output);
  EXPECT_GT(child.peak_memory_bytes, size_t{64} << 10);
}

TEST(child, a_signal_is_a_negative_exit_code) {
  EXPECT_EQ(run_child({"/bin/sh", "-c", "kill -9 $$"}, {}).exit_code, -9);
}

TEST(child, a_program_that_is_not_there) {
  EXPECT_THROW(run_child({"/no/such/program"}, {}), Error);
  EXPECT_THROW(Peer("/no/such/llama-bench", {}), Error);
}

// The child would run for ever; a stop that was asked for ends it.
TEST(child, stops_when_asked) {
  const std::atomic<bool> stop{true};
  EXPECT_THROW(run_child({"/bin/sh", "-c", "while :; do :; done"}, StopToken(&stop)), Error);
}

// Long deadlines: they only turn a hang into a failure.
constexpr std::chrono::seconds kLong{60};

TEST(running_child, ends_with_its_owner) {
  std::optional<RunningChild> child(std::in_place,
                                    std::vector<std::string>{"/bin/sleep", "1000"});
  const pid_t pid = child->pid();
  EXPECT_FALSE(child->ends_within(std::chrono::milliseconds(0)));
  EXPECT_EQ(kill(pid, 0), 0);
  child.reset();
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST(running_child, that_is_stopped_is_ended_all_the_same) {
  std::optional<RunningChild> child(
      std::in_place, std::vector<std::string>{"/bin/sh", "-c", "kill -STOP $$; sleep 1000"});
  const pid_t pid = child->pid();
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED), 0);
  child.reset();
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST(running_child, that_ends_by_itself_leaves_its_words) {
  const RunningChild child({"/bin/sh", "-c", "echo out; echo no room >&2"});
  ASSERT_TRUE(child.ends_within(kLong));
  EXPECT_EQ(child.last_words(), "out\nno room\n");
  EXPECT_THROW(RunningChild({"/no/such/program"}), Error);
}

TEST(rpc_peer, rank_0_keeps_its_share_of_the_layers) {
  // The head is behind the last layer, on a server.
  EXPECT_EQ(equal_offload(24, 2), 13u);
  EXPECT_EQ(equal_offload(16, 4), 13u);
  EXPECT_EQ(equal_offload(30, 4), 24u);  // 7 of 30 here
  EXPECT_EQ(equal_offload(2, 3), 3u);    // none here
}

TEST(rpc_peer, llama_bench_is_told_where_the_servers_are) {
  const std::vector<std::string> command =
      llama_bench_over_rpc({.llama_bench = "bin/llama-bench",
                            .model = "m.gguf",
                            .num_layers = 16,
                            .threads = 3,
                            .prompt_tokens = 512,
                            .answer_tokens = 32,
                            .repetitions = 2},
                           "10.77.1.1:40000,10.77.2.1:40001", 2, 11);
  std::string line;
  for (const std::string& word : command) line += (line.empty() ? "" : " ") + word;
  EXPECT_EQ(line,
            "bin/llama-bench -m m.gguf -t 3 -p 512 -n 32 -r 2 -ngl 11 -ts 1/1 --rpc "
            "10.77.1.1:40000,10.77.2.1:40001 -o json");
}

}  // namespace
}  // namespace weft::bench
