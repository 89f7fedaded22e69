#include "kernels/attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/isa.h"
#include "kernels/kv_quant.h"
#include "kernels/quantize.h"

namespace weft::kernels {
namespace {

struct Case {
  size_t num_kv_heads = 1, group = 1, head_dim = 64, length = 33, window = 0;
  KvFormat format = KvFormat::kF16;
  // Formats of K and V of the pages, in turn; none: all as `format`, which the others are made
  // from.
  std::vector<std::pair<KvFormat, KvFormat>> pages = {};
  size_t feature_group = 0;
};

std::string to_string(const Case& c) {
  std::string text =
      fmt::format("{} KV heads x {} queries, dim {}, length {}, window {}, {}, {}", c.num_kv_heads,
                  c.group, c.head_dim, c.length, c.window, name(c.format), name(active_isa()));
  for (const auto& [k, v] : c.pages) text += fmt::format(", {}/{}", name(k), name(v));
  return text;
}

// One sequence: queries of all positions, keys and values as given and as stored.
struct Sequence {
  Case shape;
  std::vector<float> q, k, v;
  std::vector<float> stored_k, stored_v;  // what the pages hold of k, v
  std::vector<std::vector<uint8_t>> storage;
  std::vector<KvPage> pages;

  explicit Sequence(const Case& c, unsigned seed = 1) : shape(c) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, size_t n) {
      x.resize(n);
      for (float& value : x) value = normal(random);
    };
    fill(q, c.length * q_width());
    fill(k, c.length * kv_width());
    fill(v, c.length * kv_width());
    stored_k.resize(k.size());
    stored_v.resize(v.size());
    for (size_t start = 0; start < c.length; start += kPageTokens) store_page(start);
  }

  void store_page(size_t start) {
    const KvShape kv = kv_shape();
    const KvFormat f = shape.format;
    const size_t count = std::min(kPageTokens, shape.length - start), index = start / kPageTokens;
    // Places that are not written yet hold what another sequence left: here, NaN everywhere.
    std::vector<uint8_t> wide(kv.page_bytes(f), uint8_t{0xFF});
    const auto write = [&](size_t first, size_t n, const float* keys, const float* values) {
      write_kv(kv, f, wide.data(), 2 * kv.head_bytes(f), first, n, keys, values, kv_width());
    };
    write(0, count, k.data() + start * kv_width(), v.data() + start * kv_width());
    const auto [k_format, v_format] =
        shape.pages.empty() ? std::pair{f, f} : shape.pages[index % shape.pages.size()];
    if (!is_quantized(k_format) && !is_quantized(v_format)) {
      storage.push_back(std::move(wide));
      pages.push_back({storage.back().data(), 2 * kv.head_bytes(f), f, f});
    } else {
      if (count < kPageTokens) {
        const std::vector<float> zeros((kPageTokens - count) * kv_width());
        write(count, kPageTokens - count, zeros.data(), zeros.data());
      }
      const size_t head_bytes = kv.head_bytes(k_format) + kv.head_bytes(v_format);
      storage.emplace_back(kv.page_bytes(k_format, v_format));
      storage.emplace_back(kv.meta_page_bytes());
      const KvPageOut page{storage[storage.size() - 2].data(),
                           head_bytes,
                           k_format,
                           v_format,
                           storage.back().data(),
                           kv.meta_head_bytes()};
      EXPECT_FALSE(quantize_kv_page(kv, {wide.data(), 2 * kv.head_bytes(f), f, f}, page));
      auto* halves = reinterpret_cast<uint16_t*>(storage.back().data());
      for (size_t i = 0; i < kv.meta_page_bytes() / 2; ++i)
        if (i % kPageTokens >= count) halves[i] = 0xFFFF;
      pages.push_back(page);
    }
    std::vector<float> rows[2];
    for (auto& side : rows) side.resize(kPageTokens * kv.head_dim);
    for (size_t h = 0; h < kv.num_kv_heads; ++h) {
      dequantize_kv_page(kv, pages.back(), h, rows[0].data(), rows[1].data());
      for (size_t t = 0; t < count; ++t) {
        const size_t at = (start + t) * kv_width() + h * kv.head_dim;
        std::copy_n(rows[0].data() + t * kv.head_dim, kv.head_dim, stored_k.data() + at);
        std::copy_n(rows[1].data() + t * kv.head_dim, kv.head_dim, stored_v.data() + at);
      }
    }
  }
  KvShape kv_shape() const { return {shape.num_kv_heads, shape.head_dim, shape.feature_group}; }
  size_t q_width() const { return shape.num_kv_heads * shape.group * shape.head_dim; }
  size_t kv_width() const { return shape.num_kv_heads * shape.head_dim; }
  AttentionShape attention_shape() const {
    return {.num_heads = shape.num_kv_heads * shape.group,
            .kv = kv_shape(),
            .scale = 1 / std::sqrt(static_cast<float>(shape.head_dim)),
            .window = shape.window};
  }
  AttentionCall call(size_t first, size_t count, float* out) const {
    return {.q = q.data() + first * q_width(),
            .q_stride = q_width(),
            .out = out,
            .out_stride = q_width(),
            .num_tokens = count,
            .first_position = first,
            .kv = {.pages = pages, .length = shape.length}};
  }
  bool is_quantized_anywhere() const { return !shape.pages.empty(); }
};

// Outputs of all positions from `from`, computed `chunk` at a time.
std::vector<float> run(const Sequence& s, size_t chunk, const CoreSet& cores = {},
                       size_t from = 0) {
  std::vector<float> out(s.q.size());
  AttentionScratch scratch;
  for (size_t first = from; first < s.shape.length; first += chunk) {
    const AttentionCall call =
        s.call(first, std::min(chunk, s.shape.length - first), out.data() + first * s.q_width());
    attention(s.attention_shape(), {&call, 1}, scratch, cores);
  }
  return out;
}

struct Reference {
  std::vector<double> out;  // (head_dim)
  double tolerance = 0;
};

// Softmax attention of one query in float64 over the stored keys and values, with what f32 (and, on
// the native bf16 path, bf16) arithmetic may be off by.
Reference reference(const Sequence& s, size_t position, size_t head) {
  const Case& c = s.shape;
  const size_t dim = c.head_dim, kv_offset = head / c.group * dim;
  const float* q = s.q.data() + position * s.q_width() + head * dim;
  const size_t first = c.window != 0 && position >= c.window ? position + 1 - c.window : 0;
  std::vector<double> scores;
  double largest_q = 0, largest_k = 0;
  double largest_dot = 0, largest_value = 0, maximum = -std::numeric_limits<double>::infinity();
  for (size_t t = first; t <= position; ++t) {
    double dot = 0, magnitude = 0;
    for (size_t i = 0; i < dim; ++i) {
      const double product = static_cast<double>(q[i]) *
                             static_cast<double>(s.stored_k[t * s.kv_width() + kv_offset + i]);
      dot += product;
      magnitude += std::fabs(product);
      largest_q = std::max(largest_q, static_cast<double>(std::fabs(q[i])));
      largest_k = std::max(
          largest_k, static_cast<double>(std::fabs(s.stored_k[t * s.kv_width() + kv_offset + i])));
    }
    if (s.is_quantized_anywhere())  // c s and z cancel: each is at most twice the largest key
      magnitude = 4 * largest_q * largest_k * static_cast<double>(dim);
    const double scale = static_cast<double>(s.attention_shape().scale);
    scores.push_back(dot * scale);
    maximum = std::max(maximum, scores.back());
    largest_dot = std::max(largest_dot, magnitude * scale);
  }
  Reference r{.out = std::vector<double>(dim)};
  double total = 0;
  for (size_t j = 0; j < scores.size(); ++j) {
    const double p = std::exp(scores[j] - maximum);
    total += p;
    for (size_t i = 0; i < dim; ++i) {
      const double value =
          static_cast<double>(s.stored_v[(first + j) * s.kv_width() + kv_offset + i]);
      r.out[i] += p * value;
      largest_value = std::max(largest_value, std::fabs(value));
    }
  }
  for (double& x : r.out) x /= total;
  // A score of `dim` rounded products, and a query rounded before: a weight's relative error is the
  // score's absolute one, numerator and denominator both have it. Then sums of `scores` terms.
  constexpr double kEps = 0x1p-24, kBf16 = 0x1p-9;
  const bool rounds = c.format == KvFormat::kBF16 && has_native_bf16();
  double score_error = largest_dot * ((static_cast<double>(dim) + 4) * kEps + (rounds ? kBf16 : 0));
  double value_error = 2 * static_cast<double>(scores.size() + 16) * kEps + (rounds ? kBf16 : 0);
  if (s.is_quantized_anywhere()) {
    value_error *= 4;  // as above
    if (active_isa() == Isa::kAvx512) {
      // Half a fixed-point step of each feature of the query, and of each weight of a page: the
      // codes they meet reach twice the largest key or value.
      constexpr double kStep = 0.5 / 32639;
      score_error += static_cast<double>(dim) * kStep * largest_q * 2 * largest_k *
                     static_cast<double>(s.attention_shape().scale);
      value_error += static_cast<double>(kPageTokens) * kStep * 2;
    }
  }
  r.tolerance = largest_value * (2 * score_error + value_error);
  return r;
}

void expect_near_reference(const Sequence& s, const std::vector<float>& out) {
  const size_t length = s.shape.length, heads = s.shape.num_kv_heads * s.shape.group;
  // Every position of short ones; around the page and span borders of long ones.
  for (size_t p = 0; p < length; ++p) {
    if (length > 64 && p % 61 != 0 && p + 2 < length && p % 256 > 1 && p % 256 < 255) continue;
    for (size_t h = 0; h < heads; ++h) {
      const Reference want = reference(s, p, h);
      for (size_t i = 0; i < s.shape.head_dim; ++i) {
        const float got = out[p * s.q_width() + h * s.shape.head_dim + i];
        ASSERT_NEAR(got, want.out[i], want.tolerance)
            << to_string(s.shape) << ", position " << p << ", head " << h << ", feature " << i;
      }
    }
  }
}

class Attention : public testing::Test {
 protected:
  Isa before = active_isa();
  ~Attention() override { force_isa(before); }
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = [] {
    std::vector<Case> made;
    for (const KvFormat format : {KvFormat::kF16, KvFormat::kBF16}) {
      for (const size_t length : {1, 15, 16, 17, 31, 32, 33, 63, 511, 512, 513, 1025})
        made.push_back(
            {.num_kv_heads = 2, .group = 3, .head_dim = 16, .length = length, .format = format});
      for (const size_t dim : {16, 64, 80, 96, 128, 256})
        made.push_back(
            {.num_kv_heads = 1, .group = 4, .head_dim = dim, .length = 70, .format = format});
      for (const size_t group : {1, 3, 4, 7, 8, 40})
        made.push_back(
            {.num_kv_heads = 3, .group = group, .head_dim = 64, .length = 101, .format = format});
      for (const size_t window : {1, 2, 31, 32, 33, 64, 300})
        made.push_back({.num_kv_heads = 2,
                        .group = 2,
                        .head_dim = 32,
                        .length = 600,
                        .window = window,
                        .format = format});
    }
    using enum KvFormat;
    const std::vector<std::pair<KvFormat, KvFormat>> mixes[] = {
        {{kInt8, kInt4}, {kInt4, kInt2}, {kInt2, kInt8}},
        {{kF16, kF16}, {kInt4, kInt4}, {kInt8, kInt8}, {kInt2, kInt2}, {kF16, kF16}}};
    for (const auto& mix : mixes) {
      for (const size_t length : {1, 32, 33, 290})
        made.push_back(
            {.num_kv_heads = 2, .group = 3, .head_dim = 32, .length = length, .pages = mix});
      for (const size_t dim : {16, 80})
        made.push_back({.group = 4, .head_dim = dim, .length = 97, .pages = mix});
      for (const size_t group : {7, 40})
        made.push_back({.group = group, .head_dim = 32, .length = 97, .pages = mix});
      made.push_back({.group = 2, .head_dim = 32, .length = 200, .window = 70, .pages = mix});
      made.push_back({.group = 3, .length = 97, .pages = mix, .feature_group = 32});
      made.push_back(
          {.group = 3, .head_dim = 256, .length = 97, .pages = mix, .feature_group = 256});
    }
    // 16-bit keys with narrow values, and the other way; from bf16 too.
    made.push_back({.group = 3, .length = 97, .pages = {{kF16, kInt4}, {kInt2, kF16}}});
    made.push_back({.group = 3,
                    .length = 130,
                    .format = kBF16,
                    .pages = {{kBF16, kInt8}, {kInt4, kBF16}, {kBF16, kBF16}, {kInt2, kInt2}}});
    return made;
  }();
  return all;
}

TEST_F(Attention, agrees_with_float64_on_every_instruction_set) {
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    for (const Case& c : cases()) {
      const Sequence s(c);
      expect_near_reference(s, run(s, c.length));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(Attention, prefill_chunks_and_single_tokens_agree_bit_for_bit) {
  ThreadPool two(2), three(3);
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    for (const Case& c : cases()) {
      const Sequence s(c);
      const std::vector<float> whole = run(s, c.length);
      for (const size_t chunk : {1, 7, 32, 100}) {
        EXPECT_EQ(0, std::memcmp(run(s, chunk).data(), whole.data(), whole.size() * 4))
            << to_string(c) << ", chunk " << chunk;
      }
      for (ThreadPool* pool : {&two, &three}) {
        EXPECT_EQ(
            0, std::memcmp(run(s, c.length, pool->cores()).data(), whole.data(), whole.size() * 4))
            << to_string(c) << ", threads " << pool->size();
        // The last tokens as decode would do them, spans shared among the cores.
        const size_t last = c.length - std::min<size_t>(c.length, 3);
        EXPECT_EQ(
            0, std::memcmp(run(s, 1, pool->cores(), last).data() + last * s.q_width(),
                           whole.data() + last * s.q_width(), (c.length - last) * s.q_width() * 4))
            << to_string(c) << ", decode, threads " << pool->size();
      }
    }
  }
}

TEST_F(Attention, a_row_does_not_know_its_batch) {
  ThreadPool pool(3);
  std::vector<Sequence> sequences;
  for (const size_t length : {5, 700, 33, 64, 1, 300})
    sequences.emplace_back(Case{.num_kv_heads = 2,
                                .group = 3,
                                .head_dim = 32,
                                .length = length,
                                .format = length % 2 ? KvFormat::kBF16 : KvFormat::kF16},
                           static_cast<unsigned>(length));
  std::vector<std::vector<float>> alone;
  for (const Sequence& s : sequences) alone.push_back(run(s, s.shape.length));
  std::mt19937 random(7);
  AttentionScratch scratch;
  std::vector<size_t> order(sequences.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (int round = 0; round < 8; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    // The last tokens of each sequence: some one, some a chunk, one none.
    std::vector<std::vector<float>> outs;
    std::vector<AttentionCall> calls;
    std::vector<size_t> firsts;
    for (const size_t i : order) {
      const Sequence& s = sequences[i];
      const size_t count = std::min<size_t>(random() % 40, s.shape.length);
      firsts.push_back(s.shape.length - count);
      outs.emplace_back(std::max<size_t>(1, count * s.q_width()));
      calls.push_back(s.call(firsts.back(), count, outs.back().data()));
    }
    attention(sequences[0].attention_shape(), calls, scratch, pool.cores());
    for (size_t j = 0; j < order.size(); ++j) {
      const Sequence& s = sequences[order[j]];
      EXPECT_EQ(0, std::memcmp(outs[j].data(), alone[order[j]].data() + firsts[j] * s.q_width(),
                               calls[j].num_tokens * s.q_width() * 4))
          << "length " << s.shape.length << ", round " << round;
    }
  }
}

// pm-kvq.md §5.2: against float64 over the dequantised cache. Narrow pages are not widened on the
// way, so what is measured is the arithmetic alone.
TEST_F(Attention, codes_are_read_as_exactly_as_stated) {
  using enum KvFormat;
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    // Fixed point: 2^-16 of a page's largest weight, beside outputs that cancel the more the longer
    // the sequence is. The document allows 5e-3.
    const double bound = isa == Isa::kAvx512 ? 5e-4 : 1e-5;
    for (const auto& pages : {std::vector<std::pair<KvFormat, KvFormat>>{{kInt8, kInt8}},
                              {{kInt4, kInt4}},
                              {{kInt2, kInt2}},
                              {{kF16, kF16}, {kInt8, kInt4}, {kInt4, kInt4}, {kInt2, kInt2}}}) {
      for (const size_t length : {1, 100, 2048}) {
        const Sequence s({.num_kv_heads = 1, .group = 3, .length = length, .pages = pages});
        const std::vector<float> out = run(s, 1, {}, length - 1);
        double error = 0, power = 0;
        for (size_t h = 0; h < 3; ++h) {
          const Reference want = reference(s, length - 1, h);
          for (size_t i = 0; i < s.shape.head_dim; ++i) {
            const auto got =
                static_cast<double>(out[(length - 1) * s.q_width() + h * s.shape.head_dim + i]);
            error += std::pow(got - want.out[i], 2);
            power += std::pow(want.out[i], 2);
          }
        }
        EXPECT_LE(std::sqrt(error / power), bound) << to_string(s.shape);
      }
    }
  }
}

TEST_F(Attention, large_scores_neither_overflow_nor_vanish) {
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    Sequence s({.num_kv_heads = 1, .group = 2, .head_dim = 64, .length = 400});
    for (float& x : s.q)
      x *= 60;  // scores of some hundreds, whose maximum keeps rising and falling
    expect_near_reference(s, run(s, s.shape.length));
  }
}

TEST_F(Attention, an_even_mix_of_equal_keys) {
  // All scores equal: the output is the mean of the visible values.
  Sequence s({.num_kv_heads = 1, .group = 1, .head_dim = 16, .length = 300});
  std::fill(s.q.begin(), s.q.end(), 0.0f);
  const std::vector<float> out = run(s, s.shape.length);
  double sum = 0;
  for (size_t t = 0; t < s.shape.length; ++t) {
    sum += static_cast<double>(s.stored_v[t * 16]);
    EXPECT_NEAR(out[t * 16], sum / static_cast<double>(t + 1), 1e-5);
  }
}

}  // namespace
}  // namespace weft::kernels
