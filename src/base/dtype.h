// Number formats that weights come in. Block formats are ggml's: a row is cut into blocks of
// `block_elements` values that share scales; the layouts are drawn in kernels/quantize.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace weft {

enum class DType : uint8_t {
  kF32, kF16, kBF16,
  kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0,
  kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
  kI8, kI16, kI32, kI64, kF64,
};

struct DTypeTraits {
  const char* name;       // as GGUF tools print it: "q4_K", "f16"
  size_t block_elements;  // values in one block; 1 for plain formats
  size_t block_bytes;     // bytes of one block
  bool is_weight;         // a matrix of it can be multiplied (f32, f16, bf16 and every block format)
};

const DTypeTraits& traits(DType type);
inline const char* name(DType type) { return traits(type).name; }
inline bool is_block_quantised(DType type) { return traits(type).block_elements > 1; }

// Bytes of `elements` values; `elements` must be a multiple of the block (asserted).
size_t bytes_of(DType type, size_t elements);

// "q4_k", "Q4_K", "f16" ...: case does not matter. Nothing if unknown.
std::optional<DType> dtype_from_name(std::string_view name);

// The GGUF/ggml type number (e.g. 12 = Q4_K), and back. Nothing for numbers we do not know.
std::optional<DType> dtype_from_ggml(uint32_t ggml_type);
uint32_t to_ggml(DType type);

}  // namespace weft
