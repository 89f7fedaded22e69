// What the fuzz targets and the test that replays their corpus (parser_fuzz_test.cc) do with an
// input.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace weft::formats {

// Reads every byte of the view, so that a sanitizer sees one that lies outside.
inline uint32_t touch(const TensorView& view) {
  uint32_t sum = 0;
  const auto* bytes = static_cast<const uint8_t*>(view.data);
  for (size_t i = 0; i < view.bytes(); ++i) sum += bytes[i];
  return sum;
}

// Returns whether the bytes were accepted.
inline bool try_gguf(std::span<const uint8_t> bytes) try {
  const GgufFile file = GgufFile::parse(bytes, "fuzz");
  volatile uint32_t sum = 0;
  for (const GgufTensor& tensor : file.tensors()) sum = sum + touch(file.find(tensor.name)->view);
  for (const auto& [key, value] : file.metadata())
    if (const auto* array = std::get_if<GgufArray>(&value)) {
      for (const std::string_view s :
           array->as<std::string_view>().value_or(std::vector<std::string_view>()))
        sum = sum + (s.empty() ? 0u : static_cast<uint8_t>(s.back()));
      for (const int64_t v : array->as<int64_t>().value_or(std::vector<int64_t>()))
        sum = sum + static_cast<uint32_t>(v);
    }
  return true;
} catch (const Error&) {
  return false;
}

inline bool try_safetensors(std::span<const uint8_t> bytes) {
  try {
    parse_safetensors_index({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "fuzz");
  } catch (const Error&) {
  }
  try {
    const SafetensorsFile file = SafetensorsFile::parse(bytes, "fuzz");
    volatile uint32_t sum = 0;
    for (const auto& [name, view] : file.tensors()) sum = sum + touch(view);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace weft::formats
