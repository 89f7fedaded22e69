// Ranks as processes under mpirun, over shared memory of one host.
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "tests/process.h"

namespace weft::tests {
namespace {

// A long deadline turns a hang into a failure. mpirun refuses root and more ranks than cores unless
// told.
Finished run_ranks(size_t num_ranks, const std::string& what) {
  return run_program("/usr/bin/timeout",
                     {"60", WEFT_MPIRUN, "-n", std::to_string(num_ranks), WEFT_RANK_PROGRAM, what},
                     "",
                     {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                      "OMPI_MCA_rmaps_base_oversubscribe=1"});
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST(mpi, messages_and_sums_arrive) {
  const Finished run = run_ranks(4, "exchange");
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_EQ(count(run.out, "is done"), 4u) << run.out << run.err;
}

TEST(mpi, waiting_costs_no_core) {
  const Finished run = run_ranks(2, "idle");
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  for (const std::string rank : {"rank 0 used ", "rank 1 used "}) {
    const size_t at = run.out.find(rank);
    ASSERT_NE(at, std::string::npos) << run.out << run.err;
    // 2 s: a thread that polls without a break would use all of them.
    EXPECT_LT(std::stod(run.out.substr(at + rank.size())), 0.3) << run.out;
  }
}

TEST(mpi, a_rank_that_dies_ends_the_job_and_is_named) {
  const auto begin = std::chrono::steady_clock::now();
  const Finished run = run_ranks(3, "killed");
  EXPECT_LT(seconds_since(begin), 10);
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE((run.out + run.err).find("rank 1"), std::string::npos) << run.out << run.err;
}

TEST(mpi, a_rank_that_throws_ends_the_job_with_its_words) {
  const auto begin = std::chrono::steady_clock::now();
  const Finished run = run_ranks(3, "throws");
  EXPECT_LT(seconds_since(begin), 10);
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.err.find("rank 1: its disk is full"), std::string::npos) << run.err;
}

TEST(mpi, a_rank_that_is_stopped_ends_the_job_and_is_named) {
  const auto begin = std::chrono::steady_clock::now();
  const Finished run = run_ranks(3, "stopped");
  EXPECT_LT(seconds_since(begin), 10);
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.err.find("rank 1 on"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("was not heard of for"), std::string::npos) << run.err;
}

TEST(mpi, ranks_with_another_model_are_refused) {
  const Finished run = run_ranks(3, "handshake");
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.err.find("has the model 'b.gguf', rank 0 on"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace weft::tests
