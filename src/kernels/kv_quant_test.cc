#include "kernels/kv_quant.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "kernels/isa.h"
#include "kernels/quantize.h"

namespace weft::kernels {
namespace {

constexpr KvFormat kWide[] = {KvFormat::kF16, KvFormat::kBF16};
constexpr KvFormat kNarrow[] = {KvFormat::kInt8, KvFormat::kInt4, KvFormat::kInt2};

// A page and its metadata, in buffers of exactly their size.
struct Page {
  KvShape shape;
  KvFormat k, v;
  std::vector<uint8_t> data, meta;

  Page(const KvShape& s, KvFormat k_format, KvFormat v_format)
      : shape(s),
        k(k_format),
        v(v_format),
        data(s.page_bytes(k_format, v_format), 0xEE),
        meta(s.meta_page_bytes(), 0xEE) {}
  size_t head_stride() const { return shape.head_bytes(k) + shape.head_bytes(v); }
  KvPageOut out() {
    return {data.data(), head_stride(), k, v, meta.data(), shape.meta_head_bytes()};
  }
  KvPage in() const {
    return {data.data(), head_stride(), k, v, meta.data(), shape.meta_head_bytes()};
  }
  bool operator==(const Page& o) const { return data == o.data && meta == o.meta; }
};

// k and v: (32 tokens, num_kv_heads * head_dim).
Page wide_page(const KvShape& shape, KvFormat format, const std::vector<float>& k,
               const std::vector<float>& v) {
  Page page(shape, format, format);
  write_kv(shape, format, page.data.data(), page.head_stride(), 0, kPageTokens, k.data(), v.data(),
           shape.num_kv_heads * shape.head_dim);
  return page;
}

Page quantized(const Page& wide, KvFormat k, KvFormat v) {
  Page page(wide.shape, k, v);
  EXPECT_FALSE(quantize_kv_page(wide.shape, wide.in(), page.out()));
  return page;
}

Page shrunk(const Page& from, KvFormat k, KvFormat v) {
  Page page(from.shape, k, v);
  shrink_kv_page(from.shape, from.in(), page.out());
  page.meta = from.meta;
  return page;
}

std::vector<float> values(const KvShape& shape, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(kPageTokens * shape.num_kv_heads * shape.head_dim);
  for (float& value : x) value = scale * normal(random);
  return x;
}

// A code as pm-kvq.md §3.3 draws it, written from the drawing: K by blocks of 16 tokens, V by
// groups of 16 features; within a block quads of rows share chunks of 64 bytes, low bits first.
size_t drawn_code(const Page& page, bool is_key, size_t head, size_t token, size_t feature) {
  const size_t width = bits(is_key ? page.k : page.v), sharing = 8 / width;
  const uint8_t* side =
      page.data.data() + head * page.head_stride() + (is_key ? 0 : page.shape.head_bytes(page.k));
  const size_t block = is_key ? token / 16 : feature / 16,
               lane = is_key ? token % 16 : feature % 16;
  const size_t quad = is_key ? feature / 4 : token / 4, byte = is_key ? feature % 4 : token % 4;
  const size_t quads = is_key ? page.shape.head_dim / 4 : kPageTokens / 4;
  const uint8_t stored = side[(block * (quads / sharing) + quad / sharing) * 64 + lane * 4 + byte];
  return (stored >> (width * (quad % sharing))) % (size_t{1} << width);
}

struct Step {
  float s, z;
};

// The stored step of the page's own width, and z.
Step step_of(const Page& page, bool is_key, size_t head, size_t token, size_t feature) {
  const size_t group = feature / page.shape.group_size();
  const auto* halves =
      reinterpret_cast<const uint16_t*>(page.meta.data() + head * page.shape.meta_head_bytes() +
                                        (is_key ? 0 : page.shape.meta_head_bytes() / 2));
  const float factor = bits(is_key ? page.k : page.v) == 8   ? 1
                       : bits(is_key ? page.k : page.v) == 4 ? 17
                                                             : 85;
  return {factor * half_to_float(halves[group * 64 + token]),
          half_to_float(halves[group * 64 + 32 + token])};
}

using Visit = std::function<void(bool is_key, size_t head, size_t token, size_t feature)>;
void for_each_value(const KvShape& shape, const Visit& visit) {
  for (const bool is_key : {true, false})
    for (size_t h = 0; h < shape.num_kv_heads; ++h)
      for (size_t t = 0; t < kPageTokens; ++t)
        for (size_t i = 0; i < shape.head_dim; ++i) visit(is_key, h, t, i);
}

// What the page holds of a value.
class Decoded {
 public:
  explicit Decoded(const Page& page) : shape_(page.shape) {
    const size_t n = kPageTokens * shape_.head_dim;
    for (auto& side : sides_) side.resize(shape_.num_kv_heads * n);
    for (size_t h = 0; h < shape_.num_kv_heads; ++h)
      dequantize_kv_page(shape_, page.in(), h, sides_[1].data() + h * n, sides_[0].data() + h * n);
  }
  float at(bool is_key, size_t head, size_t token, size_t feature) const {
    return sides_[is_key ? 1 : 0][(head * kPageTokens + token) * shape_.head_dim + feature];
  }

 private:
  KvShape shape_;
  std::vector<float> sides_[2];
};

const std::vector<KvShape>& shapes() {
  static const std::vector<KvShape> all = {{1, 16},     {3, 64},  {2, 80},
                                           {2, 128},    {1, 256}, {2, 64, 32},
                                           {1, 96, 16}, {1, 160}, {1, 512, 64}};
  return all;
}

class KvQuant : public testing::Test {
 protected:
  Isa before = active_isa();
  ~KvQuant() override { force_isa(before); }
};

TEST_F(KvQuant, default_groups_divide_the_head) {
  for (const auto& [dim, group] : {std::pair<size_t, size_t>{16, 16},
                                   {64, 64},
                                   {80, 80},
                                   {96, 96},
                                   {128, 128},
                                   {160, 80},
                                   {192, 96},
                                   {256, 128},
                                   {512, 128}}) {
    EXPECT_EQ((KvShape{1, dim}.group_size()), group);
  }
  EXPECT_EQ((KvShape{1, 64, 32}.num_groups()), 2u);
  // 64 values at 8, 4 and 2 bit and 4 bytes of metadata: 8.5, 4.5 and 2.5 bits a value.
  const KvShape shape{1, 64};
  EXPECT_EQ(shape.page_bytes(KvFormat::kInt8) + shape.meta_page_bytes(), 2 * 32 * 64 * 17 / 16);
  EXPECT_EQ(shape.page_bytes(KvFormat::kInt2) + shape.meta_page_bytes(), 2 * 32 * 64 * 5 / 16);
}

// Every code in every lane and position: rows of a group run through all 256 codes exactly.
TEST_F(KvQuant, every_code_in_every_place) {
  const KvShape shape{1, 256, 256};
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    for (const size_t shift : {0, 1, 2, 3, 77, 128, 255}) {
      // Token t's values are a rotation of 0 ... 255: s = 1 and z = 0, so codes are the values.
      std::vector<float> x(kPageTokens * 256);
      for (size_t t = 0; t < kPageTokens; ++t)
        for (size_t i = 0; i < 256; ++i)
          x[t * 256 + i] = static_cast<float>((i + 8 * t + shift) % 256);
      const Page wide = wide_page(shape, KvFormat::kF16, x, x);
      for (const KvFormat format : kNarrow) {
        const Page page = quantized(wide, format, format);
        const size_t d = format == KvFormat::kInt8 ? 1 : format == KvFormat::kInt4 ? 17 : 85;
        for_each_value(shape, [&](bool is_key, size_t h, size_t t, size_t i) {
          const size_t c = (i + 8 * t + shift) % 256;
          ASSERT_EQ(drawn_code(page, is_key, h, t, i), (2 * c + d) / (2 * d))  // nearest to c / d
              << name(format) << ", code " << c << ", token " << t << ", feature " << i;
        });
        // Shrinking makes the same bytes as quantising at once.
        if (format == KvFormat::kInt8) {
          for (const KvFormat k : kNarrow) {
            for (const KvFormat v : kNarrow)
              EXPECT_EQ(shrunk(page, k, v), quantized(wide, k, v)) << name(k) << ", " << name(v);
          }
        } else if (format == KvFormat::kInt4) {
          EXPECT_EQ(shrunk(page, KvFormat::kInt2, KvFormat::kInt2),
                    quantized(wide, KvFormat::kInt2, KvFormat::kInt2));
        }
      }
    }
  }
}

TEST_F(KvQuant, the_shift_is_the_nearest_code) {
  // The published form of the shift, for all codes: ((2^2m - 2^m + 1) (c + 2^(m-1))) >> 3m.
  for (const unsigned m : {4u, 2u}) {
    const unsigned d = (1u << m) + 1;
    for (unsigned c = 0; c < 1u << (2 * m); ++c) {
      const unsigned shifted =
          (((1u << (2 * m)) - (1u << m) + 1) * (c + (1u << (m - 1)))) >> (3 * m);
      EXPECT_EQ(shifted, (2 * c + d) / (2 * d));
      if (m == 4) {
        EXPECT_EQ(shifted, (15 * c + 135) >> 8);
      }
    }
  }
  for (unsigned c = 0; c < 256; ++c)
    EXPECT_EQ(((2 * c + 17) / 34 * 2 + 5) / 10, (2 * c + 85) / 170) << c;  // two steps, or one
}

TEST_F(KvQuant, real_groups_round_as_in_float64) {
  for (const KvShape& shape : shapes()) {
    for (const KvFormat format : kWide) {
      const Page wide = wide_page(shape, format, values(shape, 1), values(shape, 2, 0.05f));
      const Decoded exact(wide);
      for (const KvFormat narrow : kNarrow) {
        const Page page = quantized(wide, narrow, narrow);
        const Decoded decoded(page);
        const double largest = static_cast<double>((1u << bits(narrow)) - 1);
        for_each_value(shape, [&](bool is_key, size_t h, size_t t, size_t i) {
          const Step step = step_of(page, is_key, h, t, i);
          const auto x = static_cast<double>(exact.at(is_key, h, t, i));
          const double real = (x - static_cast<double>(step.z)) / static_cast<double>(step.s);
          const auto code = static_cast<double>(drawn_code(page, is_key, h, t, i));
          // f32 knows `real` to 3 roundings of at most 255 steps of 8 bit.
          ASSERT_LE(std::abs(code - real), 0.5 + 3 * 255 * 0x1p-24)
              << name(narrow) << ", dim " << shape.head_dim << ", token " << t << ", feature " << i;
          ASSERT_GE(real, 0);
          ASSERT_LE(real, largest * (1 + 0x1p-22));
          ASSERT_FLOAT_EQ(decoded.at(is_key, h, t, i), step.s * static_cast<float>(code) + step.z);
        });
      }
    }
  }
}

TEST_F(KvQuant, chains_of_shrinks_and_mixed_sides_equal_quantising_at_once) {
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    for (const KvShape& shape : shapes()) {
      const Page wide = wide_page(shape, KvFormat::kF16, values(shape, 3), values(shape, 4));
      const Page p8 = quantized(wide, KvFormat::kInt8, KvFormat::kInt8);
      for (const KvFormat k : kNarrow) {
        for (const KvFormat v : kNarrow) {
          const Page direct = quantized(wide, k, v);
          EXPECT_EQ(shrunk(p8, k, v), direct) << name(k) << ", " << name(v);
          EXPECT_EQ(shrunk(shrunk(p8, k, KvFormat::kInt8), k, v), direct);
          EXPECT_EQ(shrunk(shrunk(p8, KvFormat::kInt8, v), k, v), direct);
        }
        // 16-bit keys stay as they are.
        const Page mixed = quantized(wide, KvFormat::kF16, KvFormat::kInt8);
        const Page narrower = shrunk(mixed, KvFormat::kF16, k);
        EXPECT_EQ(narrower.data, quantized(wide, KvFormat::kF16, k).data);
      }
      EXPECT_EQ(
          shrunk(shrunk(p8, KvFormat::kInt4, KvFormat::kInt4), KvFormat::kInt2, KvFormat::kInt2),
          quantized(wide, KvFormat::kInt2, KvFormat::kInt2));
    }
  }
}

// The pages of one slot, whose heads lie a 16-bit page's stride apart, narrowed in order into its
// beginning.
TEST_F(KvQuant, a_slot_compacts_in_place) {
  const KvShape shape{3, 64};
  const size_t stride = 2 * shape.head_bytes(KvFormat::kF16);
  struct Tier {
    KvFormat k, v;
  };
  using enum KvFormat;
  const std::pair<Tier, Tier> steps[] = {
      {{kInt8, kInt8}, {kInt4, kInt4}}, {{kInt4, kInt4}, {kInt2, kInt2}},
      {{kInt8, kInt8}, {kInt2, kInt2}}, {{kInt8, kInt8}, {kInt8, kInt4}},
      {{kInt8, kInt4}, {kInt4, kInt2}}, {{kInt8, kInt4}, {kInt4, kInt4}}};
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    for (const auto& [from, to] : steps) {
      const size_t bytes_from = shape.head_bytes(from.k) + shape.head_bytes(from.v);
      const size_t bytes_to = shape.head_bytes(to.k) + shape.head_bytes(to.v);
      std::vector<uint8_t> slot(shape.num_kv_heads * stride, 0xEE);
      std::vector<Page> wanted;
      const size_t pages = stride / bytes_from;
      std::vector<uint8_t> meta(shape.meta_page_bytes());
      for (size_t i = 0; i < pages; ++i) {
        const Page wide = wide_page(shape, kF16, values(shape, 10 + static_cast<unsigned>(i)),
                                    values(shape, 20 + static_cast<unsigned>(i)));
        ASSERT_FALSE(quantize_kv_page(shape, wide.in(),
                                      {slot.data() + i * bytes_from, stride, from.k, from.v,
                                       meta.data(), shape.meta_head_bytes()}));
        wanted.push_back(quantized(wide, to.k, to.v));
      }
      for (size_t i = 0; i < pages; ++i)
        shrink_kv_page(shape, {slot.data() + i * bytes_from, stride, from.k, from.v},
                       {slot.data() + i * bytes_to, stride, to.k, to.v});
      for (size_t i = 0; i < pages; ++i) {
        for (size_t h = 0; h < shape.num_kv_heads; ++h)
          EXPECT_EQ(0, std::memcmp(slot.data() + h * stride + i * bytes_to,
                                   wanted[i].data.data() + h * bytes_to, bytes_to))
              << "page " << i << ", head " << h;
      }
    }
  }
}

TEST_F(KvQuant, every_instruction_set_writes_the_same_bytes) {
  for (const KvShape& shape : shapes()) {
    for (const KvFormat format : kWide) {
      for (const float scale : {1.0f, 1e-6f, 3e4f, 0.0f}) {
        const Page wide =
            wide_page(shape, format, values(shape, 5, scale), values(shape, 6, scale));
        for (const KvFormat k : kNarrow) {
          for (const KvFormat v : kNarrow) {
            force_isa(Isa::kPortable);
            const Page portable = quantized(wide, k, v);
            for (const Isa isa : available_isas()) {
              force_isa(isa);
              EXPECT_EQ(quantized(wide, k, v), portable) << name(isa) << ", scale " << scale;
            }
          }
        }
      }
    }
  }
}

TEST_F(KvQuant, extreme_groups) {
  const KvShape shape{1, 64};
  const float tiny = 0x1p-24f;  // f16's smallest
  struct Group {
    const char* what;
    std::function<float(size_t i)> value;
  };
  const Group groups[] = {
      {"zeros", [](size_t) { return 0.0f; }},
      {"negative zeros", [](size_t) { return -0.0f; }},
      {"constant", [](size_t) { return 0.333251953125f; }},
      {"negative constant", [](size_t) { return -1234.0f; }},
      {"largest constant", [](size_t) { return -65504.0f; }},
      {"constant denormal", [&](size_t) { return 3 * tiny; }},
      {"+-tiny", [&](size_t i) { return i % 2 ? tiny : -tiny; }},
      {"denormals", [&](size_t i) { return static_cast<float>(i) * tiny; }},
      {"+-65504", [](size_t i) { return i % 2 ? 65504.0f : -65504.0f; }},
      {"one outlier", [](size_t i) { return i == 7 ? 60000.0f : 0.001f * static_cast<float>(i); }},
      {"small and skewed", [](size_t i) { return 0.05f + 1e-4f * static_cast<float>(i); }},
  };
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    for (const Group& group : groups) {
      std::vector<float> x(kPageTokens * 64);
      for (size_t t = 0; t < kPageTokens; ++t)
        for (size_t i = 0; i < 64; ++i) x[t * 64 + i] = group.value((i + t) % 64);
      const Page wide = wide_page(shape, KvFormat::kF16, x, x);
      const Decoded exact(wide);
      for (const KvFormat format : kNarrow) {
        const Page page = quantized(wide, format, format);
        const Decoded decoded(page);
        for_each_value(shape, [&](bool is_key, size_t h, size_t t, size_t i) {
          const float wanted = exact.at(is_key, h, t, i), got = decoded.at(is_key, h, t, i);
          const Step step = step_of(page, is_key, h, t, i);
          // Half a step, and f32's rounding of c s + z.
          ASSERT_LE(std::abs(got - wanted), step.s * 0.5001f + std::abs(wanted) * 0x1p-22f)
              << group.what << ", " << name(format) << ", token " << t << ", feature " << i;
          if (step.s == 0) {
            ASSERT_EQ(got, wanted) << group.what;
          }
        });
        // No step is wider than the range asks for, but for f16's rounding or its smallest value.
        const auto [least, most] = std::minmax_element(x.begin(), x.end());
        const Step step = step_of(page, true, 0, 0, 0);
        const float factor = static_cast<float>(255 / ((1u << bits(format)) - 1));
        EXPECT_LE(
            step.s,
            factor * ((*most - *least + std::abs(*least) * 0x1p-10f) / 255 * (1 + 0x1p-10f) + tiny))
            << group.what;
        if (*most == *least) {
          EXPECT_EQ(step.s, 0) << group.what;
        }
      }
    }
  }
}

// What a quantiser of optimal range does to a Gaussian (pm-kvq.md §5.2): relative root mean square.
TEST_F(KvQuant, gaussian_errors_are_the_tables) {
  struct Row {
    size_t group;
    double wanted[3];
  };
  const Row rows[] = {
      {128, {0.0059, 0.0998, 0.501}}, {64, {0.0053, 0.0898, 0.451}}, {32, {0.0046, 0.0780, 0.391}}};
  for (const Row& row : rows) {
    const KvShape shape{8, 128, row.group};
    for (size_t f = 0; f < 3; ++f) {
      double error = 0, power = 0;
      for (unsigned seed = 0; seed < 8; ++seed) {
        const Page wide =
            wide_page(shape, KvFormat::kF16, values(shape, 100 + seed), values(shape, 200 + seed));
        const Decoded exact(wide), decoded(quantized(wide, kNarrow[f], kNarrow[f]));
        for_each_value(shape, [&](bool is_key, size_t h, size_t t, size_t i) {
          const auto x = static_cast<double>(exact.at(is_key, h, t, i));
          error += std::pow(static_cast<double>(decoded.at(is_key, h, t, i)) - x, 2);
          power += x * x;
        });
      }
      EXPECT_NEAR(std::sqrt(error / power) / row.wanted[f], 1, 0.03)
          << "group " << row.group << ", " << name(kNarrow[f]);
    }
  }
}

TEST_F(KvQuant, values_that_are_no_numbers_are_named) {
  const KvShape shape{3, 64};
  const size_t width = shape.num_kv_heads * shape.head_dim;
  for (const KvFormat format : kWide) {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      if (format == KvFormat::kF16 && std::isinf(bad)) continue;  // write_kv makes it 65504
      for (const bool is_key : {true, false}) {
        std::vector<float> k = values(shape, 7), v = values(shape, 8);
        (is_key ? k : v)[11 * width + 2 * shape.head_dim + 37] = bad;
        const Page wide = wide_page(shape, format, k, v);
        Page page(shape, KvFormat::kInt4, is_key ? KvFormat::kInt8 : format);
        const auto fault = quantize_kv_page(shape, wide.in(), page.out());
        ASSERT_TRUE(fault);
        EXPECT_EQ(fault->is_key, is_key);
        EXPECT_EQ(fault->head, 2u);
        EXPECT_EQ(fault->token, 11u);
        EXPECT_EQ(fault->feature, 37u);
      }
    }
  }
  // bf16 reaches beyond what the metadata can hold.
  std::vector<float> huge(kPageTokens * width, 1e30f);
  const Page page =
      quantized(wide_page(shape, KvFormat::kBF16, huge, huge), KvFormat::kInt8, KvFormat::kInt8);
  EXPECT_EQ(Decoded(page).at(true, 0, 0, 0), 65504);
}

}  // namespace
}  // namespace weft::kernels
