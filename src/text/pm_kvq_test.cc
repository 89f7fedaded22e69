#include "text/pm_kvq.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

#include "base/error.h"
#include "kernels/quantize.h"
#include "text/kv_cache.h"

namespace weft::text {
namespace {

using kernels::KvFormat;
using kernels::KvPage;
using kernels::kPageTokens;

constexpr size_t kLayers = 3, kHeads = 2, kDim = 16, kWidth = kHeads * kDim;
constexpr kernels::KvShape kShape{.num_kv_heads = kHeads, .head_dim = kDim};
constexpr size_t kBlockBytes = kLayers * 2 * kWidth * kPageTokens * 2;

std::shared_ptr<const KvPolicy> policy(const KvPolicyOptions& options) {
  return std::make_shared<KvPolicy>(options, kLayers, kShape);
}

std::shared_ptr<const KvPolicy> direct(uint8_t k, uint8_t v) {
  return policy({.mode = KvMode::kDirect, .widths = {k, v}});
}

std::shared_ptr<const KvPolicy> progressive(size_t blocks, size_t length, KvWidths least = {2, 2}) {
  return policy({.mode = KvMode::kProgressive,
                 .widths = least,
                 .budget_bytes = blocks * kBlockBytes,
                 .max_length = length});
}

KvCacheOptions options(size_t blocks, std::shared_ptr<const KvPolicy> policy) {
  return {.num_layers = kLayers,
          .shape = kShape,
          .capacity_tokens = blocks * kPageTokens,
          .policy = std::move(policy)};
}

float value_of(int token, size_t layer, size_t feature, bool is_key) {
  uint32_t h = static_cast<uint32_t>(token) * 2654435761u + static_cast<uint32_t>(layer) * 40503u +
               static_cast<uint32_t>(feature) * 97u + is_key;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  return static_cast<float>(h % 2001) / 500.0f - 2.0f;
}

struct Rows {
  std::vector<float> k, v;
  Rows(std::span<const int> tokens, size_t layer) : k(tokens.size() * kWidth), v(k.size()) {
    for (size_t i = 0; i < k.size(); ++i) {
      k[i] = value_of(tokens[i / kWidth], layer, i % kWidth, true);
      v[i] = value_of(tokens[i / kWidth], layer, i % kWidth, false);
    }
  }
};

// As a model appends what it reads in one pass.
void append(KvCache& cache, SequenceId id, size_t first, std::span<const int> tokens) {
  for (size_t layer = 0; layer < kLayers; ++layer) {
    const Rows rows(tokens, layer);
    for (size_t done = 0; done < tokens.size();) {
      const size_t end = cache.piece_end(layer, id, first + done);
      const size_t count = std::min(tokens.size() - done, end - first - done);
      cache.append(layer, id, first + done, count, rows.k.data() + done * kWidth,
                   rows.v.data() + done * kWidth, kWidth);
      done += count;
    }
  }
}

// All of `tokens` after the first `stored`, in passes of at most `piece`. False: no room.
[[nodiscard]] bool feed(KvCache& cache, SequenceId id, const std::vector<int>& tokens,
                        size_t piece) {
  for (size_t stored = cache.length(id); stored < tokens.size();) {
    const size_t count = std::min({piece, tokens.size() - stored, cache.max_piece(id)});
    if (!cache.reserve(id, count)) return false;
    append(cache, id, stored, std::span(tokens).subspan(stored, count));
    stored += count;
  }
  return true;
}

std::vector<int> some_tokens(size_t n, int seed = 0) {
  std::vector<int> tokens(n);
  for (size_t i = 0; i < n; ++i) tokens[i] = static_cast<int>(i) * 13 + seed;
  return tokens;
}

// ---- the naive model: a page made anew from its values

struct NaivePage {
  std::vector<uint8_t> codes, meta;
  KvPage page;
};

KvFormat format_of(size_t bits) {
  return bits == 16 ? KvFormat::kF16
                    : bits == 8 ? KvFormat::kInt8 : bits == 4 ? KvFormat::kInt4 : KvFormat::kInt2;
}

NaivePage naive_page(std::span<const int> tokens, size_t layer, KvWidths w) {
  const size_t head = 2 * kShape.head_bytes(KvFormat::kF16);
  NaivePage out;
  std::vector<uint8_t> wide(kHeads * head);
  const Rows rows(tokens, layer);
  kernels::write_kv(kShape, KvFormat::kF16, wide.data(), head, 0, tokens.size(), rows.k.data(),
                    rows.v.data(), kWidth);
  if (w == KvWidths{}) {
    out.codes = std::move(wide);
    out.page = {.data = out.codes.data(), .head_stride = head};
    return out;
  }
  out.codes.resize(kHeads * head);
  out.meta.resize(kShape.meta_page_bytes());
  const kernels::KvPageOut to{.data = out.codes.data(),
                              .head_stride = head,
                              .k_format = format_of(w.k),
                              .v_format = format_of(w.v),
                              .meta = out.meta.data(),
                              .meta_stride = kShape.meta_head_bytes()};
  EXPECT_FALSE(kernels::quantize_kv_page(kShape, {.data = wide.data(), .head_stride = head}, to));
  out.page = to;
  return out;
}

// The widths of a page of a sequence with so many tokens: what the last pass has left.
KvWidths naive_widths(const KvPolicy* policy, size_t layer, size_t page, size_t length) {
  if (policy == nullptr || page == 0 || length == 0) return {};
  const size_t cut = policy->last_cut(layer, length - 1);
  if (cut == KvPolicy::kNever || page > KvPolicy::narrow_pages(cut)) return {};
  return policy->widths(layer, policy->tier(layer, policy->steps_at(layer, cut)));
}

void expect_same_head(const KvPage& a, const KvPage& b, size_t head, size_t tokens,
                      const std::string& where) {
  ASSERT_EQ(a.k_format, b.k_format) << where;
  ASSERT_EQ(a.v_format, b.v_format) << where;
  if (tokens == kPageTokens) {  // all bytes
    ASSERT_EQ(0, std::memcmp(a.head_keys(head), b.head_keys(head), kShape.head_bytes(a.k_format)))
        << where;
    ASSERT_EQ(0, std::memcmp(a.head_values(kShape, head), b.head_values(kShape, head),
                             kShape.head_bytes(a.v_format)))
        << where;
    // Metadata of a side in 16 bit is not written.
    const size_t half = kShape.meta_head_bytes() / 2;
    const auto meta = [&](const KvPage& p) { return p.meta + head * p.meta_stride; };
    if (kernels::is_quantized(a.k_format)) {
      ASSERT_EQ(0, std::memcmp(meta(a), meta(b), half)) << where;
    }
    if (kernels::is_quantized(a.v_format)) {
      ASSERT_EQ(0, std::memcmp(meta(a) + half, meta(b) + half, half)) << where;
    }
    return;
  }
  std::vector<float> ka(kPageTokens * kDim), va(ka), kb(ka), vb(ka);
  kernels::dequantize_kv_page(kShape, a, head, ka.data(), va.data());
  kernels::dequantize_kv_page(kShape, b, head, kb.data(), vb.data());
  ka.resize(tokens * kDim);
  kb.resize(tokens * kDim);
  va.resize(tokens * kDim);
  vb.resize(tokens * kDim);
  ASSERT_EQ(ka, kb) << where;
  ASSERT_EQ(va, vb) << where;
}

void expect_holds(const KvCache& cache, SequenceId id, const std::vector<int>& tokens) {
  ASSERT_EQ(cache.length(id), tokens.size());
  const KvPolicy* const policy = cache.pool()->options().policy.get();
  for (size_t layer = 0; layer < kLayers; ++layer) {
    const kernels::KvView view = cache.view(layer, id);
    ASSERT_EQ(view.length, tokens.size());
    for (size_t page = 0; page < view.pages.size(); ++page) {
      const size_t first = page * kPageTokens, count = std::min(kPageTokens, tokens.size() - first);
      const NaivePage naive = naive_page(std::span(tokens).subspan(first, count), layer,
                                         naive_widths(policy, layer, page, tokens.size()));
      for (size_t head = 0; head < kHeads; ++head) {
        expect_same_head(view.pages[page], naive.page, head, count,
                         fmt::format("layer {}, page {}, {} tokens", layer, page, tokens.size()));
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
  EXPECT_EQ(cache.audit(), "");
}

std::vector<std::pair<std::string, std::shared_ptr<const KvPolicy>>> policies() {
  KvPolicyOptions by_layer{.mode = KvMode::kProgressive,
                           .layer_widths = {{8, 4}, {4, 2}, {2, 2}},
                           .budget_bytes = 22 * kBlockBytes,
                           .max_length = 2000};
  by_layer.sensitivities = {{{.1, .2, .9}, {.1, .3, .5}}, {{.2, .4, 2}, {.0, .1, .2}},
                            {{.1, .1, .1}, {.1, .1, .1}}};
  return {{"8", direct(8, 8)},
          {"4", direct(4, 4)},
          {"2", direct(2, 2)},
          {"k8v4", direct(8, 4)},
          {"k16v4", direct(16, 4)},
          {"k4v16", direct(4, 16)},
          {"progressive", progressive(24, 2000)},
          {"progressive to k4v2", progressive(26, 2000, {4, 2})},
          {"by layer", policy(by_layer)}};
}

TEST(pm_kvq, any_split_of_the_tokens_gives_the_same_bytes) {
  for (const auto& [name, its_policy] : policies()) {
    SCOPED_TRACE(name);
    const std::vector<int> tokens = some_tokens(std::min<size_t>(1500, its_policy->max_length()));
    for (const size_t piece : {1, 2, 127, 128, 129, 1000}) {
      SCOPED_TRACE(piece);
      KvCache cache(options(60, its_policy));
      const SequenceId id = cache.create();
      ASSERT_TRUE(feed(cache, id, tokens, piece));
      expect_holds(cache, id, tokens);
      cache.release(id);
      EXPECT_EQ(cache.free_tokens(), cache.capacity_tokens());
    }
  }
}

TEST(pm_kvq, every_length_has_the_naive_models_pages) {
  const auto its_policy = progressive(22, 1400);
  KvCache cache(options(30, its_policy));
  const SequenceId id = cache.create();
  const std::vector<int> tokens = some_tokens(its_policy->max_length());
  ASSERT_GE(tokens.size(), 1200u);
  for (size_t length = 1; length <= tokens.size(); ++length) {
    const std::vector<int> so_far(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(length));
    ASSERT_TRUE(feed(cache, id, so_far, 1));
    if (length % 8 <= 1) expect_holds(cache, id, so_far);
    if (HasFatalFailure()) return;
  }
}

TEST(pm_kvq, bytes_stay_within_the_budget_after_every_append) {
  for (const size_t blocks : {16, 19, 24, 40}) {
    for (const size_t piece : {1, 50, 128, 700}) {
      SCOPED_TRACE(fmt::format("{} blocks, pieces of {}", blocks, piece));
      const auto its_policy = progressive(blocks, 4000);
      KvCache cache(options(blocks, its_policy));  // and the pool has no more
      const SequenceId id = cache.create();
      const std::vector<int> tokens = some_tokens(its_policy->max_length());
      std::vector<int> so_far;
      while (so_far.size() < tokens.size()) {
        const size_t more = std::min(piece, tokens.size() - so_far.size());
        so_far.insert(so_far.end(), tokens.begin() + static_cast<ptrdiff_t>(so_far.size()),
                      tokens.begin() + static_cast<ptrdiff_t>(so_far.size() + more));
        ASSERT_TRUE(feed(cache, id, so_far, piece)) << so_far.size();
        const KvUsage usage = cache.usage(id);
        ASSERT_LE(usage.block_bytes, blocks * kBlockBytes);
        size_t used = usage.meta_bytes;
        for (const size_t bytes : usage.code_bytes) used += bytes;
        ASSERT_LE(used, usage.block_bytes);
      }
      expect_holds(cache, id, tokens);
    }
  }
}

// §2.4 with true bytes. A cycle of 128 tokens takes 4 pages of 16 bit; a budget of 40 blocks holds
// 10 cycles less the cell that narrowing begins with, so the 10th needs a narrower layer already.
TEST(pm_kvq, narrowing_begins_when_the_budget_is_full) {
  const auto its_policy = progressive(40, 100000);
  EXPECT_EQ(its_policy->exact_until(), 8u * 128);
  EXPECT_EQ(progressive(41, 100000)->exact_until(), 9u * 128);
  // At 2 bit a page of a layer takes 2 / 8 of a cell, and its metadata 1 / 4 (groups of 16): a
  // quarter of its 2 cells at 16 bit. Sink and newest tokens, up to 11 pages, stay there.
  EXPECT_GT(its_policy->max_length(), (40u - 12) * 32 * 4);
  EXPECT_LT(its_policy->max_length(), 40u * 32 * 4);
  EXPECT_EQ(progressive(40, 1280)->exact_until(), KvPolicy::kNever) << "never full";
  EXPECT_EQ(direct(16, 16)->exact_until(), KvPolicy::kNever);
  EXPECT_EQ(direct(8, 16)->exact_until(), 0u);
}

// 40 blocks are ten cuts' worth of 16 bit, exactly: the schedule goes on there as it does with a block
// more, and the last blocks are used.
TEST(pm_kvq, a_budget_that_ends_at_a_cut_does_not_end_the_schedule) {
  for (const size_t blocks : {16, 20, 24, 28, 32, 36, 40, 64, 256}) {
    const size_t longest = progressive(blocks, 100000)->max_length();
    const size_t less = progressive(blocks - 1, 100000)->max_length();
    const size_t more = progressive(blocks + 1, 100000)->max_length();
    EXPECT_LE(less, longest) << blocks;
    EXPECT_LE(longest, more) << blocks;
    EXPECT_LE(more - less, 4 * KvPolicy::kCutTokens) << blocks;
    EXPECT_GT(longest, blocks * kPageTokens) << blocks << ": not even what 16 bit holds";
  }
}

// What direct storage takes at its largest is enough, to the byte, for progressive storage of as many
// tokens to the same widths.
TEST(pm_kvq, the_bytes_of_direct_storage_hold_as_many_tokens) {
  for (const uint8_t bits : {8, 4, 2})
    for (const size_t length : {1000, 1024, 1280, 2000, 4096, 5000, 8192}) {
      const size_t blocks = direct(bits, bits)->peak_blocks(length);
      const auto its_policy = progressive(blocks, length, {bits, bits});
      EXPECT_EQ(its_policy->max_length(), length) << int{bits} << " bit, " << blocks << " blocks";
      EXPECT_GT(its_policy->exact_until(), 0u);
    }
}

// ---- under pressure

std::shared_ptr<const KvPolicy> pressure(KvWidths least = {2, 2}) {
  return policy({.mode = KvMode::kPressure, .widths = least});
}

// What each sequence shows is what the naive model makes of its values in the widths that the cache
// says it has: the same pages, wherever they lie.
void expect_pressed(const KvCache& cache, SequenceId id, const std::vector<int>& tokens) {
  ASSERT_EQ(cache.audit(), "");
  for (size_t layer = 0; layer < kLayers; ++layer) {
    const kernels::KvView view = cache.view(layer, id);
    ASSERT_EQ(view.length, tokens.size());
    for (size_t page = 0; page < view.pages.size(); ++page) {
      const size_t first = page * kPageTokens, count = std::min(kPageTokens, tokens.size() - first);
      const bool narrow = view.pages[page].k_format != KvFormat::kF16 ||
                          view.pages[page].v_format != KvFormat::kF16;
      const KvWidths w = narrow ? cache.widths(layer, id) : KvWidths{};
      const NaivePage naive = naive_page(std::span(tokens).subspan(first, count), layer, w);
      std::vector<float> k(kPageTokens * kDim), v(k), naive_k(k), naive_v(k);
      for (size_t h = 0; h < kHeads; ++h) {
        kernels::dequantize_kv_page(kShape, view.pages[page], h, k.data(), v.data());
        kernels::dequantize_kv_page(kShape, naive.page, h, naive_k.data(), naive_v.data());
        for (size_t i = 0; i < count * kDim; ++i) {
          ASSERT_EQ(k[i], naive_k[i]) << "layer " << layer << ", page " << page;
          ASSERT_EQ(v[i], naive_v[i]) << "layer " << layer << ", page " << page;
        }
      }
    }
  }
}

TEST(pm_kvq, with_room_pressure_narrows_nothing) {
  KvCache cache(options(44, pressure()));
  const SequenceId id = cache.create();
  const std::vector<int> tokens = some_tokens(43 * kPageTokens);
  ASSERT_TRUE(feed(cache, id, tokens, 100));
  EXPECT_EQ(cache.usage(id).code_bytes[0], 43 * kBlockBytes);
  expect_pressed(cache, id, tokens);
}

// Two sequences share 60 blocks and grow to 42 each: both end up narrow, none far ahead, nothing is lost,
// and what one gives back the other takes.
TEST(pm_kvq, under_pressure_the_least_narrow_gives_first) {
  KvCache cache(options(60, pressure()));
  const SequenceId a = cache.create(), b = cache.create();
  const std::vector<int> first = some_tokens(42 * kPageTokens, 1), second = some_tokens(42 * kPageTokens, 9);
  for (size_t length = 128; length <= first.size(); length += 64) {
    for (const auto& [id, all] : {std::pair(a, &first), {b, &second}}) {
      const std::vector<int> tokens(all->begin(), all->begin() + static_cast<ptrdiff_t>(length));
      ASSERT_TRUE(feed(cache, id, tokens, 64)) << length;
      ASSERT_LE(cache.usage().block_bytes, 60 * kBlockBytes);
      expect_pressed(cache, id, tokens);
    }
  }
  expect_pressed(cache, a, first);
  EXPECT_LT(cache.usage(a).code_bytes[0], 42 * kBlockBytes / 2);
  EXPECT_LT(cache.usage(b).code_bytes[0], 42 * kBlockBytes / 2);
  cache.release(a);
  cache.release(b);
  EXPECT_EQ(cache.free_tokens(), 60 * kPageTokens) << "blocks are lost";
}

TEST(pm_kvq, pressure_says_what_it_could_give_and_ends_where_nothing_is_left) {
  KvCache cache(options(40, pressure()));
  const SequenceId a = cache.create();
  ASSERT_TRUE(feed(cache, a, some_tokens(30 * kPageTokens), 128));
  const size_t could = cache.reclaimable_tokens();
  EXPECT_GT(could, 0u);
  const SequenceId b = cache.create();
  // Longer than all that there is.
  const std::vector<int> tokens = some_tokens(400 * kPageTokens, 3);
  EXPECT_FALSE(feed(cache, b, tokens, 128));
  EXPECT_EQ(cache.audit(), "");
  // Another cycle of the schedule fits in what it is sure to reach.
  const size_t sure = 40 - pressure()->peak_blocks(30 * kPageTokens);
  EXPECT_GE(cache.length(b), (sure - 4) * kPageTokens);
  EXPECT_EQ(cache.usage(a).code_bytes[1], 0u) << "8 bit is left somewhere, but b found no room";
  expect_pressed(cache, a, some_tokens(30 * kPageTokens));
}

// A prefix that others read is not narrowed under their feet; its readers are, in their own copies.
TEST(pm_kvq, pressure_leaves_shared_pages_alone) {
  KvCache cache(options(48, pressure()));
  const SequenceId a = cache.create();
  std::vector<Token> tokens(20 * kPageTokens);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<Token>(i * 13);
  const std::vector<int> same(tokens.begin(), tokens.end());
  ASSERT_TRUE(feed(cache, a, same, 128));
  cache.keep_prefix(a, 0, tokens);
  const SequenceId b = cache.create_from_prefix(0, tokens);
  ASSERT_EQ(cache.length(b), same.size());
  const SequenceId c = cache.create();
  EXPECT_FALSE(feed(cache, c, some_tokens(400 * kPageTokens, 5), 128));
  expect_pressed(cache, a, same);
  expect_pressed(cache, b, same);
  EXPECT_EQ(cache.usage(a).code_bytes[0], 20 * kBlockBytes);
  cache.release(b);
  // Now a's alone, though kept: they may.
  const size_t before = cache.length(c);
  EXPECT_FALSE(feed(cache, c, some_tokens(400 * kPageTokens, 5), 128));
  EXPECT_GT(cache.length(c), before);
  expect_pressed(cache, a, same);
  EXPECT_LT(cache.usage(a).code_bytes[0], 20 * kBlockBytes);
}

// One layer's step at a time, spread over the cycle.
TEST(pm_kvq, no_two_of_the_layers_narrow_at_the_same_token) {
  const KvPolicy its_policy({.mode = KvMode::kProgressive,
                             .widths = {2, 2},
                             .budget_bytes = 16 * 30 * 2 * kWidth * kPageTokens * 2,
                             .max_length = 1500},
                            16, kShape);
  for (size_t position = 0; position < 1500; ++position) {
    size_t cuts = 0;
    for (size_t layer = 0; layer < 16; ++layer)
      cuts += its_policy.last_cut(layer, position) == position;
    EXPECT_LE(cuts, 1u) << position;
  }
}

TEST(pm_kvq, narrower_layers_are_the_deep_ones_or_those_that_mind_least) {
  const auto by_depth = progressive(24, 1500);
  EXPECT_EQ(by_depth->tier(2, 1), 1u) << "the deepest layer first";
  EXPECT_EQ(by_depth->tier(0, 2), 0u);
  EXPECT_EQ(by_depth->tier(0, 3), 1u);
  KvPolicyOptions o{.mode = KvMode::kProgressive,
                    .widths = {8, 8},
                    .budget_bytes = 24 * kBlockBytes,
                    .max_length = 900};
  o.sensitivities = {{{.1, 1, 1}, {.1, 1, 1}}, {{.3, 1, 1}, {.3, 1, 1}}, {{.2, 1, 1}, {.2, 1, 1}}};
  const auto by_loss = policy(o);
  EXPECT_EQ(by_loss->tier(0, 1), 1u);
  EXPECT_EQ(by_loss->tier(2, 2), 1u);
  EXPECT_EQ(by_loss->tier(1, 2), 0u);
}

TEST(pm_kvq, truncate_keeps_what_is_still_exact_and_else_the_first_page) {
  KvCache cache(options(60, direct(4, 4)));
  const SequenceId id = cache.create();
  const std::vector<int> tokens = some_tokens(600);
  ASSERT_TRUE(feed(cache, id, tokens, 100));
  // Layer phases are 0, 40 and 80: the last cuts before 600 were at 512, 552 and 592.
  std::vector<int> shorter(tokens.begin(), tokens.begin() + 593);
  EXPECT_EQ(cache.truncate(id, 593), 593u);
  expect_holds(cache, id, shorter);
  ASSERT_TRUE(feed(cache, id, tokens, 1));
  expect_holds(cache, id, tokens);
  EXPECT_EQ(cache.truncate(id, 591), kPageTokens);
  expect_holds(cache, id, some_tokens(kPageTokens));
  ASSERT_TRUE(feed(cache, id, tokens, 33));
  expect_holds(cache, id, tokens);
  EXPECT_EQ(cache.truncate(id, 0), 0u);
  EXPECT_EQ(cache.free_tokens(), cache.capacity_tokens());
}

TEST(pm_kvq, a_fork_is_a_copy_once_somebody_writes) {
  KvCache cache(options(60, progressive(20, 1500)));
  const SequenceId a = cache.create();
  std::vector<int> tokens = some_tokens(1000);
  ASSERT_TRUE(feed(cache, a, tokens, 64));
  const size_t free_before = cache.free_tokens();
  const SequenceId b = cache.fork(a, 1000);
  EXPECT_EQ(cache.free_tokens(), free_before) << "a fork takes no pages";
  expect_holds(cache, b, tokens);
  std::vector<int> longer = tokens;
  for (int i = 0; i < 200; ++i) longer.push_back(-i);
  ASSERT_TRUE(feed(cache, b, longer, 64));
  expect_holds(cache, a, tokens);
  expect_holds(cache, b, longer);
  cache.release(a);
  expect_holds(cache, b, longer);
  cache.release(b);
  EXPECT_EQ(cache.free_tokens(), cache.capacity_tokens());
  EXPECT_EQ(cache.pool()->audit(), "");
}

std::vector<Token> as_text(const std::vector<int>& tokens) {
  return {tokens.begin(), tokens.end()};
}

TEST(pm_kvq, prefixes_from_before_the_first_narrowing_are_found) {
  const auto its_policy = progressive(24, 1500);
  KvCache cache(options(80, its_policy));
  const std::vector<int> tokens = some_tokens(1000);
  const std::vector<Token> text = as_text(tokens);
  const SequenceId a = cache.create();
  for (size_t length = 0; length < 1000; length += 50) {
    ASSERT_TRUE(feed(cache, a, {tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(length + 50)}, 50));
    cache.keep_prefix(a, 0, text);
  }
  expect_holds(cache, a, tokens);
  const SequenceId b = cache.create_from_prefix(0, text);
  EXPECT_GT(cache.length(b), its_policy->exact_until() * 8 / 10);
  EXPECT_LE(cache.length(b), its_policy->exact_until());
  ASSERT_TRUE(feed(cache, b, tokens, 70));
  expect_holds(cache, b, tokens);
  expect_holds(cache, a, tokens);
  cache.release(a);
  cache.release(b);
  EXPECT_EQ(cache.pool()->audit(), "");
  EXPECT_EQ(cache.free_tokens(), cache.capacity_tokens());
}

// With nothing free, kept blocks become their owner's again instead of being copied.
TEST(pm_kvq, kept_prefixes_do_not_keep_a_full_pool_from_narrowing) {
  const auto its_policy = progressive(24, 1500);
  KvCache cache(options(24, its_policy));
  const std::vector<int> tokens = some_tokens(its_policy->max_length());
  const SequenceId id = cache.create();
  std::vector<int> so_far;
  for (const int token : tokens) {
    so_far.push_back(token);
    ASSERT_TRUE(feed(cache, id, so_far, 1)) << so_far.size();
    cache.keep_prefix(id, 0, as_text(so_far));
  }
  expect_holds(cache, id, tokens);
  cache.release(id);
  EXPECT_EQ(cache.pool()->audit(), "");
}

// 10^4 random operations against vectors of tokens.
TEST(pm_kvq, random_operations_behave_as_plain_vectors_do) {
  for (const auto& [name, its_policy] : policies()) {
    SCOPED_TRACE(name);
    std::mt19937 random(7);
    const auto pool = std::make_shared<KvPool>(options(90, its_policy));
    KvCache caches[2] = {KvCache(pool), KvCache(pool)};
    struct Known {
      size_t cache;
      SequenceId id;
      std::vector<int> tokens;
    };
    std::vector<Known> known;
    const size_t longest = std::min<size_t>(its_policy->max_length(), 1300);
    int next_token = 0;
    for (int step = 0; step < 1200; ++step) {
      const unsigned operation = random() % 16;
      if (known.empty() || operation == 0) {
        const size_t which = random() % 2;
        known.push_back({which, caches[which].create(), {}});
        continue;
      }
      const size_t at = random() % known.size();
      Known& it = known[at];
      KvCache& cache = caches[it.cache];
      if (operation == 1) {
        cache.release(it.id);
        known.erase(known.begin() + static_cast<ptrdiff_t>(at));
      } else if (operation == 2) {
        const size_t count = random() % 3 == 0 ? random() % (it.tokens.size() + 1) : it.tokens.size();
        const SequenceId id = cache.fork(it.id, count);
        std::vector<int> head = it.tokens;
        ASSERT_LE(cache.length(id), count);
        head.resize(cache.length(id));
        known.push_back({it.cache, id, std::move(head)});
      } else if (operation == 3) {
        const size_t less = it.tokens.size() - std::min<size_t>(it.tokens.size(), random() % 40);
        it.tokens.resize(cache.truncate(it.id, less));
      } else if (operation == 4) {
        cache.keep_prefix(it.id, 0, as_text(it.tokens));
      } else if (operation == 5) {
        const std::vector<Token> text = as_text(it.tokens);
        const SequenceId id = cache.create_from_prefix(0, text);
        std::vector<int> head = it.tokens;
        head.resize(cache.length(id));
        known.push_back({it.cache, id, std::move(head)});
      } else if (operation == 6) {
        KvSequence moving = cache.take_out(it.id);
        it.cache = 1 - it.cache;
        it.id = caches[it.cache].put_in(std::move(moving));
      } else {
        std::vector<int> longer = it.tokens;
        const size_t most = longest - longer.size();
        for (size_t n = std::min<size_t>(most, random() % 150); n > 0; --n)
          longer.push_back(random() % 50 == 0 ? next_token++ : static_cast<int>(longer.size()));
        if (!feed(cache, it.id, longer, 1 + random() % 150)) longer.resize(cache.length(it.id));
        it.tokens = std::move(longer);
      }
      if (step % 60 == 0)
        for (const Known& each : known) expect_holds(caches[each.cache], each.id, each.tokens);
      if (HasFatalFailure()) return;
      if (known.size() > 12) {
        caches[known.front().cache].release(known.front().id);
        known.erase(known.begin());
      }
    }
    for (const Known& each : known) expect_holds(caches[each.cache], each.id, each.tokens);
    for (const Known& each : known) caches[each.cache].release(each.id);
    EXPECT_EQ(pool->audit(), "");
    EXPECT_EQ(pool->free_tokens(), pool->capacity_tokens()) << "a block was lost";
  }
}

TEST(pm_kvq, a_value_that_is_no_number_is_named_with_layer_and_position) {
  KvCache cache(options(20, direct(8, 8)));
  const SequenceId id = cache.create();
  ASSERT_TRUE(cache.reserve(id, 400));
  const std::vector<float> fine(kWidth, 1.0f);
  std::vector<float> bad = fine;
  bad[3] = std::numeric_limits<float>::quiet_NaN();
  for (size_t position = 0; position < 400; ++position)
    for (size_t layer = 0; layer < kLayers; ++layer)
      cache.append(layer, id, position, 1, fine.data(),
                   layer == 1 && position == 77 ? bad.data() : fine.data(), kWidth);
  ASSERT_TRUE(cache.bad_value(id).has_value());
  EXPECT_EQ(cache.bad_value(id)->layer, 1u);
  EXPECT_EQ(cache.bad_value(id)->position, 77u);
  EXPECT_FALSE(cache.bad_value(id)->is_key);
}

TEST(pm_kvq, options_that_cannot_be_are_errors) {
  const auto message = [](KvPolicyOptions o) {
    try {
      policy(o);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
      return std::string(e.what());
    }
    return std::string();
  };
  const KvMode progressive = KvMode::kProgressive;
  EXPECT_NE(message({.mode = KvMode::kDirect, .widths = {3, 8}}).find("3 bits"), std::string::npos);
  EXPECT_NE(message({.mode = KvMode::kDirect, .layer_widths = {{8, 8}}}).find("1 layers"),
            std::string::npos);
  EXPECT_NE(message({.mode = KvMode::kDirect, .layer_widths = {{8, 8}, {8, 8}, {8, 0}}})
                .find("layer 2"),
            std::string::npos);
  EXPECT_NE(message({.mode = progressive, .max_length = 100}).find("budget"), std::string::npos);
  EXPECT_NE(message({.mode = progressive, .budget_bytes = 1 << 30}).find("0 tokens"),
            std::string::npos);
  EXPECT_NE(message({.mode = progressive, .widths = {2, 2}, .budget_bytes = 4 * kBlockBytes,
                     .max_length = 1000})
                .find("too small"),
            std::string::npos);
  EXPECT_NE(message({.mode = progressive, .budget_bytes = 1 << 30, .max_length = ~size_t{0}})
                .find("longest sequence"),
            std::string::npos);
}

}  // namespace
}  // namespace weft::text
