#include "parallel/flash_overlap/team.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "comm/thread_transport.h"

namespace weft::parallel::flash_overlap {
namespace {

using comm::Communicator;
using kernels::Linear;

std::vector<float> random_values(size_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(generator);
  return values;
}

Linear random_linear(size_t outputs, size_t features, uint32_t seed) {
  const std::vector<float> values = random_values(outputs * features, seed);
  return Linear::pack(
      {DType::kF32, {outputs, features}, reinterpret_cast<const uint8_t*>(values.data())},
      CoreSet());
}

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
        plain.multiply_add(weights[m], activations, b, expected.data(), kOutputs, pool.cores());
        overlapped.multiply_add(weights[m], activations, b, got.data(), kOutputs, pool.cores());
        ASSERT_EQ(got, expected) << rows << " rows, matrix " << m;
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

}  // namespace
}  // namespace weft::parallel::flash_overlap
