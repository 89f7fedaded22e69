// Ranks that die or stop, and links that slow down or break: in the middle of the work.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>

#include "base/seconds.h"
#include "tests/ranks/launch.h"
#include "tests/ranks/running_server.h"

namespace weft::tests {
namespace {

using Clock = std::chrono::steady_clock;

// The last event of a stream, and the end of its chunks.
void expect_error_event(const std::string& answer) {
  EXPECT_NE(answer.find("data: {\"error\":{\"message\":"), std::string::npos) << answer;
  EXPECT_TRUE(answer.ends_with("\r\n0\r\n\r\n")) << answer;
}

// One that stops: nobody but the other ranks notices.
TEST(faults, clients_hear_of_a_stopped_rank) {
  RunningServer server;
  const auto begin = Clock::now();
  server.signal_rank_1(SIGSTOP);
  const std::string answer = server.answer_to(server.ask(RunningServer::Form::kStream));
  expect_error_event(answer);
  EXPECT_NE(answer.find("rank 1 on"), std::string::npos) << answer;
  EXPECT_NE(server.wait(), 0);
  EXPECT_LT(seconds_since(begin), 10);
  EXPECT_NE(server.said().find("rank 1 on"), std::string::npos) << server.said();
}

// One that dies: mpirun gives the others one second to end, and then kills them. It is stopped first, so
// that both answers are under way when it does.
TEST(faults, clients_hear_of_a_killed_rank) {
  RunningServer server;
  server.signal_rank_1(SIGSTOP);
  const size_t whole = server.ask(RunningServer::Form::kWhole);
  const size_t stream = server.ask(RunningServer::Form::kStream);
  server.signal_rank_1(SIGKILL);
  const std::string events = server.answer_to(stream), answer = server.answer_to(whole);
  expect_error_event(events);
  EXPECT_NE(events.find("rank 1 on"), std::string::npos) << events;
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 5")) << answer;
  EXPECT_NE(answer.find("rank 1 on"), std::string::npos) << answer;
  EXPECT_NE(server.wait(), 0);
}

// tools/testbed.sh with these arguments, or a reason why it cannot run here.
class Testbed : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
    const Finished run = run_program("/bin/sh", {"-c", "ip netns add weft-probe && ip netns del weft-probe && tc -V"});
    if (run.exit_code != 0) GTEST_SKIP() << "no network namespaces here: " << run.err;
  }
  static Finished run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"60", WEFT_SOURCE_DIR "/tools/testbed.sh"});
    return run_program("/usr/bin/timeout", arguments, "", mpi_environment());
  }
};

TEST_F(Testbed, messages_arrive_over_links) {
  const Finished run = Testbed::run({"mesh", "3", "1gbit", "--", WEFT_RANK_PROGRAM, "exchange"});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_EQ(count(run.out, "is done"), 3u) << run.out << run.err;
}

TEST_F(Testbed, messages_arrive_over_links_and_ports_of_two_machines) {
  const Finished run =
      Testbed::run({"nodes", "2x2", "1gbit", "--port", "500mbit", "--", WEFT_RANK_PROGRAM, "exchange"});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_EQ(count(run.out, "is done"), 4u) << run.out << run.err;
}

// Rounds of exchange; one link becomes ten times slower on the way, which changes nothing but the time.
TEST_F(Testbed, a_link_that_slows_down_is_waited_for) {
  const Finished run = Testbed::run(
      {"mesh", "3", "100mbit", "--fault", "1:slow:0-1:10mbit", "--", WEFT_RANK_PROGRAM, "long"});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_NE(run.err.find("testbed: slow 0-1"), std::string::npos) << run.err;
  EXPECT_EQ(count(run.out, "is done"), 3u) << run.out << run.err;
}

TEST_F(Testbed, a_link_that_breaks_ends_the_job_and_is_named) {
  const auto begin = Clock::now();
  const Finished run = Testbed::run(
      {"mesh", "3", "100mbit", "--fault", "1:drop:1-2", "--", WEFT_RANK_PROGRAM, "long"});
  // A second until it breaks, 3 s of silence, and what a busy machine needs to start and to end.
  EXPECT_LT(seconds_since(begin), 20);
  EXPECT_NE(run.exit_code, 0);
  EXPECT_NE(run.err.find("was not heard of for"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace weft::tests
