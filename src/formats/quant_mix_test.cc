#include "formats/quant_mix.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/error.h"

namespace weft::formats {
namespace {

struct Row {
  std::string shape, mix, tensor;
  size_t rows = 0, columns = 0;
  std::vector<std::string> types;  // one per layer
};

std::vector<Row> read_rows() {
  std::ifstream file(WEFT_SOURCE_DIR "/tests/data/quant_mix/types.txt");
  std::vector<Row> out;
  Row row;
  for (std::string types;
       file >> row.shape >> row.mix >> row.tensor >> row.rows >> row.columns >> types;) {
    row.types.clear();
    std::istringstream list(types);
    for (std::string type; std::getline(list, type, ',');) row.types.push_back(type);
    out.push_back(row);
  }
  return out;
}

QuantMixModel model_of(const std::string& shape) {
  if (shape == "smollm2-135m") return {30, 3, false};
  if (shape == "llama-3.2-1b") return {16, 4, false};
  return {2, 2, true};  // tiny
}

TEST(quant_mix, every_tensor_gets_the_type_that_llama_quantize_gives_it) {
  const std::vector<Row> rows = read_rows();
  ASSERT_EQ(rows.size(), 14u * (8 + 8 + 9));
  for (const Row& row : rows) {
    for (size_t layer = 0; layer < row.types.size(); ++layer) {
      const bool outside = row.tensor == "token_embd.weight" || row.tensor == "output.weight";
      const std::string name = outside ? row.tensor : fmt::format("blk.{}.{}", layer, row.tensor);
      const DType type =
          mixed_type(quant_mix(row.mix), model_of(row.shape), name, {row.rows, row.columns});
      EXPECT_EQ(weft::name(type), row.types[layer]) << row.shape << " " << row.mix << " " << name;
    }
  }
}

TEST(quant_mix, vectors_and_biases_stay_f32) {
  for (const QuantMix& mix : quant_mixes()) {
    EXPECT_EQ(mixed_type(mix, {2, 1, true}, "blk.0.attn_norm.weight", {256}), DType::kF32);
    EXPECT_EQ(mixed_type(mix, {2, 1, true}, "blk.0.attn_q.bias", {256}), DType::kF32);
    EXPECT_EQ(mixed_type(mix, {2, 1, true}, "rope_freqs.weight", {32}), DType::kF32);
  }
}

TEST(quant_mix, rows_that_no_block_divides_become_f16) {
  EXPECT_EQ(mixed_type(quant_mix("q4_K_M"), {2, 1, true}, "blk.0.attn_q.weight", {64, 40}),
            DType::kF16);
  EXPECT_EQ(mixed_type(quant_mix("q8_0"), {2, 1, true}, "blk.0.attn_q.weight", {64, 40}),
            DType::kF16);
  EXPECT_EQ(mixed_type(quant_mix("bf16"), {2, 1, true}, "blk.0.attn_q.weight", {64, 40}),
            DType::kBF16);
}

TEST(quant_mix, names) {
  EXPECT_STREQ(quant_mix("Q4_K_m").name, "q4_K_M");
  EXPECT_STREQ(quant_mix("q5_k").name, "q5_K_M");
  EXPECT_EQ(quant_mix("q8_0").file_type, 7u);
  try {
    quant_mix("q9");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("Known are f32, f16, bf16, q8_0"), std::string::npos);
  }
}

}  // namespace
}  // namespace weft::formats
