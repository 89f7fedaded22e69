#include "kernels/quantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace weft::kernels {
namespace {

const std::string kFixtures = WEFT_SOURCE_DIR "/tests/data/quantize/";

struct Fixture {
  std::vector<uint8_t> blocks;
  std::vector<float> values;
};

std::string lower(const char* text) {
  std::string out = text;
  for (char& c : out) c = static_cast<char>(std::tolower(c));
  return out;
}

std::vector<float> floats(std::string_view bytes) {
  std::vector<float> out(bytes.size() / sizeof(float));
  std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
  return out;
}

// make.py: u32 size of the first part, first part, second part.
std::pair<std::string, std::string> two_parts(const std::string& path, size_t unit) {
  const std::string file = read_file(path);
  uint32_t count = 0;
  std::memcpy(&count, file.data(), 4);
  return {file.substr(4, count * unit), file.substr(4 + count * unit)};
}

class DequantizeFixture : public testing::TestWithParam<DType> {};
class QuantizeFixture : public testing::TestWithParam<DType> {};
class KQuant : public testing::TestWithParam<DType> {};

std::string type_name(const testing::TestParamInfo<DType>& info) { return name(info.param); }

constexpr DType kPlain[] = {DType::kF16,  DType::kBF16, DType::kQ4_0, DType::kQ4_1,
                            DType::kQ5_0, DType::kQ5_1, DType::kQ8_0};
constexpr DType kKQuants[] = {DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

TEST_P(DequantizeFixture, equals_the_reference_bit_for_bit) {
  const auto [blocks, rest] = two_parts(kFixtures + lower(name(GetParam())) + ".bin", 1);
  const std::vector<float> want = floats(rest);
  // One byte off: sources come from packed files.
  std::vector<uint8_t> shifted(blocks.size() + 1);
  std::memcpy(shifted.data() + 1, blocks.data(), blocks.size());
  std::vector<float> got(want.size());
  ASSERT_EQ(bytes_of(GetParam(), want.size()), blocks.size());
  dequantize(GetParam(), shifted.data() + 1, got.data(), got.size());
  for (size_t i = 0; i < want.size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i]))
        << "value " << i << ": " << got[i] << ", reference " << want[i];
}
INSTANTIATE_TEST_SUITE_P(plain, DequantizeFixture, testing::ValuesIn(kPlain), type_name);
INSTANTIATE_TEST_SUITE_P(k, DequantizeFixture, testing::ValuesIn(kKQuants), type_name);

TEST_P(QuantizeFixture, equals_the_reference_byte_for_byte) {
  const auto [source, want] = two_parts(kFixtures + lower(name(GetParam())) + ".quant.bin", 4);
  const std::vector<float> x = floats(source);
  std::string got(bytes_of(GetParam(), x.size()), '\0');
  ASSERT_EQ(got.size(), want.size());
  quantize(GetParam(), x.data(), got.data(), x.size());
  const size_t size = traits(GetParam()).block_bytes;
  for (size_t i = 0; i < got.size(); i += size)
    ASSERT_TRUE(got.substr(i, size) == want.substr(i, size)) << "block " << i / size;
}
INSTANTIATE_TEST_SUITE_P(plain, QuantizeFixture, testing::ValuesIn(kPlain), type_name);

std::vector<float> round_trip(DType type, const std::vector<float>& x) {
  std::vector<uint8_t> blocks(bytes_of(type, x.size()));
  std::vector<float> y(x.size());
  quantize(type, x.data(), blocks.data(), x.size());
  dequantize(type, blocks.data(), y.data(), y.size());
  return y;
}

double squared_error(const std::vector<float>& x, const std::vector<float>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
  return sum;
}

double error_of_ggml(DType type) {
  std::ifstream file(kFixtures + "ggml_error.txt");
  for (std::string key; file >> key;) {
    double value = 0;
    file >> value;
    if (key == name(type)) return value;
  }
  ADD_FAILURE() << "ggml_error.txt has no " << name(type);
  return 0;
}

TEST_P(KQuant, leaves_a_smaller_error_than_ggml) {
  const std::vector<float> x = floats(read_file(kFixtures + "weights.bin"));
  const double ours = squared_error(x, round_trip(GetParam(), x)),
               theirs = error_of_ggml(GetParam());
  EXPECT_LT(ours, theirs);
  EXPECT_GT(ours, 0.5 * theirs) << "too good to be true: is the error measured?";
  RecordProperty("ratio", std::to_string(ours / theirs));
  std::printf("%s: squared error %.3g, ggml %.3g, ratio %.3f\n", name(GetParam()), ours, theirs,
              ours / theirs);
}

// A value is off by at most the step between codes that spans the block's range, plus what rounding
// the scales to integers adds: one part in 2 * (largest integer scale) of the range, twice (scale
// and min). 2 for what the search may trade: it minimises the square, not the largest error.
TEST_P(KQuant, largest_error_is_bounded_by_the_step) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> x(64 * 256);
  for (float& v : x) v = normal(random);
  const std::vector<float> y = round_trip(GetParam(), x);
  float largest = 0, worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    largest = std::max(largest, std::fabs(x[i]));
    worst = std::max(worst, std::fabs(x[i] - y[i]));
  }
  const float codes[] = {3, 7, 15, 31, 63}, scales[] = {15, 31, 63, 63, 127};
  const size_t t = static_cast<size_t>(GetParam()) - static_cast<size_t>(DType::kQ2_K);
  const float range = 2 * largest;
  EXPECT_LT(worst, 2 * (range / codes[t] / 2 + range / scales[t]));
}

TEST_P(KQuant, zeros_and_constants_survive) {
  EXPECT_EQ(round_trip(GetParam(), std::vector<float>(256, 0.0f)), std::vector<float>(256, 0.0f));
  for (const float constant : {1.0f, -1.0f, 0.5f, -20.0f}) {
    const std::vector<float> y = round_trip(GetParam(), std::vector<float>(256, constant));
    // Some code and integer scale reproduce it up to the rounding of d to f16 (2^-11) and, after
    // the alternation, of its product.
    for (const float v : y) EXPECT_NEAR(v, constant, std::fabs(constant) * 0.002f) << constant;
  }
}

TEST_P(KQuant, extreme_values_stay_finite) {
  for (const float size : {1e-38f, 1e-20f, 1e-6f, 6e4f, 1e5f}) {
    std::vector<float> x(256);
    for (size_t i = 0; i < x.size(); ++i) x[i] = size * (i % 7 == 0 ? -1.0f : 0.1f);
    for (const float v : round_trip(GetParam(), x)) ASSERT_TRUE(std::isfinite(v)) << size;
  }
}
INSTANTIATE_TEST_SUITE_P(k, KQuant, testing::ValuesIn(kKQuants), type_name);

TEST(quantize, refuses_what_has_no_code) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ6_K}) {
    std::vector<float> x(256, 1.0f);
    std::vector<uint8_t> out(2048);
    x[77] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_THROW(quantize(type, x.data(), out.data(), x.size()), Error) << name(type);
    x[77] = -std::numeric_limits<float>::infinity();
    EXPECT_THROW(quantize(type, x.data(), out.data(), x.size()), Error) << name(type);
  }
  for (const DType type : {DType::kF16, DType::kQ8_0, DType::kQ4_1, DType::kQ2_K, DType::kQ3_K}) {
    std::vector<float> x(256, 1e9f);
    std::vector<uint8_t> out(2048);
    EXPECT_THROW(quantize(type, x.data(), out.data(), x.size()), Error) << name(type);
  }
}

TEST(half, every_half_survives_the_way_to_float_and_back) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if ((half & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_GT(float_to_half(value) & 0x7fff, 0x7c00) << bits;
    } else {
      ASSERT_EQ(float_to_half(value), half) << bits;
    }
  }
}

// Between two neighbouring halves the nearer one is right, and of equals the even one.
TEST(half, rounds_to_nearest_even) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    const float middle = (half_to_float(low) + half_to_float(high)) / 2;  // exact in f32
    ASSERT_EQ(float_to_half(middle), bits % 2 == 0 ? low : high) << bits;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), low) << bits;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 1e9f)), high) << bits;
  }
  EXPECT_EQ(float_to_half(65519.99f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(-1e30f), 0xfc00);
}

TEST(bfloat16, rounds_to_nearest_even_and_keeps_nan) {
  EXPECT_EQ(float_to_bfloat16(1.0f), 0x3f80);
  EXPECT_EQ(float_to_bfloat16(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(float_to_bfloat16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(float_to_bfloat16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace weft::kernels
