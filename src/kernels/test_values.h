// Random values for tests: never constants, which no error of order would show.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/linear.h"

namespace weft::kernels {

// Normally distributed, deviation 1; the same on every machine.
inline std::vector<float> random_values(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(generator);
  return values;
}

inline Linear random_linear(size_t outputs, size_t features, uint32_t seed) {
  const std::vector<float> values = random_values(outputs * features, seed);
  return Linear::pack(
      {DType::kF32, {outputs, features}, reinterpret_cast<const uint8_t*>(values.data())},
      CoreSet());
}

}  // namespace weft::kernels
