// The sketch promises an estimate that is right in the mean, with the deviation that it names for
// each row. Its oracle is the product in float64.
#include "kernels/row_sketch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/error.h"
#include "kernels/isa.h"
#include "kernels/quantize.h"

namespace weft::kernels {
namespace {

constexpr float kAll = -std::numeric_limits<float>::infinity();

struct Matrix {
  size_t rows, features;
  DType dtype;
  std::vector<uint8_t> data;
  std::vector<float> values;  // what `data` says

  TensorView view() const { return {dtype, {rows, features}, data.data()}; }
};

// A mean row that is not zero, rows of lengths that differ, and a few large features, as heads
// have.
Matrix random_matrix(size_t rows, size_t features, DType dtype, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> mean(features), values(rows * features);
  for (float& m : mean) m = 0.5f * normal(random);
  for (size_t r = 0; r < rows; ++r) {
    const float length = 0.2f + std::abs(normal(random));
    for (size_t i = 0; i < features; ++i)
      values[r * features + i] = mean[i] + length * normal(random) * (i % 37 == 5 ? 6.0f : 1.0f);
  }
  Matrix m{rows, features, dtype, {}, std::vector<float>(rows * features)};
  const size_t row_bytes = features / traits(dtype).block_elements * traits(dtype).block_bytes;
  m.data.resize(rows * row_bytes);
  quantize(dtype, values.data(), m.data.data(), values.size());
  dequantize(dtype, m.data.data(), m.values.data(), values.size());
  return m;
}

std::vector<float> random_x(size_t features, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(features);
  for (size_t i = 0; i < features; ++i) x[i] = normal(random) * (i % 29 == 3 ? 8.0f : 1.0f) + 0.3f;
  return x;
}

std::vector<SketchHit> scan(const RowSketch& sketch, const std::vector<float>& x, float threshold,
                            float deviations, size_t threads = 1) {
  ThreadPool pool(threads);
  SketchQuery query;
  query.set(sketch, x);
  std::vector<SketchHit> hits = {{7, 7}};  // from before: replaced
  sketch.scan(query, threshold, deviations, pool.cores(), hits);
  return hits;
}

TEST(row_sketch, errors_are_zero_in_the_mean_and_as_large_as_it_says) {
  const struct {
    size_t rows, features;
    DType dtype;
  } shapes[] = {{6000, 576, DType::kQ8_0},
                {6000, 64, DType::kF32},
                {5003, 896, DType::kF16},
                {4000, 48, DType::kBF16},
                {4096, 256, DType::kQ4_K}};
  const Isa chosen = active_isa();
  size_t i_shape = 0;
  for (const auto& shape : shapes) {
    // Each instruction set makes one of them at least.
    const std::vector<Isa> isas = available_isas();
    force_isa(isas[i_shape++ % isas.size()]);
    const Matrix m = random_matrix(shape.rows, shape.features, shape.dtype, 1);
    const RowSketch sketch = RowSketch::make(m.view(), m.rows, CoreSet());
    double sum = 0, square = 0;
    size_t n = 0;
    for (uint32_t seed = 0; seed < 3; ++seed) {
      const std::vector<float> x = random_x(m.features, 10 + seed);
      const std::vector<SketchHit> estimates = scan(sketch, x, kAll, 0);
      const std::vector<SketchHit> above = scan(sketch, x, kAll, 1);
      ASSERT_EQ(estimates.size(), m.rows);
      for (size_t r = 0; r < m.rows; ++r) {
        ASSERT_EQ(estimates[r].row, r);
        double exact = 0;
        for (size_t i = 0; i < m.features; ++i)
          exact += double{m.values[r * m.features + i]} * x[i];
        const double z = (estimates[r].bound - exact) / (above[r].bound - estimates[r].bound);
        sum += z;
        square += z * z;
        ++n;
      }
    }
    // Rows share x and R, so their errors are not quite independent: five standard errors, and 5 %.
    const double mean = sum / static_cast<double>(n);
    EXPECT_NEAR(mean, 0, 5 / std::sqrt(static_cast<double>(n)) + 0.03) << shape.features;
    EXPECT_NEAR(std::sqrt(square / static_cast<double>(n)), 1, 0.05) << shape.features;
    EXPECT_LE(sketch.bytes(), (m.rows + 15) * (m.features / 4 + 4) + 8 * m.features);
  }
  force_isa(chosen);
}

TEST(row_sketch, hits_are_those_whose_bound_reaches_the_threshold) {
  const Matrix m = random_matrix(2051, 192, DType::kQ8_0, 2);
  const RowSketch sketch = RowSketch::make(m.view(), 2049, CoreSet());
  const std::vector<float> x = random_x(m.features, 3);
  const std::vector<SketchHit> all = scan(sketch, x, kAll, 3);
  ASSERT_EQ(all.size(), 2049u) << "rows behind the last one asked for are not there";
  std::vector<float> bounds;
  for (const SketchHit& hit : all) bounds.push_back(hit.bound);
  std::sort(bounds.begin(), bounds.end());
  for (const size_t above : {size_t{0}, size_t{1}, size_t{100}}) {
    const float threshold = above == 0 ? bounds.back() + 1 : bounds[bounds.size() - above];
    std::vector<uint32_t> expected, got;
    for (const SketchHit& hit : all)
      if (hit.bound >= threshold) expected.push_back(hit.row);
    for (const SketchHit& hit : scan(sketch, x, threshold, 3)) got.push_back(hit.row);
    EXPECT_EQ(got, expected);
    EXPECT_EQ(got.size(), above);
  }
}

TEST(row_sketch, is_the_same_on_any_number_of_cores_and_nearly_so_on_any_instruction_set) {
  const Matrix m = random_matrix(3000, 128, DType::kQ8_0, 4);
  ThreadPool pool(3);
  const RowSketch one = RowSketch::make(m.view(), m.rows, CoreSet());
  const RowSketch three = RowSketch::make(m.view(), m.rows, pool.cores());
  const std::vector<float> x = random_x(m.features, 5);
  const std::vector<SketchHit> expected = scan(one, x, kAll, 2);
  const Isa chosen = active_isa();
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    for (const RowSketch* sketch : {&one, &three}) {
      for (const size_t threads : {1, 3}) {
        const std::vector<SketchHit> got = scan(*sketch, x, kAll, 2, threads);
        ASSERT_EQ(got.size(), expected.size());
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_EQ(got[i].row, expected[i].row);
          // Sums of codes are integers; what is left are four roundings of f32.
          ASSERT_NEAR(got[i].bound, expected[i].bound,
                      4e-7f * 4 * (std::abs(expected[i].bound) + 50))
              << name(isa);
        }
      }
    }
  }
  force_isa(chosen);
}

TEST(row_sketch, the_best_row_is_seldom_missed) {
  const Matrix m = random_matrix(8000, 256, DType::kF32, 6);
  const RowSketch sketch = RowSketch::make(m.view(), m.rows, CoreSet());
  size_t missed = 0, hits = 0;
  constexpr uint32_t kTrials = 200;
  for (uint32_t seed = 0; seed < kTrials; ++seed) {
    const std::vector<float> x = random_x(m.features, 100 + seed);
    double best = kAll;
    size_t best_row = 0;
    for (size_t r = 0; r < m.rows; ++r) {
      double product = 0;
      for (size_t i = 0; i < m.features; ++i)
        product += double{m.values[r * m.features + i]} * x[i];
      if (product > best) best = product, best_row = r;
    }
    const std::vector<SketchHit> found = scan(sketch, x, static_cast<float>(best), 3);
    hits += found.size();
    missed += std::none_of(found.begin(), found.end(),
                           [&](const SketchHit& hit) { return hit.row == best_row; });
  }
  EXPECT_LE(missed, 3u) << "one in 740 is expected";
  EXPECT_LT(hits / kTrials, m.rows / 10) << "and few others come with it";
}

TEST(row_sketch, rows_without_a_direction_and_shapes_it_cannot_hold) {
  Matrix m = random_matrix(40, 32, DType::kF32, 7);
  for (size_t i = 0; i < m.features; ++i)  // all rows alike: nothing is left of them but the mean
    for (size_t r = 0; r < m.rows; ++r) m.values[r * m.features + i] = static_cast<float>(i) - 8;
  const TensorView same{
      DType::kF32, {m.rows, m.features}, reinterpret_cast<const uint8_t*>(m.values.data())};
  const RowSketch sketch = RowSketch::make(same, m.rows, CoreSet());
  const std::vector<float> x = random_x(m.features, 8);
  double exact = 0;
  for (size_t i = 0; i < m.features; ++i) exact += double{m.values[i]} * x[i];
  for (const SketchHit& hit : scan(sketch, x, kAll, 3)) EXPECT_NEAR(hit.bound, exact, 1e-3);
  EXPECT_EQ(scan(sketch, std::vector<float>(m.features), 1, 3).size(), 0u) << "x is zero";
  const TensorView odd{DType::kF32, {16, 24}, reinterpret_cast<const uint8_t*>(m.values.data())};
  EXPECT_THROW(RowSketch::make(odd, 16, CoreSet()), Error);
}

}  // namespace
}  // namespace weft::kernels
