#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "kernels/isa.h"
#include "kernels/panel_layout.h"
#include "kernels/quantize.h"
#include "kernels/test_values.h"
#include "kernels/tiled_product.h"

namespace weft::kernels {
namespace {

constexpr DType kWeightTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0,
                                  DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                  DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K,
                                  DType::kQ6_K};

struct Matrix {
  std::vector<uint8_t> bytes;
  std::vector<float> values;  // dequantised
  TensorView view;
};

Matrix random_matrix(DType type, size_t out, size_t in, uint32_t seed) {
  Matrix m;
  const std::vector<float> source = random_values(out * in, seed);
  m.bytes.resize(bytes_of(type, out * in));
  m.values.resize(out * in);
  for (size_t r = 0; r < out; ++r) {
    uint8_t* row = m.bytes.data() + r * bytes_of(type, in);
    quantize(type, source.data() + r * in, row, in);
    dequantize(type, row, m.values.data() + r * in, in);
  }
  m.view = {type, {out, in}, m.bytes.data()};
  return m;
}

std::vector<float> product(const Linear& weight, const float* x, size_t rows,
                           const CoreSet& cores) {
  std::vector<float> y(rows * weight.out_features(), -1.0f);
  Activations activations;
  activations.set(x, rows, weight.in_features(), weight.in_features());
  const LinearCall call{.weight = &weight, .out = y.data(), .out_stride = weight.out_features()};
  multiply({&call, 1}, activations, cores);
  return y;
}

// What the product may differ from the exact sum over the given x: rounding x as the format asks
// (int8: half a step of max|x|/127 in each block of 32; bf16: 2^-8 of |x|), then f32 sums of n
// terms.
double error_bound(DType type, const float* w, const float* x, size_t n) {
  double rounding = 0, magnitude = 0;
  for (size_t block = 0; block < n; block += 32) {
    const size_t end = std::min(n, block + 32);
    double largest = 0;
    for (size_t k = block; k < end; ++k) largest = std::max(largest, std::abs(double{x[k]}));
    for (size_t k = block; k < end; ++k) {
      magnitude += std::abs(double{w[k]} * x[k]);
      if (is_block_quantised(type)) rounding += std::abs(double{w[k]}) * largest / 127 * 0.5;
      if (type == DType::kBF16) rounding += std::abs(double{w[k]} * x[k]) * 0x1p-8;
    }
  }
  // Formats with a min add terms as large as scale * 2^bits; 8 covers the largest ratio here.
  return rounding * 1.001 + 8 * magnitude * 0x1p-24 * std::sqrt(static_cast<double>(n)) + 1e-6;
}

class ForEachIsa : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    before_ = active_isa();
    force_isa(GetParam());
  }
  void TearDown() override { force_isa(before_); }
  Isa before_ = Isa::kPortable;
};

INSTANTIATE_TEST_SUITE_P(isa, ForEachIsa, testing::ValuesIn(available_isas()),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST_P(ForEachIsa, product_is_within_the_bound_of_its_rounding) {
  for (const DType type : kWeightTypes) {
    for (const auto& [out, in] : {std::pair<size_t, size_t>{16, 256}, {5, 512}, {33, 768}}) {
      const Matrix m = random_matrix(type, out, in, 7);
      const Linear weight = Linear::pack(m.view, CoreSet());
      constexpr size_t kRows = 15;  // tiles of 8, 4, 2 and 1
      const std::vector<float> x = random_values(kRows * in, 11);
      const std::vector<float> y = product(weight, x.data(), kRows, CoreSet());
      for (size_t r = 0; r < kRows; ++r) {
        for (size_t o = 0; o < out; ++o) {
          double exact = 0;
          for (size_t k = 0; k < in; ++k) exact += double{m.values[o * in + k]} * x[r * in + k];
          ASSERT_NEAR(y[r * out + o], exact,
                      error_bound(type, m.values.data() + o * in, x.data() + r * in, in))
              << name(type) << " row " << r << " output " << o << " of " << out << "x" << in;
        }
      }
    }
  }
}

// x made of whole numbers up to 127 with a 127 in each block is represented exactly in int8 (and in
// bf16), so only f32 rounding is left: any wrong code, scale, offset or min shows.
TEST_P(ForEachIsa, whole_number_activations_leave_only_rounding) {
  constexpr size_t kIn = 512, kOut = 32, kRows = 8;
  std::mt19937 generator(3);
  std::vector<float> x(kRows * kIn);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = i % 32 == 5 ? 127.0f : static_cast<float>(static_cast<int>(generator() % 255) - 127);
  for (const DType type : kWeightTypes) {
    const Matrix m = random_matrix(type, kOut, kIn, 5);
    const std::vector<float> y =
        product(Linear::pack(m.view, CoreSet()), x.data(), kRows, CoreSet());
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t o = 0; o < kOut; ++o) {
        double exact = 0, magnitude = 0;
        for (size_t k = 0; k < kIn; ++k) {
          exact += double{m.values[o * kIn + k]} * x[r * kIn + k];
          magnitude += std::abs(double{m.values[o * kIn + k]} * x[r * kIn + k]);
        }
        // Code * scale and min * sum are larger than the values they make: a factor of 8.
        ASSERT_NEAR(y[r * kOut + o], exact, 8 * magnitude * 0x1p-24 * 8)
            << name(type) << " row " << r << " output " << o;
      }
    }
  }
}

TEST_P(ForEachIsa, a_row_does_not_depend_on_its_batch) {
  constexpr size_t kIn = 256, kOut = 50, kRows = 23;
  const std::vector<float> x = random_values(kRows * kIn, 19);
  for (const DType type : kWeightTypes) {
    const Linear weight = Linear::pack(random_matrix(type, kOut, kIn, 23).view, CoreSet());
    std::vector<float> alone;
    for (size_t r = 0; r < kRows; ++r) {
      const std::vector<float> y = product(weight, x.data() + r * kIn, 1, CoreSet());
      alone.insert(alone.end(), y.begin(), y.end());
    }
    for (size_t rows = 2; rows <= kRows; ++rows) {
      const std::vector<float> y = product(weight, x.data(), rows, CoreSet());
      ASSERT_EQ(0, std::memcmp(y.data(), alone.data(), y.size() * sizeof(float)))
          << name(type) << " with " << rows << " rows";
    }
  }
}

TEST(linear, threads_do_not_change_a_bit) {
  constexpr size_t kIn = 768, kOut = 700, kRows = 21;
  const std::vector<float> x = random_values(kRows * kIn, 29);
  ThreadPool pool(3);
  for (const DType type : {DType::kQ4_K, DType::kQ8_0, DType::kF16, DType::kBF16}) {
    const Matrix m = random_matrix(type, kOut, kIn, 31);
    const Linear packed_alone = Linear::pack(m.view, CoreSet());
    const Linear packed_together = Linear::pack(m.view, pool.cores());
    for (const size_t rows : {size_t{1}, size_t{3}, kRows}) {
      const auto expected = product(packed_alone, x.data(), rows, CoreSet());
      for (const size_t cores : {1, 2, 3}) {
        const auto y = product(packed_together, x.data(), rows, pool.subset(0, cores));
        ASSERT_EQ(expected, y) << name(type) << " rows " << rows << " cores " << cores;
      }
    }
  }
}

TEST(linear, rows_come_back_as_the_file_defines_them) {
  for (const DType type : kWeightTypes) {
    const Matrix m = random_matrix(type, 37, 512, 37);
    const Linear weight = Linear::pack(m.view, CoreSet());
    std::vector<float> row(512);
    for (size_t r = 0; r < 37; ++r) {
      weight.dequantize_row(r, row.data());
      ASSERT_EQ(0, std::memcmp(row.data(), m.values.data() + r * 512, 512 * sizeof(float)))
          << name(type) << " row " << r;
    }
  }
}

TEST(linear, bias_accumulation_and_several_calls_in_one) {
  constexpr size_t kIn = 64, kRows = 5;
  const Matrix a = random_matrix(DType::kQ8_0, 40, kIn, 41),
               b = random_matrix(DType::kF32, 7, kIn, 43);
  const Linear wa = Linear::pack(a.view, CoreSet()), wb = Linear::pack(b.view, CoreSet());
  const std::vector<float> x = random_values(kRows * kIn, 47), bias = random_values(40, 53);
  const auto ya = product(wa, x.data(), kRows, CoreSet()),
             yb = product(wb, x.data(), kRows, CoreSet());
  std::vector<float> out_a(kRows * 44, 2.0f), out_b(kRows * 7, 3.0f);  // a wider stride than 40
  Activations activations;
  activations.set(x.data(), kRows, kIn, kIn);
  ThreadPool pool(2);
  const LinearCall calls[] = {
      {.weight = &wa, .out = out_a.data(), .out_stride = 44, .bias = bias.data()},
      {.weight = &wb, .out = out_b.data(), .out_stride = 7, .accumulate = true}};
  multiply(calls, activations, pool.cores());
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t o = 0; o < 40; ++o) ASSERT_EQ(out_a[r * 44 + o], ya[r * 40 + o] + bias[o]);
    for (size_t o = 40; o < 44; ++o) ASSERT_EQ(out_a[r * 44 + o], 2.0f) << "wrote past the outputs";
    for (size_t o = 0; o < 7; ++o) ASSERT_EQ(out_b[r * 7 + o], 3.0f + yb[r * 7 + o]);
  }
}

// VocabTailor's oracle: a row's product is the same number wherever the row lies, with any cores.
TEST_P(ForEachIsa, a_row_computes_the_same_wherever_it_is_packed) {
  constexpr size_t kIn = 512, kOut = 333, kRows = 5;
  const std::vector<float> x = random_values(kRows * kIn, 73);
  ThreadPool pool(2);
  std::mt19937 generator(79);
  for (const DType type : kWeightTypes) {
    const Matrix m = random_matrix(type, kOut, kIn, 83);
    const std::vector<float> full = product(Linear::pack(m.view, CoreSet()), x.data(), kRows,
                                            CoreSet());
    for (const size_t size : {size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{300}, kOut - 1,
                              kOut}) {
      std::vector<uint32_t> rows(kOut);
      for (size_t i = 0; i < kOut; ++i) rows[i] = static_cast<uint32_t>(i);
      std::shuffle(rows.begin(), rows.end(), generator);
      rows.resize(size);
      const Linear some = Linear::pack_rows(m.view, rows, pool.cores());
      for (const size_t num_rows : {size_t{1}, kRows}) {
        for (const size_t cores : {1, 2}) {
          const std::vector<float> y = product(some, x.data(), num_rows, pool.subset(0, cores));
          for (size_t r = 0; r < num_rows; ++r)
            for (size_t i = 0; i < size; ++i)
              ASSERT_EQ(y[r * size + i], full[r * kOut + rows[i]])
                  << name(type) << ": " << size << " rows, output " << i << ", " << cores
                  << " cores";
        }
      }
    }
  }
}

// FlashOverlap's oracle: whatever the tiles, each holds what the whole product has there.
TEST_P(ForEachIsa, tiles_are_parts_of_the_product) {
  constexpr size_t kIn = 256, kOut = 83;
  for (const DType type : kWeightTypes) {
    const Matrix m = random_matrix(type, kOut, kIn, 89);
    const Linear weight = Linear::pack(m.view, CoreSet());
    for (const size_t num_rows : {1, 7, 8, 21, 64, 67}) {
      const std::vector<float> x = random_values(num_rows * kIn, 97);
      const std::vector<float> y = product(weight, x.data(), num_rows, CoreSet());
      Activations activations;
      activations.set(x.data(), num_rows, kIn, kIn);
      activations.prepare(weight.activation_kind(), CoreSet());
      for (const auto& [tile_rows, tile_outputs] :
           {std::pair<size_t, size_t>{8, 16}, {24, 48}, {64, 96}}) {
        for (size_t row = 0; row < num_rows; row += tile_rows) {
          for (size_t output = 0; output < kOut; output += tile_outputs) {
            const ProductTile tile{row, std::min(tile_rows, num_rows - row), output,
                                   std::min(tile_outputs, kOut - output)};
            std::vector<float> out(tile.num_rows * tile.num_outputs + 1, -7.0f);
            multiply_tile(weight, activations, tile, out.data(), tile.num_outputs);
            for (size_t r = 0; r < tile.num_rows; ++r)
              for (size_t o = 0; o < tile.num_outputs; ++o)
                ASSERT_EQ(out[r * tile.num_outputs + o], y[(row + r) * kOut + output + o])
                    << name(type) << ": row " << row + r << ", output " << output + o;
            ASSERT_EQ(out.back(), -7.0f) << "wrote past the tile";
          }
        }
      }
    }
  }
}

TEST(linear, packing_keeps_the_files_size) {
  for (const DType type : kWeightTypes) {
    const Matrix m = random_matrix(type, 64, 1024, 59);
    const Linear weight = Linear::pack(m.view, CoreSet());
    EXPECT_LE(panel_bytes(type, 1024) * 4, m.bytes.size() + 4 * 64) << name(type);
    EXPECT_GE(weight.packed_bytes(), m.bytes.size()) << name(type);
  }
}

TEST(linear, odd_feature_counts_of_plain_formats) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const size_t in : {1, 3, 17, 31}) {
      const Matrix m = random_matrix(type, 18, in, 61);
      const std::vector<float> x = random_values(3 * in, 67);
      const auto y = product(Linear::pack(m.view, CoreSet()), x.data(), 3, CoreSet());
      for (size_t r = 0; r < 3; ++r) {
        for (size_t o = 0; o < 18; ++o) {
          double exact = 0;
          for (size_t k = 0; k < in; ++k) exact += double{m.values[o * in + k]} * x[r * in + k];
          ASSERT_NEAR(y[r * 18 + o], exact,
                      error_bound(type, m.values.data() + o * in, x.data() + r * in, in))
              << name(type) << " in " << in;
        }
      }
    }
  }
}

TEST(linear, rows_must_be_whole_blocks) {
  std::vector<uint8_t> bytes(4096);
  EXPECT_THROW(Linear::pack({DType::kQ4_K, {4, 0}, bytes.data()}, CoreSet()), Error);
}

TEST(linear, zero_and_extreme_activations_stay_finite) {
  const Matrix m = random_matrix(DType::kQ4_0, 16, 64, 71);
  const Linear weight = Linear::pack(m.view, CoreSet());
  std::vector<float> x(64, 0.0f);
  for (const float v : product(weight, x.data(), 1, CoreSet())) EXPECT_EQ(v, 0.0f);
  x[3] = 1e30f;
  for (const float v : product(weight, x.data(), 1, CoreSet())) EXPECT_TRUE(std::isfinite(v));
  std::fill(x.begin(), x.end(), 1e-38f);  // a scale below the smallest normal number
  for (const float v : product(weight, x.data(), 1, CoreSet())) EXPECT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace weft::kernels
