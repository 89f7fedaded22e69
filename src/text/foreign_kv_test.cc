#include "text/foreign_kv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.h"
#include "kernels/kv_quant.h"
#include "kernels/kv_transform.h"

namespace weft::text {
namespace {

using Format = ForeignKv::Format;

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

void append(ForeignKvCache& cache, const Stream& s, size_t from, size_t to) {
  while (from < to) {
    const size_t end = std::min(to, cache.piece_end(0, 0, from));
    for (size_t layer = 0; layer < kLayers; ++layer)
      cache.append(layer, 0, from, end - from, s.k.data() + from * kWidth,
                   s.v.data() + from * kWidth, kWidth);
    from = end;
  }
}

std::vector<float> shown(const ForeignKvCache& cache, size_t layer) {
  std::vector<float> all, k(kernels::kPageTokens * 64), v(k.size());
  for (const kernels::KvPage& page : cache.view(layer, 0).pages) {
    for (size_t h = 0; h < kShape.num_kv_heads; ++h) {
      kernels::dequantize_kv_page(kShape, page, h, k.data(), v.data());
      all.insert(all.end(), k.begin(), k.end());
      all.insert(all.end(), v.begin(), v.end());
    }
  }
  return all;
}

std::vector<ForeignKv> all_formats() {
  std::vector<ForeignKv> out;
  for (const Format format : {Format::kKivi, Format::kBlocks, Format::kTwoTier})
    out.push_back({.format = format, .widths = {4, 4}, .budget_bytes = kLayers * kWidth * 4 * 450});
  return out;
}

// What a query sees depends on its position alone, and a copy goes on as the original does.
TEST(foreign_kv, any_split_of_the_stream_shows_the_same) {
  const Stream stream(700);
  for (const ForeignKv& format : all_formats()) {
    ForeignKvCache whole(format, kShape, kLayers, 700);
    append(whole, stream, 0, 700);
    for (const size_t piece : {1, 33, 127, 128, 129}) {
      ForeignKvCache cache(format, kShape, kLayers, 700);
      for (size_t at = 0; at < 700; at += piece)
        append(cache, stream, at, std::min<size_t>(700, at + piece));
      for (size_t layer = 0; layer < kLayers; ++layer)
        ASSERT_EQ(shown(cache, layer), shown(whole, layer)) << "pieces of " << piece;
    }
    ForeignKvCache first(format, kShape, kLayers, 700);
    append(first, stream, 0, 300);
    ForeignKvCache copy = first;
    append(first, Stream(500), 300, 400);
    append(copy, stream, 300, 700);
    EXPECT_EQ(shown(copy, 1), shown(whole, 1)) << "a copy shares its original's pages";
  }
}

TEST(foreign_kv, two_tiers_are_exact_until_the_budget_is_full) {
  const Stream stream(700);
  ForeignKv format = all_formats()[2];
  ForeignKvCache cache(format, kShape, kLayers, 700);
  ForeignKv ample = format;
  ample.budget_bytes = 2 * format.budget_bytes;
  ForeignKvCache exact(ample, kShape, kLayers, 700);
  append(cache, stream, 0, 384);
  append(exact, stream, 0, 384);
  EXPECT_EQ(shown(cache, 0), shown(exact, 0)) << "450 tokens last until the cut at 384";
  append(cache, stream, 384, 385);
  append(exact, stream, 384, 385);
  EXPECT_NE(shown(cache, 0), shown(exact, 0));
  // [32, 256) at 4.5 bits a value, 128 values a side and token; the others at 16.
  EXPECT_EQ(cache.bytes(385), kLayers * (224 * 128 * 9 + (385 - 224) * 128 * 32) / 8);
  EXPECT_EQ(exact.bytes(385), kLayers * 385 * 128 * 4);
}

TEST(foreign_kv, formats_round_as_they_say) {
  const Stream stream(512);
  const auto error = [&](const ForeignKv& format) {
    ForeignKv wide = format;
    wide.widths = {16, 16};
    ForeignKvCache exact(wide, kShape, kLayers, 512), cache(format, kShape, kLayers, 512);
    append(exact, stream, 0, 512);
    append(cache, stream, 0, 512);
    const std::vector<float> a = shown(exact, 0), b = shown(cache, 0);
    double squares = 0, power = 0;
    const size_t page = 4 * 32 * 64;  // pages 1 ... 7 are rounded in all formats
    for (size_t i = page; i < 8 * page; ++i) {
      squares += std::pow(static_cast<double>(a[i] - b[i]), 2);
      power += std::pow(static_cast<double>(a[i]), 2);
    }
    return std::sqrt(squares / power);
  };
  // pm-kvq.md §5.2, Gaussian values: q8_0 0.0054, q4_0 0.0860; asymmetric groups of 32: 0.0780, of 64:
  // 0.0898.
  EXPECT_NEAR(error({.format = Format::kBlocks, .widths = {8, 8}}), 0.0054, 0.0003);
  EXPECT_NEAR(error({.format = Format::kBlocks, .widths = {4, 4}}), 0.0860, 0.003);
  EXPECT_NEAR(error({.format = Format::kKivi, .widths = {4, 4}}), 0.0780, 0.003);
  EXPECT_NEAR(error({.format = Format::kTwoTier, .widths = {4, 4}}), 0.0898, 0.003);
}

TEST(foreign_kv, formats_that_cannot_be_are_errors) {
  const auto make = [](const ForeignKv& format, kernels::KvShape shape) {
    return ForeignKvCache(format, shape, kLayers, 100);
  };
  EXPECT_THROW(make({.format = Format::kTwoTier, .widths = {3, 4}}, kShape), Error);
  EXPECT_THROW(make({.format = Format::kBlocks, .widths = {2, 4}}, kShape), Error);
  EXPECT_THROW(make({.format = Format::kTwoTier, .widths = {4, 4}, .hadamard = true}, {1, 80}), Error);
  EXPECT_THROW(make({.format = Format::kKivi, .widths = {4, 4}}, {1, 80}), Error);
}

}  // namespace
}  // namespace weft::text
