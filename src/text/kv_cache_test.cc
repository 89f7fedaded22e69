#include "text/kv_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <random>
#include <vector>

#include "base/error.h"
#include "kernels/quantize.h"

namespace weft::text {
namespace {

using kernels::kPageTokens;

constexpr size_t kLayers = 3, kHeads = 2, kDim = 16, kWidth = kHeads * kDim;

KvCacheOptions options(size_t capacity, kernels::KvFormat format = kernels::KvFormat::kF16) {
  return {.num_layers = kLayers,
          .shape = {kHeads, kDim},
          .format = format,
          .capacity_tokens = capacity};
}

// A small whole number that f16 and bf16 hold exactly, different for neighbours in every direction.
float value_of(int token, size_t layer, size_t feature, bool is_key) {
  return static_cast<float>(
      (token * 31 + static_cast<int>(layer * 7 + feature) * 3 + is_key) % 251 - 125);
}

void append(KvCache& cache, SequenceId id, size_t first, const std::vector<int>& tokens) {
  std::vector<float> k(tokens.size() * kWidth), v(k.size());
  for (size_t layer = 0; layer < kLayers; ++layer) {
    for (size_t i = 0; i < k.size(); ++i) {
      k[i] = value_of(tokens[i / kWidth], layer, i % kWidth, true);
      v[i] = value_of(tokens[i / kWidth], layer, i % kWidth, false);
    }
    cache.append(layer, id, first, tokens.size(), k.data(), v.data(), kWidth);
  }
}

float read(const kernels::KvPage& page, size_t token, size_t head, size_t i, bool is_key) {
  const auto* units = reinterpret_cast<const uint16_t*>(page.data + head * page.head_stride) +
                      (is_key ? 0 : kPageTokens * kDim);
  if (page.k_format == kernels::KvFormat::kF16)
    return kernels::half_to_float(units[is_key ? i * kPageTokens + token : token * kDim + i]);
  return kernels::bfloat16_to_float(is_key ? units[(i / 2 * kPageTokens + token) * 2 + i % 2]
                                           : units[(token / 2 * kDim + i) * 2 + token % 2]);
}

// Everything the views say, compared with the tokens that were stored.
void expect_holds(const KvCache& cache, SequenceId id, const std::vector<int>& tokens) {
  ASSERT_EQ(cache.length(id), tokens.size());
  for (size_t layer = 0; layer < kLayers; ++layer) {
    const kernels::KvView view = cache.view(layer, id);
    ASSERT_EQ(view.length, tokens.size());
    ASSERT_EQ(view.pages.size(), (tokens.size() + kPageTokens - 1) / kPageTokens);
    for (size_t t = 0; t < tokens.size(); ++t) {
      for (size_t f = 0; f < kWidth; ++f) {
        for (const bool is_key : {true, false}) {
          ASSERT_EQ(read(view.pages[t / kPageTokens], t % kPageTokens, f / kDim, f % kDim, is_key),
                    value_of(tokens[t], layer, f, is_key))
              << "sequence " << id << ", layer " << layer << ", token " << t << ", feature " << f;
        }
      }
    }
  }
}

std::vector<int> some_tokens(size_t n, int seed = 0) {
  std::vector<int> tokens(n);
  for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<int>(i * 13) + seed;
  return tokens;
}

TEST(kv_cache, stores_what_is_appended_in_each_format) {
  for (const auto format : {kernels::KvFormat::kF16, kernels::KvFormat::kBF16}) {
    for (const size_t length : {1, 2, 31, 32, 33, 95, 96, 97}) {
      KvCache cache(options(128, format));
      const SequenceId id = cache.create();
      const std::vector<int> tokens = some_tokens(length);
      ASSERT_TRUE(cache.reserve(id, length));
      append(cache, id, 0, tokens);
      expect_holds(cache, id, tokens);
    }
  }
}

TEST(kv_cache, grows_token_by_token_and_keeps_what_it_has) {
  KvCache cache(options(2000));
  const SequenceId id = cache.create();
  const std::vector<int> tokens = some_tokens(1100);
  for (size_t t = 0; t < tokens.size(); ++t) {
    ASSERT_TRUE(cache.reserve(id, 1));
    append(cache, id, t, {tokens[t]});
  }
  expect_holds(cache, id, tokens);
  const SequenceId forked = cache.fork(id, 1000);
  expect_holds(cache, forked, {tokens.begin(), tokens.begin() + 1000});
}

TEST(kv_cache, reserve_takes_all_or_nothing) {
  KvCache cache(options(64));
  EXPECT_EQ(cache.capacity_tokens(), 64u);
  const SequenceId a = cache.create(), b = cache.create();
  EXPECT_TRUE(cache.reserve(a, 33));
  EXPECT_EQ(cache.free_tokens(), 0u);
  EXPECT_FALSE(cache.reserve(b, 1));
  EXPECT_FALSE(cache.reserve(a, 65));
  EXPECT_FALSE(cache.reserve(a, ~size_t{0}));
  EXPECT_TRUE(cache.reserve(a, 64));
  cache.release(a);
  EXPECT_EQ(cache.free_tokens(), 64u);
  EXPECT_TRUE(cache.reserve(b, 64));
}

TEST(kv_cache, fork_shares_pages_until_somebody_writes) {
  KvCache cache(options(128));
  const SequenceId a = cache.create();
  std::vector<int> tokens = some_tokens(40);
  ASSERT_TRUE(cache.reserve(a, 40));
  append(cache, a, 0, tokens);
  EXPECT_EQ(cache.free_tokens(), 64u);
  const SequenceId b = cache.fork(a, 36);
  EXPECT_EQ(cache.free_tokens(), 64u) << "a fork takes no pages";
  EXPECT_EQ(cache.view(1, a).pages[1].data, cache.view(1, b).pages[1].data);

  ASSERT_TRUE(cache.reserve(b, 2));
  EXPECT_EQ(cache.free_tokens(), 32u) << "the shared last page is copied";
  EXPECT_EQ(cache.view(1, a).pages[0].data, cache.view(1, b).pages[0].data);
  EXPECT_NE(cache.view(1, a).pages[1].data, cache.view(1, b).pages[1].data);
  append(cache, b, 36, {1000, 1001});
  std::vector<int> forked(tokens.begin(), tokens.begin() + 36);
  forked.insert(forked.end(), {1000, 1001});
  expect_holds(cache, a, tokens);
  expect_holds(cache, b, forked);

  cache.release(a);
  expect_holds(cache, b, forked);
}

TEST(kv_cache, a_copy_on_write_needs_a_free_page) {
  KvCache cache(options(32));
  const SequenceId a = cache.create();
  ASSERT_TRUE(cache.reserve(a, 10));
  append(cache, a, 0, some_tokens(10));
  const SequenceId b = cache.fork(a, 10);
  EXPECT_FALSE(cache.reserve(a, 1));
  EXPECT_FALSE(cache.reserve(b, 1));
  cache.release(b);
  EXPECT_TRUE(cache.reserve(a, 1));
}

size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

TEST(kv_cache, memory_is_resident_only_once_written) {
  KvCache cache({.num_layers = 16, .shape = {8, 128}, .capacity_tokens = 8192});
  EXPECT_EQ(cache.bytes(), size_t{512} << 20);
  const size_t before = resident_bytes();
  const SequenceId id = cache.create();
  ASSERT_TRUE(cache.reserve(id, 8192));
  const std::vector<float> row(8 * 128);
  for (size_t layer = 0; layer < 16; ++layer)
    cache.append(layer, id, 0, 1, row.data(), row.data(), row.size());
  EXPECT_LT(resident_bytes() - before, size_t{64} << 20) << "a run of 512 tokens of 8192";
}

TEST(kv_cache, impossible_sizes_are_errors) {
  try {
    KvCache cache({.num_layers = 16, .shape = {8, 128}, .capacity_tokens = ~size_t{0}});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kOutOfResources);
  }
  try {
    KvCache cache({.num_layers = 16, .shape = {8, 100}, .capacity_tokens = 32});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
  }
}

// Random operations against sequences of tokens in plain vectors.
TEST(kv_cache, behaves_as_plain_vectors_do) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    KvCache cache(options(32 * 12));
    std::map<SequenceId, std::vector<int>> model;
    const auto any = [&] {
      return std::next(model.begin(), static_cast<ptrdiff_t>(random() % model.size()));
    };
    int next_token = 0;
    for (int step = 0; step < 300; ++step) {
      const unsigned operation = random() % 10;
      if (model.empty() || operation == 0) {
        ASSERT_TRUE(model.emplace(cache.create(), std::vector<int>()).second);
      } else if (operation == 1) {
        const auto it = any();
        cache.release(it->first);
        model.erase(it);
      } else if (operation <= 3) {
        const auto it = any();
        const size_t count = random() % (it->second.size() + 1);
        const std::vector<int> head(it->second.begin(),
                                    it->second.begin() + static_cast<ptrdiff_t>(count));
        ASSERT_TRUE(model.emplace(cache.fork(it->first, count), head).second);
      } else if (operation == 4) {
        const auto it = any();
        it->second.resize(it->second.size() - std::min<size_t>(it->second.size(), random() % 50));
        cache.truncate(it->first, it->second.size());
      } else {
        const auto it = any();
        std::vector<int> tokens(random() % 45);
        for (int& token : tokens) token = next_token++;
        const size_t free_before = cache.free_tokens();
        if (cache.reserve(it->first, tokens.size())) {
          append(cache, it->first, it->second.size(), tokens);
          it->second.insert(it->second.end(), tokens.begin(), tokens.end());
        } else {
          EXPECT_EQ(cache.free_tokens(), free_before);
        }
      }
      if (step % 20 == 0)
        for (const auto& [id, tokens] : model) expect_holds(cache, id, tokens);
    }
    for (const auto& [id, tokens] : model) expect_holds(cache, id, tokens);
    for (const auto& [id, tokens] : model) cache.release(id);
    EXPECT_EQ(cache.free_tokens(), cache.capacity_tokens()) << "a page was lost";
  }
}

}  // namespace
}  // namespace weft::text
