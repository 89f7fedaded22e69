#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/isa.h"

namespace weft::kernels {
namespace {

constexpr double kEps = 0x1p-24;  // half a unit in the last place of 1

class Elementwise : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override { force_isa(GetParam()); }
  void TearDown() override { force_isa(before_); }
  Isa before_ = active_isa();
};

INSTANTIATE_TEST_SUITE_P(, Elementwise, testing::ValuesIn(available_isas()),
                         [](const auto& info) { return std::string(name(info.param)); });

std::vector<float> normal(size_t n, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution(0, deviation);
  std::vector<float> x(n);
  for (float& value : x) value = distribution(random);
  return x;
}

const std::vector<size_t>& lengths() {
  static const std::vector<size_t> all = {1,  3,  4,  5,  7,  8,   9,    15,
                                          16, 17, 63, 64, 65, 576, 1536, 4099};
  return all;
}

TEST_P(Elementwise, rms_norm_agrees_with_float64) {
  for (const size_t n : lengths()) {
    // Off by one float from any alignment, and in place.
    const std::vector<float> x = normal(n + 1, 1), weight = normal(n, 2);
    std::vector<float> out(x.begin() + 1, x.end());
    rms_norm(out.data(), weight.data(), 1e-5f, n, out.data());
    double squares = 0;
    for (size_t i = 0; i < n; ++i)
      squares += static_cast<double>(x[i + 1]) * static_cast<double>(x[i + 1]);
    const double scale =
        1 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(1e-5f));
    for (size_t i = 0; i < n; ++i) {
      const double want = static_cast<double>(x[i + 1]) * scale * static_cast<double>(weight[i]);
      // At most n/4 + 6 additions one after the other (4 lanes), halved by the root; 6 more
      // roundings.
      EXPECT_NEAR(out[i], want, std::fabs(want) * kEps * (static_cast<double>(n) / 8 + 9))
          << n << ' ' << i;
    }
  }
}

TEST_P(Elementwise, silu_multiply_agrees_with_float64) {
  for (const size_t n : lengths()) {
    std::vector<float> gate = normal(n, 3, 8);
    const std::vector<float> up = normal(n, 4);
    const std::vector<float> z = gate;
    silu_multiply(gate.data(), up.data(), n, gate.data());
    for (size_t i = 0; i < n; ++i) {
      const double x = static_cast<double>(z[i]);
      const double want = x / (1 + std::exp(-x)) * static_cast<double>(up[i]);
      EXPECT_NEAR(gate[i], want, std::fabs(want) * 4e-7) << z[i];  // exp 2e-7, then 3 roundings
    }
  }
}

TEST_P(Elementwise, silu_of_extremes) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> x = {0, -0.0f, 1000, -1000, 88, -88, -87.3f, -104, 3e38f, NAN};
  const std::vector<float> one(x.size(), 1.0f);
  std::vector<float> out(x.size());
  silu_multiply(x.data(), one.data(), x.size(), out.data());
  EXPECT_EQ(out[0], 0);
  EXPECT_EQ(out[1], 0);
  EXPECT_EQ(out[2], 1000);
  EXPECT_NEAR(out[3], 0, 1e-30);
  EXPECT_EQ(out[4], 88);
  for (const size_t i : {5, 6, 7}) EXPECT_NEAR(out[i], 0, 2e-36);
  EXPECT_EQ(out[8], 3e38f);
  EXPECT_TRUE(std::isnan(out[9]));
  EXPECT_LT(*std::max_element(out.begin(), out.end() - 1), kInf);
}

// Through softmax over pairs (x, 0), whose ratio is e^x.
TEST_P(Elementwise, exp_is_within_its_bound_everywhere) {
  double worst = 0;
  for (double x = -87; x <= 0; x += 0.00137) {
    std::vector<float> pair = {static_cast<float>(x), 0};
    softmax(pair.data(), 2);
    const double want = std::exp(static_cast<double>(static_cast<float>(x)));
    const double got = static_cast<double>(pair[0]) / static_cast<double>(pair[1]);
    worst = std::max(worst, std::fabs(got / want - 1));
  }
  EXPECT_LT(worst, 2e-7 + 2 * kEps);  // the last: two products with 1 / sum
}

TEST_P(Elementwise, softmax_agrees_with_float64) {
  for (const size_t n :
       {size_t{1}, size_t{2}, size_t{15}, size_t{17}, size_t{576}, size_t{5000}, size_t{151936}}) {
    std::vector<float> x = normal(n, 5, 4);
    if (n > 10) x[3] = -std::numeric_limits<float>::infinity();
    double max = -1e30, total = 0;
    for (const float value : x) max = std::max(max, static_cast<double>(value));
    std::vector<double> want;
    for (const float value : x) want.push_back(std::exp(static_cast<double>(value) - max));
    for (const double e : want) total += e;
    softmax(x.data(), n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      sum += static_cast<double>(x[i]);
      // The difference to the maximum is rounded (up to 40 here), exp 2e-7, 256 additions, 2
      // products.
      EXPECT_NEAR(x[i], want[i] / total, want[i] / total * (40 * kEps + 2e-7 + 260 * kEps))
          << n << ' ' << i;
    }
    EXPECT_NEAR(sum, 1, 2e-5);
  }
}

TEST_P(Elementwise, rope_turns_pairs_of_both_styles) {
  for (const RopeStyle style : {RopeStyle::kHalf, RopeStyle::kInterleaved}) {
    for (const size_t half : {1, 3, 8, 16, 20, 32, 64}) {
      const size_t head_dim = 2 * half + (half % 2 == 0 ? 16 : 0), heads = 3;
      RopeTable table{.style = style, .inverse_frequency = {}, .magnitude = 1.25f};
      for (size_t i = 0; i < half; ++i)
        table.inverse_frequency.push_back(
            std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
      for (const size_t position : {0, 1, 4095, 1000003}) {
        const std::vector<float> x = normal(heads * head_dim, 6);
        std::vector<float> got = x, angles(2 * half);
        rope_angles(table, position, angles.data());
        rope(table, angles.data(), heads, head_dim, got.data());
        for (size_t h = 0; h < heads; ++h) {
          const float* in = x.data() + h * head_dim;
          const float* out = got.data() + h * head_dim;
          for (size_t i = 0; i < half; ++i) {
            const size_t a = style == RopeStyle::kHalf ? i : 2 * i;
            const size_t b = style == RopeStyle::kHalf ? i + half : 2 * i + 1;
            const double angle =
                static_cast<double>(position) * static_cast<double>(table.inverse_frequency[i]);
            const double c = 1.25 * std::cos(angle), s = 1.25 * std::sin(angle);
            const double xa = static_cast<double>(in[a]), xb = static_cast<double>(in[b]);
            const double tolerance = 1.25 * (std::fabs(xa) + std::fabs(xb)) * 3 * kEps;
            EXPECT_NEAR(out[a], xa * c - xb * s, tolerance);
            EXPECT_NEAR(out[b], xa * s + xb * c, tolerance);
          }
          for (size_t i = 2 * half; i < head_dim; ++i)
            EXPECT_EQ(out[i], in[i]) << "beyond the rotary part";
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft::kernels
