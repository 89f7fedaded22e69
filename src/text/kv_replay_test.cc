#include "text/kv_replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "kernels/kv_quant.h"
#include "text/long_model.h"

namespace weft::text {
namespace {

using Storage = ReplayMethod::Storage;
using Schedule = ReplayMethod::Schedule;

constexpr size_t kLayers = 2, kWidth = 2 * 64;
constexpr kernels::KvShape kShape{.num_kv_heads = 2, .head_dim = 64};

struct Stream {
  std::vector<float> k, v;
  explicit Stream(size_t tokens) : k(tokens * kWidth), v(tokens * kWidth) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : k) x = normal(random);
    for (float& x : v) x = normal(random);
  }
};

void append(ReplayCache& cache, const Stream& s, size_t from, size_t to) {
  while (from < to) {
    const size_t end = std::min(to, cache.piece_end(0, 0, from));
    for (size_t layer = 0; layer < kLayers; ++layer)
      cache.append(layer, 0, from, end - from, s.k.data() + from * kWidth,
                   s.v.data() + from * kWidth, kWidth);
    from = end;
  }
}

std::vector<float> shown(const ReplayCache& cache, size_t layer) {
  const kernels::KvView view = cache.view(layer, 0);
  std::vector<float> all;
  std::vector<float> k(kernels::kPageTokens * 64), v(k.size());
  for (const kernels::KvPage& page : view.pages) {
    for (size_t h = 0; h < kShape.num_kv_heads; ++h) {
      kernels::dequantize_kv_page(kShape, page, h, k.data(), v.data());
      all.insert(all.end(), k.begin(), k.end());
      all.insert(all.end(), v.begin(), v.end());
    }
  }
  return all;
}

std::vector<ReplayMethod> all_methods() {
  std::vector<ReplayMethod> methods;
  for (const Storage storage : {Storage::kPages, Storage::kKivi, Storage::kBlocks}) {
    for (const Schedule schedule :
         {Schedule::kDirect, Schedule::kTwoTier, Schedule::kProgressive}) {
      for (const bool hadamard : {false, true}) {
        methods.push_back(uniform_method("m", storage, schedule, {4, 4}, kLayers));
        methods.back().hadamard = hadamard;
      }
    }
  }
  return methods;
}

// What a query sees depends on its position alone.
TEST(kv_replay, any_split_of_the_stream_shows_the_same) {
  const Stream stream(700);
  for (const ReplayMethod& method : all_methods()) {
    ReplayCache whole(method, kShape, kLayers, 700);
    append(whole, stream, 0, 700);
    for (const size_t piece : {1, 33, 127, 128, 129}) {
      ReplayCache cache(method, kShape, kLayers, 700);
      for (size_t at = 0; at < 700; at += piece)
        append(cache, stream, at, std::min<size_t>(700, at + piece));
      for (size_t layer = 0; layer < kLayers; ++layer)
        ASSERT_EQ(shown(cache, layer), shown(whole, layer)) << "pieces of " << piece;
    }
  }
}

TEST(kv_replay, sink_and_newest_tokens_are_exact_and_the_rest_is_narrow) {
  const Stream stream(600);
  ReplayCache cache(uniform_method("m", Storage::kPages, Schedule::kDirect, {4, 2}, kLayers),
                    kShape, kLayers, 600);
  append(cache, stream, 0, 600);  // last cut at 512: [32, 384) is narrow
  const auto pages = cache.view(1, 0).pages;
  for (size_t page = 0; page < pages.size(); ++page) {
    const bool narrow = page >= 1 && page < 12;
    EXPECT_EQ(pages[page].k_format, narrow ? kernels::KvFormat::kInt4 : kernels::KvFormat::kF16);
    EXPECT_EQ(pages[page].v_format, narrow ? kernels::KvFormat::kInt2 : kernels::KvFormat::kF16);
  }
  // 352 tokens of 4.5 + 2.5 bits a pair of values, 248 of 32, 128 values a token, 2 layers.
  EXPECT_EQ(cache.bytes(600), 2 * (352 * 128 * 7 + 248 * 128 * 32) / 8);
}

TEST(kv_replay, progressive_keeps_the_budget_and_is_as_wide_as_it_allows) {
  constexpr size_t kLength = 8192;
  for (const uint8_t last : {8, 4, 2}) {
    const auto make = [&](Schedule schedule) {
      return ReplayCache(uniform_method("m", Storage::kPages, schedule, {last, last}, kLayers),
                         kShape, kLayers, kLength);
    };
    const ReplayCache direct = make(Schedule::kDirect), two = make(Schedule::kTwoTier),
                      progressive = make(Schedule::kProgressive);
    size_t budget = 0;
    for (size_t p = 1; p <= kLength; ++p) budget = std::max(budget, direct.bytes(p));
    uint8_t before = 16;
    for (size_t p = 1; p <= kLength; ++p) {
      ASSERT_LE(progressive.bytes(p), budget) << p;
      ASSERT_LE(two.bytes(p), budget) << p;
      const ReplayWidths now = progressive.widths_at(0, p - 1);
      ASSERT_LE(now.k, before) << p;
      ASSERT_GE(now.k, two.widths_at(0, p - 1).k) << p;
      before = now.k;
    }
    EXPECT_EQ(progressive.widths_at(0, 0).k, 16);
    EXPECT_EQ(progressive.widths_at(0, kLength - 1).k, last);
    // §2.4, with true bytes: a budget of b bits a value lasts for about length * b / 16 at 16 bit.
    size_t exact = 0;
    while (progressive.widths_at(0, exact).k == 16) exact += kReplayCut;
    const double share = (static_cast<double>(last) + 0.5) / 16;
    EXPECT_NEAR(static_cast<double>(exact), share * kLength, 2.5 * kReplayCut) << int{last};
  }
}

TEST(kv_replay, foreign_formats_round_as_they_say) {
  const Stream stream(512);
  const auto error = [&](ReplayMethod method) {
    ReplayCache exact(uniform_method("x", Storage::kPages, Schedule::kDirect, {16, 16}, kLayers),
                      kShape, kLayers, 512);
    ReplayCache cache(std::move(method), kShape, kLayers, 512);
    append(exact, stream, 0, 512);
    append(cache, stream, 0, 512);
    const std::vector<float> a = shown(exact, 0), b = shown(cache, 0);
    double squares = 0, power = 0;
    // Pages 1 ... 7: narrow in all methods.
    const size_t page = 4 * 32 * 64;
    for (size_t i = page; i < 8 * page; ++i) {
      squares += std::pow(static_cast<double>(a[i] - b[i]), 2);
      power += std::pow(static_cast<double>(a[i]), 2);
    }
    return std::sqrt(squares / power);
  };
  const auto blocks = [&](uint8_t bits) {
    return uniform_method("b", Storage::kBlocks, Schedule::kDirect, {bits, bits}, kLayers);
  };
  // pm-kvq.md §5.2, Gaussian values: q8_0 0.0054, q4_0 0.0860; asymmetric groups of 32: 0.0780.
  EXPECT_NEAR(error(blocks(8)), 0.0054, 0.0003);
  EXPECT_NEAR(error(blocks(4)), 0.0860, 0.003);
  EXPECT_NEAR(error(uniform_method("k", Storage::kKivi, Schedule::kDirect, {4, 4}, kLayers)),
              0.0780, 0.003);
  // A rotation of Gaussian values is as Gaussian.
  ReplayMethod rotated = blocks(4);
  rotated.hadamard = true;
  EXPECT_NEAR(error(rotated), 0.0860, 0.003);
  ReplayMethod pages = uniform_method("p", Storage::kPages, Schedule::kDirect, {4, 4}, kLayers);
  pages.hadamard = true;
  EXPECT_NEAR(error(pages), 0.0898, 0.003);
}

TEST(kv_replay, exact_caches_agree_with_themselves_and_narrow_ones_less_the_narrower) {
  const LongModel model(WEFT_SOURCE_DIR "/tests/data/parity/llama3_tied");
  std::vector<models::Token> tokens(640);
  std::mt19937 random(5);
  for (models::Token& t : tokens)
    t = static_cast<models::Token>(random() % model.config().vocab_size);
  std::vector<ReplayMethod> methods;
  const size_t layers = model.config().num_layers;
  for (const uint8_t bits : {16, 8, 4, 2})
    methods.push_back(
        uniform_method("m", Storage::kPages, Schedule::kDirect, {bits, bits}, layers));
  const auto whole = replay_kv(model, tokens, methods, {.bucket_tokens = 100}, CoreSet());
  const auto pieces =
      replay_kv(model, tokens, methods, {.bucket_tokens = 100, .pass_tokens = 50}, CoreSet());
  EXPECT_EQ(whole[0].total().kl, 0);
  EXPECT_EQ(whole[0].total().agree, tokens.size() - 1);
  EXPECT_EQ(whole[0].buckets.size(), (tokens.size() - 1 + 99) / 100);
  EXPECT_EQ(whole[0].total().perplexity(), whole[0].total().exact_perplexity());
  for (size_t i = 0; i < methods.size(); ++i) EXPECT_EQ(whole[i].total().kl, pieces[i].total().kl);
  for (size_t i = 1; i + 1 < methods.size(); ++i)
    EXPECT_LT(whole[i].total().kl, whole[i + 1].total().kl);
  EXPECT_GT(whole[1].total().kl, 0);
}

TEST(kv_replay, bad_methods_are_named) {
  const auto make = [](ReplayMethod method, kernels::KvShape shape) {
    return ReplayCache(std::move(method), shape, kLayers, 100);
  };
  const auto method = [](Storage storage, ReplayWidths w, bool hadamard = false) {
    ReplayMethod m = uniform_method("mine", storage, Schedule::kDirect, w, kLayers);
    m.hadamard = hadamard;
    return m;
  };
  EXPECT_THROW(make(method(Storage::kPages, {3, 4}), kShape), Error);
  EXPECT_THROW(make(method(Storage::kBlocks, {2, 4}), kShape), Error);
  EXPECT_THROW(make(method(Storage::kPages, {4, 4}, true), {1, 80}), Error);
  EXPECT_THROW(make(method(Storage::kKivi, {4, 4}), {1, 80}), Error);
  ReplayMethod short_one = method(Storage::kPages, {4, 4});
  short_one.widths.pop_back();
  EXPECT_THROW(make(short_one, kShape), Error);
}

}  // namespace
}  // namespace weft::text
