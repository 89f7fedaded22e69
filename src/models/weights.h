// Takes a checkpoint's tensors one by one into a model, each with the shape it must have, and at
// the end names those that nobody asked for: a file with more in it than the model computes would
// give wrong answers.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "kernels/linear.h"
#include "models/teams.h"

namespace weft::models {

class WeightReader {
 public:
  WeightReader(const formats::Checkpoint& checkpoint, const CoreSet& cores,
               const ProgressFn& progress, Arena* arena);

  bool has(std::string_view name) const;

  // Each names the tensor, the shape found and the one expected in its kInvalidInput.
  kernels::Linear linear(const std::string& name, size_t out_features, size_t in_features);
  // Some rows, or some columns (kInvalidInput: not whole blocks), of a matrix of that shape.
  kernels::Linear rows_of(const std::string& name, size_t out_features, size_t in_features,
                          Share rows);
  kernels::Linear columns_of(const std::string& name, size_t out_features, size_t in_features,
                             Share columns);
  std::vector<float> vector(const std::string& name, size_t size);
  std::vector<float> matrix(const std::string& name, size_t rows, size_t columns);  // in f32
  // Matrices of as many experts, "<name>.weight" (count, rows, columns) or "<name>.J.weight"; they
  // stay in the mapped file, and pack() may take them from there.
  std::vector<TensorView> experts(const std::string& name, size_t count, size_t rows,
                                  size_t columns);
  kernels::Linear pack(const TensorView& matrix);
  kernels::Linear pack(const std::vector<float>& values, size_t rows, size_t columns);
  // Stays in the mapped file.
  TensorView mapped(const std::string& name, size_t rows, size_t columns);
  void skip(const std::string& name);  // read elsewhere, or known to mean nothing

  void finish() const;  // kInvalidInput lists the tensors that were not taken

 private:
  kernels::Linear pack(const std::string& name, const TensorView& whole, const TensorView& part);
  TensorView take(const std::string& name, const Shape& expected);
  std::vector<float> values_of(const TensorView& tensor);
  void advance(const TensorView& tensor);

  const formats::Checkpoint& checkpoint_;
  const CoreSet& cores_;
  const ProgressFn& progress_;
  Arena own_arena_{"packed weights"};
  Arena& arena_;
  std::set<std::string, std::less<>> left_;
  size_t done_bytes_ = 0, total_bytes_ = 0;
};

}  // namespace weft::models
