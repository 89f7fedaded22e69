#include "bench/megrez2_time.h"

#include <gtest/gtest.h>

namespace weft::bench {
namespace {

using enum ExpertReads;

// Two layers with two experts each; one token after another.
text::ExpertTrace trace_of(size_t tokens) {
  text::ExpertTrace trace{{2, 1, 2, 4}, {}};
  for (size_t t = 0; t < tokens; ++t)
    for (size_t layer = 0; layer < 2; ++layer) trace.visits.push_back({layer, {0, 1}});
  return trace;
}
constexpr LayerParts kParts{
    .layer_s = 10, .attention_s = 4, .shared_s = 2, .expert_s = 2, .rest_s = 5};

double predict(size_t tokens, const std::vector<uint32_t>& misses, const ReadTimes& read,
               ExpertReads reads) {
  return predict_seconds(trace_of(tokens).visits, misses, kParts, read, reads);
}

// A disk that reads one expert in so long, and takes nothing of the cores.
ReadTimes plain(double seconds) { return {.record_s = seconds, .latency_s = seconds}; }

TEST(megrez2_time, all_hits_take_what_is_computed) {
  for (const ExpertReads reads : {kPreGated, kOnDemand, kNaive})
    EXPECT_DOUBLE_EQ(predict(3, std::vector<uint32_t>(6), plain(100), reads), 3 * (5 + 2 * 10));
}

TEST(megrez2_time, one_miss_is_hidden_by_the_layer_before) {
  // Layer 1 misses one of two. On demand it is asked for after the attention, and the hit and the
  // shared expert hide 4 of its 9; pre-gated it is asked for one MLP and one attention earlier.
  const std::vector<uint32_t> misses = {0, 1};
  EXPECT_DOUBLE_EQ(predict(1, misses, plain(9), kOnDemand), 5 + 20 + (9 - 4));
  EXPECT_DOUBLE_EQ(predict(1, misses, plain(9), kPreGated), 5 + 20);
  EXPECT_DOUBLE_EQ(predict(1, misses, plain(20), kPreGated), 5 + 20 + (20 - (6 + 4 + 4)));
}

TEST(megrez2_time, one_disk_reads_one_expert_after_the_other) {
  EXPECT_DOUBLE_EQ(predict(1, {2, 2}, plain(100), kOnDemand), 5 + 4 + 200 + 2 + 4 + 200 + 2);
}

TEST(megrez2_time, a_naive_layer_hides_nothing) {
  EXPECT_DOUBLE_EQ(predict(1, {0, 1}, plain(9), kNaive), 5 + 20 + 9);
  EXPECT_DOUBLE_EQ(predict(1, {2, 1}, {.record_s = 9, .latency_s = 9, .core_s = 1}, kNaive),
                   5 + 20 + 2 * (9 + 1) + (9 + 1));
}

TEST(megrez2_time, an_idle_disk_answers_later_than_a_busy_one_and_each_read_takes_of_the_cores) {
  const ReadTimes read{.record_s = 60, .latency_s = 100, .core_s = 3};
  EXPECT_DOUBLE_EQ(predict(1, {2, 0}, read, kOnDemand), 5 + (4 + 100 + 60 + 3 + 2) + 10);
  EXPECT_DOUBLE_EQ(predict(1, {0, 1}, {.core_s = 3}, kPreGated), 5 + 20 + 3);
}

}  // namespace
}  // namespace weft::bench
