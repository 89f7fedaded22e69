#include "models/weights.h"

#include <cstring>

#include "base/error.h"
#include "kernels/quantize.h"

namespace weft::models {
namespace {

std::string print(const Shape& shape) {
  std::string text;
  for (size_t i = 0; i < shape.rank(); ++i)
    text += fmt::format("{}{}", i == 0 ? "" : "x", shape[i]);
  return text;
}

}  // namespace

WeightReader::WeightReader(const formats::Checkpoint& checkpoint, const CoreSet& cores,
                           const ProgressFn& progress, Arena* arena)
    : checkpoint_(checkpoint),
      cores_(cores),
      progress_(progress),
      arena_(arena == nullptr ? own_arena_ : *arena) {
  for (std::string& name : checkpoint.tensor_names()) {
    total_bytes_ += checkpoint.require(name).bytes();
    left_.insert(std::move(name));
  }
}

bool WeightReader::has(std::string_view name) const { return checkpoint_.find(name).has_value(); }

kernels::Linear WeightReader::linear(const std::string& name, size_t out_features,
                                     size_t in_features) {
  const TensorView tensor = take(name, {out_features, in_features});
  return pack(name, tensor, tensor);
}

kernels::Linear WeightReader::rows_of(const std::string& name, size_t out_features,
                                      size_t in_features, Share rows) {
  const TensorView tensor = take(name, {out_features, in_features});
  WEFT_ASSERT(rows.begin < rows.end && rows.end <= out_features);
  return pack(name, tensor, {tensor.dtype, {rows.size(), in_features}, tensor.row(rows.begin)});
}

kernels::Linear WeightReader::columns_of(const std::string& name, size_t out_features,
                                         size_t in_features, Share columns) {
  const TensorView tensor = take(name, {out_features, in_features});
  WEFT_ASSERT(columns.begin < columns.end && columns.end <= in_features);
  if (columns.size() == in_features) return pack(name, tensor, tensor);
  const DTypeTraits& dtype = traits(tensor.dtype);
  if (columns.begin % dtype.block_elements != 0 || columns.end % dtype.block_elements != 0)
    fail(ErrorKind::kUnsupported,
         "{}: tensor '{}' is stored in blocks of {} {} values, which this many ranks would cut: "
         "columns {} to {} are one rank's. Take another number of ranks, or a file in f16 or q8_0.",
         checkpoint_.name(), name, dtype.block_elements, dtype.name, columns.begin, columns.end);
  const size_t row_bytes = bytes_of(tensor.dtype, columns.size());
  const size_t first = bytes_of(tensor.dtype, columns.begin);
  std::vector<uint8_t> part(out_features * row_bytes);
  for (size_t row = 0; row < out_features; ++row)
    std::memcpy(part.data() + row * row_bytes, tensor.row(row) + first, row_bytes);
  return pack(name, tensor, {tensor.dtype, {out_features, columns.size()}, part.data()});
}

// Packs `part` of the tensor `whole`, which is not needed any more afterwards.
kernels::Linear WeightReader::pack(const std::string& name, const TensorView& whole,
                                   const TensorView& part) {
  try {
    kernels::Linear packed = kernels::Linear::pack(part, cores_, &arena_);
    checkpoint_.release(whole);
    advance(whole);
    return packed;
  } catch (const Error& error) {
    throw error.in(checkpoint_.name() + ": tensor '" + name + "'");
  }
}

kernels::Linear WeightReader::pack(const TensorView& matrix) {
  kernels::Linear packed = kernels::Linear::pack(matrix, cores_, &arena_);
  checkpoint_.release(matrix);
  advance(matrix);
  return packed;
}

kernels::Linear WeightReader::pack(const std::vector<float>& values, size_t rows, size_t columns) {
  return kernels::Linear::pack({DType::kF32, {rows, columns}, values.data()}, cores_, &arena_);
}

std::vector<float> WeightReader::vector(const std::string& name, size_t size) {
  return values_of(take(name, {size}));
}

std::vector<float> WeightReader::matrix(const std::string& name, size_t rows, size_t columns) {
  return values_of(take(name, {rows, columns}));
}

std::vector<float> WeightReader::values_of(const TensorView& tensor) {
  std::vector<float> values(tensor.shape.elements());
  kernels::dequantize(tensor.dtype, tensor.data, values.data(), values.size());
  advance(tensor);
  return values;
}

std::vector<TensorView> WeightReader::experts(const std::string& name, size_t count, size_t rows,
                                              size_t columns) {
  std::vector<TensorView> views;
  if (has(name + ".weight")) {
    const TensorView all = take(name + ".weight", {count, rows, columns});
    for (size_t i = 0; i < count; ++i)
      views.push_back({all.dtype, {rows, columns}, all.row(i * rows)});
  } else if (!has(name + ".0.weight")) {
    fail(ErrorKind::kInvalidInput,
         "{}: there are no tensors '{}' of experts, which their layer needs. The file is "
         "incomplete: "
         "fetch or convert it again.",
         checkpoint_.name(), name);
  } else {
    for (size_t i = 0; i < count; ++i)
      views.push_back(take(fmt::format("{}.{}.weight", name, i), {rows, columns}));
  }
  for (const TensorView& view : views)
    if (columns % traits(view.dtype).block_elements != 0)
      fail(ErrorKind::kInvalidInput, "{}: tensor '{}' is {} with rows of {}, no whole blocks of {}",
           checkpoint_.name(), name, weft::name(view.dtype), columns,
           traits(view.dtype).block_elements);
  return views;
}

TensorView WeightReader::mapped(const std::string& name, size_t rows, size_t columns) {
  const TensorView tensor = take(name, {rows, columns});
  advance(tensor);
  return tensor;
}

void WeightReader::skip(const std::string& name) {
  if (const auto it = left_.find(name); it != left_.end()) left_.erase(it);
}

void WeightReader::finish() const {
  if (left_.empty()) return;
  constexpr size_t kShown = 5;
  std::string names;
  size_t shown = 0;
  for (const std::string& name : left_) {
    if (shown++ == kShown) break;
    names += (names.empty() ? "'" : ", '") + name + "'";
  }
  fail(ErrorKind::kInvalidInput,
       "{}: {} tensors are not part of a model of architecture '{}': {}{}. The file is of another "
       "architecture than it says, or of a variant that is not supported.",
       checkpoint_.name(), left_.size(), checkpoint_.architecture(), names,
       left_.size() > kShown ? " ..." : "");
}

TensorView WeightReader::take(const std::string& name, const Shape& expected) {
  const TensorView tensor = checkpoint_.require(name);
  if (!(tensor.shape == expected))
    fail(ErrorKind::kInvalidInput,
         "{}: tensor '{}' is {}, but the hyper-parameters need {}. The file is damaged or was "
         "converted with another configuration: fetch or convert it again.",
         checkpoint_.name(), name, print(tensor.shape), print(expected));
  if (!traits(tensor.dtype).is_weight)
    fail(ErrorKind::kUnsupported, "{}: tensor '{}' is stored as {}, which is no weight format",
         checkpoint_.name(), name, weft::name(tensor.dtype));
  left_.erase(name);
  return tensor;
}

void WeightReader::advance(const TensorView& tensor) {
  done_bytes_ += tensor.bytes();
  if (progress_) progress_(done_bytes_, total_bytes_);
}

}  // namespace weft::models
