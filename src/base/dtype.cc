#include "base/dtype.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "base/error.h"

namespace weft {
namespace {

struct Row {
  DType type;
  uint32_t ggml;
  DTypeTraits traits;
};

constexpr std::array<Row, 18> kTable = {{
    {DType::kF32, 0, {"f32", 1, 4, true}},
    {DType::kF16, 1, {"f16", 1, 2, true}},
    {DType::kBF16, 30, {"bf16", 1, 2, true}},
    {DType::kQ4_0, 2, {"q4_0", 32, 18, true}},
    {DType::kQ4_1, 3, {"q4_1", 32, 20, true}},
    {DType::kQ5_0, 6, {"q5_0", 32, 22, true}},
    {DType::kQ5_1, 7, {"q5_1", 32, 24, true}},
    {DType::kQ8_0, 8, {"q8_0", 32, 34, true}},
    {DType::kQ2_K, 10, {"q2_K", 256, 84, true}},
    {DType::kQ3_K, 11, {"q3_K", 256, 110, true}},
    {DType::kQ4_K, 12, {"q4_K", 256, 144, true}},
    {DType::kQ5_K, 13, {"q5_K", 256, 176, true}},
    {DType::kQ6_K, 14, {"q6_K", 256, 210, true}},
    {DType::kI8, 24, {"i8", 1, 1, false}},
    {DType::kI16, 25, {"i16", 1, 2, false}},
    {DType::kI32, 26, {"i32", 1, 4, false}},
    {DType::kI64, 27, {"i64", 1, 8, false}},
    {DType::kF64, 28, {"f64", 1, 8, false}},
}};

bool same_letters(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

}  // namespace

const DTypeTraits& traits(DType type) {
  const auto& row = kTable[static_cast<size_t>(type)];
  WEFT_ASSERT(row.type == type);
  return row.traits;
}

size_t bytes_of(DType type, size_t elements) {
  const DTypeTraits& t = traits(type);
  WEFT_ASSERT(elements % t.block_elements == 0);
  return elements / t.block_elements * t.block_bytes;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const Row& row : kTable)
    if (same_letters(name, row.traits.name)) return row.type;
  return std::nullopt;
}

std::optional<DType> dtype_from_ggml(uint32_t ggml_type) {
  for (const Row& row : kTable)
    if (row.ggml == ggml_type) return row.type;
  return std::nullopt;
}

uint32_t to_ggml(DType type) { return kTable[static_cast<size_t>(type)].ggml; }

}  // namespace weft
