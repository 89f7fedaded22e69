#include "kernels/kv_transform.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace weft::kernels {
namespace {

std::vector<float> random_row(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

TEST(kv_transform, hadamard_is_sylvesters_matrix) {
  for (const size_t n : {1, 2, 16, 64, 256}) {
    const std::vector<float> x = random_row(2 * n, 1);
    std::vector<float> y = x;
    hadamard(2, n, y.data());
    for (size_t h = 0; h < 2; ++h) {
      for (size_t i = 0; i < n; ++i) {
        double want = 0;
        for (size_t j = 0; j < n; ++j)
          want += (std::popcount(i & j) % 2 == 0 ? 1.0 : -1.0) * static_cast<double>(x[h * n + j]);
        // log2(n) rounded additions of sums below n * 5 / sqrt(n)
        EXPECT_NEAR(y[h * n + i], want / std::sqrt(static_cast<double>(n)),
                    1e-6 * std::sqrt(static_cast<double>(n)));
      }
    }
  }
}

TEST(kv_transform, hadamard_undoes_itself_and_keeps_products) {
  for (const size_t n : {16, 64, 128, 512}) {
    const std::vector<float> q = random_row(n, 2), k = random_row(n, 3);
    std::vector<float> hq = q, hk = k;
    hadamard(1, n, hq.data());
    hadamard(1, n, hk.data());
    EXPECT_NEAR(dot(hq, hk), dot(q, k), 1e-5 * static_cast<double>(n));
    hadamard(1, n, hq.data());
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(hq[i], q[i], 1e-5);
  }
  EXPECT_FALSE(has_hadamard(0));
  EXPECT_FALSE(has_hadamard(80));
  EXPECT_TRUE(has_hadamard(64));
}

TEST(kv_transform, smoothing_keeps_products) {
  // 6 query heads on 2 KV heads.
  constexpr size_t kDim = 32;
  const std::vector<float> q = random_row(6 * kDim, 4), k = random_row(2 * kDim, 5);
  std::vector<float> lambda = random_row(2 * kDim, 6), inverse(2 * kDim);
  for (size_t i = 0; i < lambda.size(); ++i) {
    lambda[i] = std::exp(lambda[i]);
    inverse[i] = 1 / lambda[i];
  }
  std::vector<float> lq = q, lk = k;
  multiply_features(6, 3, kDim, lambda.data(), lq.data());
  multiply_features(2, 1, kDim, inverse.data(), lk.data());
  for (size_t h = 0; h < 6; ++h) {
    double plain = 0, smooth = 0;
    for (size_t i = 0; i < kDim; ++i) {
      plain += static_cast<double>(q[h * kDim + i]) * static_cast<double>(k[h / 3 * kDim + i]);
      smooth += static_cast<double>(lq[h * kDim + i]) * static_cast<double>(lk[h / 3 * kDim + i]);
    }
    EXPECT_NEAR(plain, smooth, 1e-5);
  }
}

}  // namespace
}  // namespace weft::kernels
