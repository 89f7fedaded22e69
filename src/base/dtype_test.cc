#include "base/dtype.h"

#include <gtest/gtest.h>

#include <set>

namespace weft {
namespace {

constexpr DType kAll[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0, DType::kQ4_1,
                          DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K, DType::kQ3_K,
                          DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kI8,   DType::kI16,
                          DType::kI32,  DType::kI64,  DType::kF64};

TEST(dtype, names_and_numbers_lead_back) {
  std::set<uint32_t> numbers;
  for (const DType type : kAll) {
    EXPECT_EQ(dtype_from_name(name(type)), type) << name(type);
    EXPECT_EQ(dtype_from_ggml(to_ggml(type)), type) << name(type);
    numbers.insert(to_ggml(type));
  }
  EXPECT_EQ(numbers.size(), std::size(kAll));
}

TEST(dtype, names_in_any_case) {
  EXPECT_EQ(dtype_from_name("Q4_K"), DType::kQ4_K);
  EXPECT_EQ(dtype_from_name("q4_k"), DType::kQ4_K);
  EXPECT_EQ(dtype_from_name("BF16"), DType::kBF16);
  for (const char* unknown : {"", "q4", "q4_K ", "q4_2", "f8"})
    EXPECT_EQ(dtype_from_name(unknown), std::nullopt) << unknown;
}

// 4 and 5 are types that ggml took out, 9 is an internal one, 16 is IQ2_XXS.
TEST(dtype, unknown_numbers) {
  for (const uint32_t number : {4u, 5u, 9u, 16u, 31u, 1000u, 0xffffffffu})
    EXPECT_EQ(dtype_from_ggml(number), std::nullopt) << number;
}

// Sizes as the `gguf` package's GGML_QUANT_SIZES gives them (block, bytes).
TEST(dtype, block_sizes) {
  EXPECT_EQ(bytes_of(DType::kQ4_0, 32), 18u);
  EXPECT_EQ(bytes_of(DType::kQ4_1, 32), 20u);
  EXPECT_EQ(bytes_of(DType::kQ5_0, 32), 22u);
  EXPECT_EQ(bytes_of(DType::kQ5_1, 32), 24u);
  EXPECT_EQ(bytes_of(DType::kQ8_0, 32), 34u);
  EXPECT_EQ(bytes_of(DType::kQ2_K, 256), 84u);
  EXPECT_EQ(bytes_of(DType::kQ3_K, 256), 110u);
  EXPECT_EQ(bytes_of(DType::kQ4_K, 256), 144u);
  EXPECT_EQ(bytes_of(DType::kQ5_K, 256), 176u);
  EXPECT_EQ(bytes_of(DType::kQ6_K, 256), 210u);
  EXPECT_EQ(bytes_of(DType::kF64, 3), 24u);
  EXPECT_EQ(bytes_of(DType::kQ4_0, 0), 0u);
}

TEST(dtype, only_floats_and_blocks_are_weights) {
  EXPECT_TRUE(traits(DType::kBF16).is_weight);
  EXPECT_TRUE(traits(DType::kQ6_K).is_weight);
  EXPECT_FALSE(traits(DType::kI32).is_weight);
  EXPECT_FALSE(is_block_quantised(DType::kF16));
  EXPECT_TRUE(is_block_quantised(DType::kQ8_0));
}

}  // namespace
}  // namespace weft
