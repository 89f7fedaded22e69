#include "parallel/flash_overlap/team.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>

#include "comm/thread_transport.h"
#include "kernels/test_values.h"

namespace weft::parallel::flash_overlap {
namespace {

using comm::Communicator;
using kernels::Linear;
using kernels::random_linear;
using kernels::random_values;

// Two matrices of which one rank has the same shape and the other does not (shares may be uneven), and
// prompts of many lengths: ranks never wait for each other in vain, and the bits are the plain team's.
TEST(flash_overlap_team, adds_what_the_plain_team_adds) {
  comm::run_thread_ranks(3, [](const Communicator& ranks) {
    constexpr size_t kOutputs = 96;
    const size_t rank = ranks.rank();
    const size_t features[] = {32, rank == 1 ? size_t{32} : size_t{64}};
    const Linear weights[] = {random_linear(kOutputs, features[0], static_cast<uint32_t>(rank)),
                              random_linear(kOutputs, features[1], static_cast<uint32_t>(rank) + 9)};
    const std::vector<float> bias = random_values(kOutputs, 3);
    PlainTeam plain(ranks);
    OverlappedTeam overlapped(ranks);
    ThreadPool pool(2);
    for (const size_t rows : {200, 70, 1, 200, 260, 65, 512, 140}) {
      for (size_t m = 0; m < 2; ++m) {
        const std::vector<float> x =
            random_values(rows * features[m], static_cast<uint32_t>(rows + rank));
        std::vector<float> expected = random_values(rows * kOutputs, 5), got = expected;
        kernels::Activations activations;
        activations.set(x.data(), rows, features[m], features[m]);
        const float* const b = m == 0 ? bias.data() : nullptr;
        std::vector<float> expected_norm(got.size()), got_norm(got.size());
        models::Residual to_expected{expected.data(), kOutputs}, to_got{got.data(), kOutputs};
        if (m == 0) {
          to_expected.norm = {bias.data(), 1e-5f, expected_norm.data()};
          to_got.norm = {bias.data(), 1e-5f, got_norm.data()};
        }
        plain.multiply_add(weights[m], activations, b, to_expected, pool.cores());
        overlapped.multiply_add(weights[m], activations, b, to_got, pool.cores());
        ASSERT_EQ(got, expected) << rows << " rows, matrix " << m;
        ASSERT_EQ(got_norm, expected_norm) << rows << " rows, matrix " << m;
      }
    }
    for (const OverlappedTeam::Tuned& tuned : overlapped.tuned()) {
      EXPECT_GE(tuned.rows, kLeastRows);
      EXPECT_FALSE(tuned.group_ends.empty());
    }
    // 140, 200 and 260 share a tuning, 65 and 70 another, 512 has its own: of both matrices.
    EXPECT_EQ(overlapped.tuned().size(), 6u);
  });
}

// Switched off it is the plain team, and tunes nothing; what it tuned before waits.
TEST(flash_overlap_team, switched_off_and_on) {
  comm::run_thread_ranks(2, [](const Communicator& ranks) {
    const Linear weight = random_linear(96, 64, static_cast<uint32_t>(ranks.rank()));
    const std::vector<float> x = random_values(size_t{128} * 64, 1);
    std::vector<float> expected(size_t{128} * 96);
    kernels::Activations activations;
    activations.set(x.data(), 128, 64, 64);
    PlainTeam(ranks).multiply_add(weight, activations, nullptr, {expected.data(), 96}, CoreSet());
    OverlappedTeam team(ranks);
    size_t tuned = 0;
    for (const bool on : {false, true, false, true}) {
      team.set_overlap(on);
      if (on) tuned = 1;
      std::vector<float> out(expected.size());
      team.multiply_add(weight, activations, nullptr, {out.data(), 96}, CoreSet());
      EXPECT_EQ(out, expected);
      EXPECT_EQ(team.tuned().size(), tuned);
    }
  });
}

// What one start has tuned, the next one takes from the file: whatever the groups, the bits are the same.
TEST(flash_overlap_team, the_next_start_tunes_nothing) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) /
                                     fmt::format("overlap-{}.json", getpid());
  const auto start = [&](bool from_file) {
    comm::run_thread_ranks(2, [&](const Communicator& ranks) {
      const Linear weight = random_linear(96, 64, static_cast<uint32_t>(ranks.rank()));
      OverlappedTeam team(ranks, path, [](const std::string& said) { ADD_FAILURE() << said; });
      const std::vector<float> x = random_values(size_t{128} * 64, 1);
      std::vector<float> out(size_t{128} * 96), expected = out;
      kernels::Activations activations;
      activations.set(x.data(), 128, 64, 64);
      PlainTeam(ranks).multiply_add(weight, activations, nullptr, {expected.data(), 96}, CoreSet());
      team.multiply_add(weight, activations, nullptr, {out.data(), 96}, CoreSet());
      EXPECT_EQ(out, expected);
      ASSERT_EQ(team.tuned().size(), 1u);
      // Between threads the collective takes microseconds, and may take twice as many the next time:
      // then the second start tunes again.
      if (!from_file) {
        EXPECT_FALSE(team.tuned()[0].from_file);
      }
    });
  };
  start(false);
  EXPECT_TRUE(std::filesystem::exists(path));
  start(true);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace weft::parallel::flash_overlap
