// Ranks as processes under mpirun, over shared memory of one host.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/seconds.h"
#include "tests/ranks/launch.h"

namespace weft::tests {
namespace {

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
  // 3 s of silence here, and what a busy machine needs to start and end three processes.
  EXPECT_LT(seconds_since(begin), 10);
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.err.find("rank 1 on"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("was not heard of for"), std::string::npos) << run.err;
}

TEST(mpi, generate_answers_as_one_process_does) {
  std::vector<std::string> alone = generate(1, {});
  alone.erase(alone.begin());
  const Finished expected = run_weft(alone);
  ASSERT_EQ(expected.exit_code, 0) << expected.err;
  const auto check = [&](std::vector<std::string> arguments, const std::vector<std::string>& more) {
    const std::vector<std::string> command = generate(1, more);
    arguments.insert(arguments.end(), command.begin(), command.end());
    const Finished run = mpirun(arguments);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(run.out, expected.out) << testing::PrintToString(more);
  };
  check({"-n", "2"}, {});
  check({"-n", "2"}, {"--sequence-parallel", "2"});
  check({"-n", "3"}, {"--sequence-parallel", "3", "--exchange", "zigzag"});
  check({"-n", "3"}, {"--sequence-parallel", "3", "--exchange", "auto"});
  check({"-n", "4"}, {"--tensor-parallel", "2", "--sequence-parallel", "2"});
}

// How keys and values are kept, and which of the vocabulary's tokens the head computes, with the same
// flags in one process and on ranks.
TEST(mpi, narrow_caches_and_vocabularies_answer_as_one_process_does) {
  const auto check = [](size_t num_ranks, const std::vector<std::string>& how,
                        const std::vector<std::string>& ranks) {
    std::vector<std::string> alone = generate(1, how);
    alone.erase(alone.begin());
    const Finished expected = run_weft(alone);
    ASSERT_EQ(expected.exit_code, 0) << expected.err;
    std::vector<std::string> more = how;
    more.insert(more.end(), ranks.begin(), ranks.end());
    std::vector<std::string> command = generate(1, more);
    command.insert(command.begin(), {"-n", std::to_string(num_ranks)});
    const Finished run = mpirun(command);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(run.out, expected.out) << testing::PrintToString(more);
  };
  check(2, {"--kv", "8"}, {});
  check(2, {"--kv-k", "8", "--kv-v", "4"}, {});
  check(2, {"--kv", "pressure"}, {"--sequence-parallel", "2"});
  for (const std::string mode : {"hybrid", "screen", "draft", "verify"})
    check(2, {"--vocab-mode", mode}, {});
  check(2, {"--vocab-mode", "verify"}, {"--sequence-parallel", "2"});
}

TEST(mpi, commands_that_cannot_work_together_are_refused) {
  const auto refused = [](std::vector<std::string> arguments, const std::string& words) {
    const Finished run = mpirun(std::move(arguments));
    EXPECT_NE(run.exit_code, 0);
    EXPECT_NE(run.err.find(words), std::string::npos) << run.err;
  };
  const auto job = [](std::vector<std::string> a, const std::vector<std::string>& b) {
    a.insert(a.begin(), {"-n", "1"});
    a.insert(a.end(), {":", "-n", "1"});
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  refused(job(generate(1, {}), generate(2, {})), "rank 1 on ");
  refused(job(generate(1, {}), generate(1, {"--sequence-parallel", "2"})), "has the plan");
  std::vector<std::string> streamed = generate(1, {"--expert-memory", "50%"});
  streamed.insert(streamed.begin(), {"-n", "2"});
  refused(streamed, "leave out --expert-memory");
  std::vector<std::string> three = generate(1, {});
  three.insert(three.begin(), {"-n", "3"});
  refused(three, "2 heads of keys and values");
  std::vector<std::string> wrong = generate(1, {"--tensor-parallel", "2"});
  wrong.insert(wrong.begin(), {"-n", "3"});
  refused(wrong, "is not the number of ranks, 3");
  std::vector<std::string> alone = generate(1, {"--tensor-parallel", "2"});
  alone.erase(alone.begin());
  const Finished run = run_weft(alone);
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_NE(run.err.find("need several ranks"), std::string::npos) << run.err;
}

// The second start finds what the first one tuned. A file that is none of ours is left as it is.
TEST(mpi, tunings_are_kept) {
  const std::filesystem::path file =
      fmt::format("{}/tunings-{}.json", testing::TempDir(), getpid());
  std::vector<std::string> command = generate(1, {"--overlap-tunings", file.string()});
  command.insert(command.begin(), {"-n", "2"});
  const Finished first = mpirun(command);
  EXPECT_EQ(first.exit_code, 0) << first.err;
  const std::string kept = read_file(file, 1 << 20);
  EXPECT_NE(kept.find("group_ends"), std::string::npos) << kept;
  EXPECT_EQ(mpirun(command).out, first.out);
  EXPECT_EQ(count(read_file(file, 1 << 20), "group_ends"), count(kept, "group_ends"));

  for (const std::string wrong : {"{\"weft_overlap_tunings\": 99, \"tunings\": {}}", "not json"}) {
    AtomicFile out(file);
    out.write(wrong);
    out.commit();
    const Finished run = mpirun(command);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_EQ(run.out, first.out);
    EXPECT_EQ(count(run.err, "not a file of tunings"), 1u) << run.err;
    EXPECT_EQ(read_file(file, 1 << 20), wrong);
  }
  std::filesystem::remove(file);
}

TEST(mpi, doctor_measures_every_pair) {
  const std::string file = fmt::format("{}/links-{}.json", testing::TempDir(), getpid());
  const Finished run = mpirun({"-n", "3", WEFT_PROGRAM, "doctor", "--ranks", "--topology", file});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(count(run.out, " us "), 6u) << run.out;
  EXPECT_EQ(run_weft({"topo", file}).exit_code, 0);
  std::filesystem::remove(file);
}

TEST(mpi, ranks_with_another_model_are_refused) {
  const Finished run = run_ranks(3, "handshake");
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.err.find("has the model 'b.gguf', rank 0 on"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace weft::tests
