#include "parallel/exchange_trial.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "comm/thread_transport.h"
#include "parallel/tasp/tasp.h"

namespace weft::parallel {
namespace {

// A trial passes every piece as the table says: what each rank sends to each other one, counted.
TEST(exchange_trial, sends_what_the_exchange_sends) {
  constexpr size_t kBlock = 12'000;
  for (const Exchange& exchange :
       {ring_exchange(4), direct_exchange(4), tasp::full_mesh_exchange(4)}) {
    comm::run_thread_ranks(4, [&](const comm::Communicator& ranks) {
      std::vector<uint64_t> before;
      for (size_t to = 0; to < 4; ++to) before.push_back(ranks.bytes_sent(to));
      EXPECT_GT(transfer_s(ranks, exchange, kBlock), 0);
      for (size_t to = 0; to < 4; ++to) {
        size_t pieces = 0;
        for (const auto& step : exchange.steps)
          pieces += static_cast<size_t>(
              std::count_if(step.begin(), step.end(), [&](const Transfer& t) {
                return t.from == ranks.rank() && t.to == to;
              }));
        // Besides, a barrier, and eight bytes to each for the slowest rank's time.
        EXPECT_NEAR(static_cast<double>(ranks.bytes_sent(to) - before[to]),
                    static_cast<double>(pieces * (kBlock / exchange.num_pieces)), 16);
      }
    });
  }
}

TEST(exchange_trial, all_ranks_choose_the_same) {
  const std::vector<NamedExchange> exchanges = named_exchanges(3, 1);
  std::vector<size_t> chosen(3);
  comm::run_thread_ranks(3, [&](const comm::Communicator& ranks) {
    chosen[ranks.rank()] = quickest(ranks, exchanges);
  });
  EXPECT_LT(chosen[0], exchanges.size());
  EXPECT_EQ(chosen[1], chosen[0]);
  EXPECT_EQ(chosen[2], chosen[0]);
}

}  // namespace
}  // namespace weft::parallel
