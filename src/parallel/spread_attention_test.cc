// Attention over ranks (threads here) against one process and against float64, for all exchanges.
#include "parallel/spread_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <random>

#include "base/error.h"
#include "comm/thread_transport.h"
#include "kernels/test_values.h"
#include "parallel/tasp/tasp.h"

namespace weft::parallel {
namespace {

using comm::Communicator;
using kernels::kPageTokens;
using kernels::KvFormat;
using kernels::random_values;

struct Case {
  std::string exchange = "tasp";
  bool causal = true;
  size_t num_ranks = 3, before = 0, tokens = 100;  // `before`: tokens in the caches already
  size_t num_nodes = 1;
  size_t num_heads = 4, num_kv_heads = 2, head_dim = 64;
  KvFormat format = KvFormat::kF16;

  kernels::AttentionShape shape() const {
    return {.num_heads = num_heads,
            .kv = {.num_kv_heads = num_kv_heads, .head_dim = head_dim},
            .scale = 1 / std::sqrt(static_cast<float>(head_dim))};
  }
  size_t q_size() const { return num_heads * head_dim; }
  size_t kv_size() const { return num_kv_heads * head_dim; }
  std::string text() const {
    return fmt::format("{} {} n={} before={} T={} H={}/{} D={} {}", exchange,
                       causal ? "causal" : "full", num_ranks, before, tokens, num_heads,
                       num_kv_heads, head_dim, kernels::name(format));
  }
};

std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.text(); }

Exchange exchange_of(const Case& c) {
  if (c.exchange == "tasp") return tasp::full_mesh_exchange(c.num_ranks);
  if (c.exchange == "direct") return direct_exchange(c.num_ranks);
  if (c.exchange == "paths") return tasp::nodes_exchange(c.num_nodes, c.num_ranks / c.num_nodes);
  return ring_exchange(c.num_ranks);
}
bool is_zigzag(const Case& c) { return c.causal && c.exchange != "ring"; }

// All tokens' values, the same on every rank.
struct Values {
  explicit Values(const Case& c)
      : q(random_values((c.before + c.tokens) * c.q_size(), 1)),
        k(random_values((c.before + c.tokens) * c.kv_size(), 2)),
        v(random_values((c.before + c.tokens) * c.kv_size(), 3)) {}
  std::vector<float> q, k, v;
};

std::vector<uint32_t> all_blocks(const Case& c) {
  std::vector<uint32_t> out((c.before + c.tokens + kPageTokens - 1) / kPageTokens);
  // Not in order: blocks are places, not pages.
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint32_t>(out.size() - 1 - i);
  return out;
}

FollowingPages make_pages(const Case& c, const Values& values, size_t stored) {
  const std::vector<uint32_t> blocks = all_blocks(c);
  FollowingPages pages(1, c.shape().kv, c.format, blocks.size());
  pages.set_sequence(0, blocks, 0);
  if (stored != 0) pages.append(0, 0, 0, stored, values.k.data(), values.v.data(), c.kv_size());
  return pages;
}

// (tokens, H * D), what one process computes.
std::vector<float> one_process(const Case& c, const Values& values) {
  FollowingPages pages = make_pages(c, values, c.before + c.tokens);
  std::vector<float> out(c.tokens * c.q_size());
  kernels::AttentionScratch scratch;
  const kernels::AttentionCall call[] = {{.q = values.q.data() + c.before * c.q_size(),
                                          .q_stride = c.q_size(),
                                          .out = out.data(),
                                          .out_stride = c.q_size(),
                                          .num_tokens = c.tokens,
                                          .first_position = c.before,
                                          .kv = pages.view(0, 0),
                                          .sees_all = !c.causal}};
  kernels::attention(c.shape(), call, scratch, CoreSet());
  return out;
}

struct Spread {
  std::vector<float> out;                              // (tokens, H * D)
  std::map<std::pair<size_t, size_t>, uint64_t> sent;  // bytes by (from, to)
};

Spread over_ranks(const Case& c, const Values& values) {
  Spread result{std::vector<float>(c.tokens * c.q_size(), NAN), {}};
  const std::vector<float> whole = one_process(c, values);
  std::mutex mutex;  // guards result
  comm::run_thread_ranks(c.num_ranks, [&](const Communicator& ranks) {
    FollowingPages pages = make_pages(c, values, c.before);
    ExchangedAttention attention(ranks, exchange_of(c), is_zigzag(c), c.causal);
    attention.begin(pages, 0, c.before, c.tokens);
    const TokenRange stretches[] = {attention.placement().front(ranks.rank()),
                                    attention.placement().back(ranks.rank())};
    std::vector<float> q, k, v;
    for (const TokenRange& s : stretches) {
      const auto take = [&](std::vector<float>& to, const std::vector<float>& from, size_t size) {
        to.insert(to.end(), from.begin() + static_cast<ptrdiff_t>(s.begin * size),
                  from.begin() + static_cast<ptrdiff_t>(s.end * size));
      };
      take(q, values.q, c.q_size());
      take(k, values.k, c.kv_size());
      take(v, values.v, c.kv_size());
    }
    std::vector<float> out(q.size());
    attention.attend(c.shape(), 0, q.data(), k.data(), v.data(), out.data(), CoreSet());

    // Every rank's cache has every token's keys and values: it could go on alone.
    FollowingPages expected = make_pages(c, values, c.before + c.tokens);
    ASSERT_EQ(pages.view(0, 0).length, c.before + c.tokens);
    const size_t head_bytes = 2 * c.shape().kv.head_bytes(c.format);
    const size_t full = (c.before + c.tokens) / kPageTokens;
    for (size_t i = 0; i < full; ++i)
      for (size_t h = 0; h < c.num_kv_heads; ++h)
        ASSERT_EQ(std::memcmp(pages.reserved(0, 0)[i].head_keys(h),
                              expected.reserved(0, 0)[i].head_keys(h), head_bytes),
                  0)
            << c << ", rank " << ranks.rank() << ", page " << i;

    const std::scoped_lock lock(mutex);
    size_t row = 0;
    for (const TokenRange& s : stretches)
      for (size_t t = s.begin; t < s.end; ++t, ++row)
        std::copy_n(out.begin() + static_cast<ptrdiff_t>(row * c.q_size()), c.q_size(),
                    result.out.begin() + static_cast<ptrdiff_t>((t - c.before) * c.q_size()));
    for (size_t to = 0; to < ranks.size(); ++to)
      result.sent[{ranks.rank(), to}] = ranks.bytes_sent(to);
  });
  return result;
}

// Both sides round alike but sum in another order, and take powers of 2 against another maximum
// (relative 2^-20 at most). Weights of a row add up to 1 and values are below 5: 1e-5, and as much
// for the sums. With native bf16, probabilities are rounded to 2^-9 of themselves: 2^-8 of a value,
// averaged over the keys, at most.
void expect_close(const Case& c, const std::vector<float>& got,
                  const std::vector<float>& expected) {
  const float tolerance = c.format == KvFormat::kBF16 ? 5.0f / 256 : 2e-5f;
  size_t worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_FALSE(std::isnan(got[i])) << c << ": nobody computed token " << i / c.q_size();
    if (std::abs(got[i] - expected[i]) > std::abs(got[worst] - expected[worst])) worst = i;
  }
  if (!got.empty()) {
    EXPECT_LE(std::abs(got[worst] - expected[worst]), tolerance)
        << c << ": token " << worst / c.q_size() << ", feature " << worst % c.q_size();
  }
}

void check(const Case& c) {
  const Values values(c);
  expect_close(c, over_ranks(c, values).out, one_process(c, values));
}

TEST(spread_attention, all_exchanges_give_what_one_process_gives) {
  for (const std::string exchange : {"tasp", "direct", "zigzag", "ring"})
    for (const bool causal : {true, false})
      for (size_t n = 1; n <= 8; ++n) {
        std::mt19937 random(static_cast<uint32_t>(n * 4 + causal));
        check({.exchange = exchange,
               .causal = causal,
               .num_ranks = n,
               .tokens = 1 + random() % 1500});
      }
}

TEST(spread_attention, paths_over_nodes_give_what_one_process_gives) {
  using Shape = std::pair<size_t, size_t>;
  for (const auto& [nodes, devices] : {Shape{2, 2}, Shape{3, 2}, Shape{2, 4}, Shape{4, 2}, Shape{2, 1}})
    for (const bool causal : {true, false})
      for (const size_t tokens : {40, 999})
        check({.exchange = "paths",
               .causal = causal,
               .num_ranks = nodes * devices,
               .tokens = tokens,
               .num_nodes = nodes});
}

TEST(spread_attention, any_length_even_less_than_ranks_or_pieces) {
  for (const size_t tokens : {1, 2, 31, 32, 33, 64, 127, 128, 129, 383, 384, 385, 769})
    for (const size_t n : {2, 4, 5}) {
      check({.num_ranks = n, .tokens = tokens});
      check({.causal = false, .num_ranks = n, .tokens = tokens});
    }
}

TEST(spread_attention, a_sequence_goes_on_from_what_every_cache_has) {
  for (const size_t before : {1, 32, 45, 256, 300})
    for (const size_t n : {2, 3, 4}) check({.num_ranks = n, .before = before, .tokens = 417});
}

TEST(spread_attention, heads_of_every_grouping_and_width) {
  check({.num_heads = 3, .num_kv_heads = 3, .head_dim = 80});
  check({.num_heads = 8, .num_kv_heads = 1, .head_dim = 128, .format = KvFormat::kBF16});
  check({.num_ranks = 4, .tokens = 700, .num_heads = 6, .num_kv_heads = 2, .head_dim = 32});
}

TEST(spread_attention, float64_agrees) {
  const Case c{.num_ranks = 3, .tokens = 200, .num_heads = 2, .num_kv_heads = 1, .head_dim = 32};
  Values values(c);
  // Values that f16 holds exactly: what is stored is what is meant.
  for (auto* const x : {&values.k, &values.v})
    for (float& f : *x) f = std::round(f * 64) / 64;
  const Spread spread = over_ranks(c, values);
  std::vector<float> expected(spread.out.size());
  for (size_t t = 0; t < c.tokens; ++t)
    for (size_t h = 0; h < c.num_heads; ++h) {
      const float* const q = values.q.data() + t * c.q_size() + h * c.head_dim;
      std::vector<double> weight(t + 1), sum(c.head_dim);
      double total = 0;
      for (size_t s = 0; s <= t; ++s) {
        double score = 0;
        for (size_t d = 0; d < c.head_dim; ++d)
          score += static_cast<double>(q[d]) * static_cast<double>(values.k[s * c.kv_size() + d]);
        weight[s] = std::exp(score / std::sqrt(static_cast<double>(c.head_dim)));
        total += weight[s];
      }
      for (size_t d = 0; d < c.head_dim; ++d) {
        double x = 0;
        for (size_t s = 0; s <= t; ++s)
          x += weight[s] * static_cast<double>(values.v[s * c.kv_size() + d]);
        expected[t * c.q_size() + h * c.head_dim + d] = static_cast<float>(x / total);
      }
    }
  expect_close(c, spread.out, expected);
}

TEST(spread_attention, tasp_loads_every_link_alike_and_two_runs_give_the_same_bits) {
  for (const size_t n : {3, 4, 5, 7, 8}) {
    // Stretches of whole pages that fall into n - 1 pieces: 2 n (n - 1) pages.
    const Case c{.num_ranks = n,
                 .tokens = 2 * n * (n - 1) * kPageTokens,
                 .num_heads = 1,
                 .num_kv_heads = 1,
                 .head_dim = 16};
    const Values values(c);
    const Spread first = over_ranks(c, values), second = over_ranks(c, values);
    EXPECT_EQ(first.out, second.out) << c;
    const uint64_t block = 2 * (n - 1) * c.shape().kv.page_bytes(c.format);
    for (const auto& [link, bytes] : first.sent)
      EXPECT_EQ(bytes, link.first == link.second ? 0 : block)
          << c << ": " << link.first << " to " << link.second;
  }
}

TEST(spread_attention, a_lost_rank_is_named_with_layer_and_step) {
  const Case c{.num_ranks = 3, .tokens = 700};
  const Values values(c);
  std::mutex mutex;
  std::vector<std::string> said;
  EXPECT_THROW(
      comm::run_thread_ranks(3,
                             [&](const Communicator& ranks) {
                               if (ranks.rank() == 1) fail(ErrorKind::kIo, "no disk");
                               FollowingPages pages = make_pages(c, values, 0);
                               ExchangedAttention attention(ranks, exchange_of(c), true, true);
                               attention.begin(pages, 0, 0, c.tokens);
                               std::vector<float> out(values.q.size());
                               try {
                                 attention.attend(c.shape(), 0, values.q.data(), values.k.data(),
                                                  values.v.data(), out.data(), CoreSet());
                               } catch (const Error& error) {
                                 EXPECT_EQ(error.kind(), ErrorKind::kPeerLost);
                                 const std::scoped_lock lock(mutex);
                                 said.emplace_back(error.what());
                               }
                             }),
      Error);
  ASSERT_EQ(said.size(), 2u);
  for (const std::string& words : said) {
    EXPECT_NE(words.find("attention of layer 0, step "), std::string::npos) << words;
    EXPECT_NE(words.find("rank 1 is gone"), std::string::npos) << words;
  }
}

TEST(spread_attention, what_it_cannot_do_is_refused) {
  const auto ranks = comm::make_thread_ranks(2);
  EXPECT_THROW(ExchangedAttention(ranks[0], ring_exchange(3), true, true), Error);
  Exchange broken = ring_exchange(2);
  broken.steps[0][0].source = 1;
  EXPECT_THROW(ExchangedAttention(ranks[0], broken, true, true), Error);
}

}  // namespace
}  // namespace weft::parallel
