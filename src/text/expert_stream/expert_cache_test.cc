#include "text/expert_stream/expert_cache.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/random.h"
#include "text/expert_stream/crc32c.h"
#include "text/expert_stream/expert_memory.h"
#include "text/expert_stream/expert_trace.h"

namespace weft::text {
namespace {

constexpr ExpertCacheShape kShape{
    .num_layers = 6, .layers_per_group = 1, .num_groups = 6, .experts_per_group = 4};

// Passes over all layers; in each, layer l asks for one expert.
ExpertTrace cyclic(size_t passes) {
  ExpertTrace trace{kShape, {}};
  for (size_t p = 0; p < passes; ++p)
    for (size_t layer = 0; layer < 6; ++layer) trace.visits.push_back({layer, {0}});
  return trace;
}

TEST(expert_cache, a_sweep_larger_than_the_cache_is_lrus_worst_case) {
  const ExpertTrace trace = cyclic(50);
  EXPECT_EQ(replay(trace, 5, ExpertPolicy::kLru, false).hits, 0U) << "drops what comes next";
  const ReplayCounts best = replay_optimum(trace, 5, false);
  EXPECT_GT(best.hit_rate(), 0.7);
  EXPECT_GT(replay(trace, 5, ExpertPolicy::kExpected, false).hit_rate(), 0.7);
  EXPECT_GT(replay(trace, 5, ExpertPolicy::kLeastStale, false).hit_rate(), 0.5);
}

TEST(expert_cache, what_is_used_often_stays) {
  // Layer 0 asks for its expert 0 in each pass, and for another one in turn.
  ExpertTrace trace{{1, 1, 1, 8}, {}};
  for (uint32_t p = 0; p < 100; ++p) trace.visits.push_back({0, {0, 1 + p % 7}});
  for (const ExpertPolicy policy : {ExpertPolicy::kExpected, ExpertPolicy::kLfu}) {
    const ReplayCounts counts = replay(trace, 3, policy, false);
    EXPECT_GE(counts.hits, 99U) << name(policy);
  }
}

TEST(expert_cache, slots_that_are_held_do_not_go) {
  ExpertCache cache(kShape, 2, ExpertPolicy::kExpected);
  std::vector<uint8_t> may_go(2, 0);
  ASSERT_TRUE(cache.place(0, 0, may_go));
  ASSERT_TRUE(cache.place(1, 0, may_go));
  EXPECT_FALSE(cache.place(2, 0, may_go));
  may_go[*cache.slot_of(0)] = 1;
  EXPECT_EQ(cache.place(2, 0, may_go), 0U);
  EXPECT_FALSE(cache.slot_of(0));
  cache.forget(0);
  EXPECT_FALSE(cache.slot_of(2));
}

TEST(expert_cache, overlap_of_layers_and_tokens_is_counted) {
  ExpertTrace trace{{2, 2, 1, 4}, {}};
  trace.visits = {{0, {0, 1}}, {1, {1, 2}}, {0, {0, 1}}, {1, {0, 3}}};
  const TraceOverlap overlap = overlap_of(trace);
  EXPECT_DOUBLE_EQ(overlap.within_group, 0.5);
  EXPECT_DOUBLE_EQ(overlap.between_tokens, 0.5);
  EXPECT_DOUBLE_EQ(overlap.by_chance, 0.5);
  const std::vector<LayerUse> uses = layer_uses(trace);
  ASSERT_EQ(uses.size(), 2U);
  EXPECT_DOUBLE_EQ(uses[0].fullest, 2);  // two of four experts, twice each
  EXPECT_DOUBLE_EQ(uses[0].emptiest, 0);
  EXPECT_FALSE(uses[0].as_layer_before);
  EXPECT_DOUBLE_EQ(uses[0].as_token_before, 1);
  EXPECT_DOUBLE_EQ(uses[1].fullest, 1);
  EXPECT_DOUBLE_EQ(uses[1].emptiest, 1);
  EXPECT_DOUBLE_EQ(uses[1].as_layer_before.value(), 0.5);
  EXPECT_DOUBLE_EQ(uses[1].as_token_before, 0);
}

TEST(expert_cache, a_trace_of_nothing_has_no_overlap) {
  const TraceOverlap overlap = overlap_of({{2, 2, 1, 4}, {}});
  EXPECT_EQ(overlap.within_group, 0);
  EXPECT_EQ(overlap.between_tokens, 0);
  EXPECT_EQ(overlap.by_chance, 0);
}

TEST(expert_cache, expected_learns_how_long_experts_stay) {
  // One group of one layer: each of two experts stays with 7 of 8, and another one follows it.
  ExpertTrace trace{{1, 1, 1, 32}, {}};
  std::vector<uint32_t> now = {0, 1};
  for (uint32_t p = 0; p < 2000; ++p) {
    for (size_t i = 0; i < 2; ++i) {
      const auto random = philox4x32({p, static_cast<uint32_t>(i), 0, 0}, {1, 2});
      if (random[0] % 8 == 0 && random[1] % 32 != now[1 - i]) now[i] = random[1] % 32;
    }
    trace.visits.push_back({0, now});
  }
  // Frequencies alone would let those go that have just come.
  const double expected = replay(trace, 5, ExpertPolicy::kExpected, false).hit_rate();
  EXPECT_GE(expected, replay(trace, 5, ExpertPolicy::kLru, false).hit_rate() - 0.01);
  EXPECT_GT(expected, replay(trace, 5, ExpertPolicy::kLfu, false).hit_rate() + 0.02);
}

TEST(crc32c, published_value_and_parts) {
  const char* const text = "123456789";
  EXPECT_EQ(crc32c(reinterpret_cast<const uint8_t*>(text), 9), 0xE3069283U);
  std::vector<uint8_t> bytes(4096);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * i >> 3);
  const RecordChecksum sum = record_checksum(bytes.data(), bytes.size());
  for (size_t q = 0; q < 8; ++q) EXPECT_EQ(sum[q], crc32c(bytes.data() + q * 512, 512));
  EXPECT_EQ(half_checksum(bytes.data(), bytes.size(), 1)[0], sum[4]);
}

TEST(expert_memory, budgets_are_bytes_or_parts) {
  EXPECT_EQ(parse_expert_budget("1.5G").bytes, size_t{3} << 29);
  EXPECT_EQ(parse_expert_budget("800M").bytes, size_t{800} << 20);
  EXPECT_EQ(parse_expert_budget("12KB").bytes, 12288U);
  EXPECT_EQ(parse_expert_budget("100").bytes, 100U);
  EXPECT_DOUBLE_EQ(parse_expert_budget("50%").fraction, 0.5);
  for (const char* bad : {"", "G", "-1G", "0", "101%", "1.5X", "nan", "1e40G", "50 %", "1Gx"})
    EXPECT_THROW(parse_expert_budget(bad), Error) << bad;
  EXPECT_THROW(parse_expert_io("disk"), Error);
  EXPECT_THROW(parse_expert_policy("mru"), Error);
}

TEST(expert_memory, a_budget_below_one_expert_says_what_is_needed) {
  models::MemoryPlan plan;
  plan.weight_bytes = size_t{5} << 30;
  plan.expert_bytes = size_t{4} << 30;
  plan.num_experts = 1024;
  plan.largest_expert_bytes = size_t{4} << 20;
  plan.scratch_bytes = size_t{10} << 20;
  EXPECT_EQ(plan_expert_slots({.bytes = 0, .fraction = 0.5}, plan, 0, "m"), 512U);
  EXPECT_EQ(plan_expert_slots({.bytes = size_t{1} << 40}, plan, 0, "m"), 1024U);
  EXPECT_EQ(plan_expert_slots({.bytes = expert_slot_bytes(plan)}, plan, 0, "m"), 1U);
  try {
    plan_expert_slots({.bytes = expert_slot_bytes(plan) - 1}, plan, size_t{100} << 20, "m.gguf");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfResources);
    // 1024 of other weights + 4.004 of an expert + 100 of KV cache + 10 to work in.
    EXPECT_NE(std::string(error.what()).find("At least 1138 MiB"), std::string::npos)
        << error.what();
  }
  EXPECT_THROW(plan_expert_slots({.bytes = 1}, {}, 0, "dense"), Error);
}

}  // namespace
}  // namespace weft::text
