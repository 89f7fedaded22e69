#include "bench/peer.h"

#include <gtest/gtest.h>

#include <atomic>

#include "base/error.h"

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

}  // namespace
}  // namespace weft::bench
