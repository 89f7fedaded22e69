// TensorView looks at numbers that somebody else owns. Row-major and dense: the last dimension is
// contiguous, and for block formats a row (last dimension) is a whole number of blocks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "base/dtype.h"
#include "base/error.h"

namespace weft {

inline constexpr size_t kMaxDims = 4;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<size_t> dims) {
    WEFT_ASSERT(dims.size() <= kMaxDims);
    for (size_t d : dims) dims_[rank_++] = d;
  }
  size_t rank() const { return rank_; }
  size_t operator[](size_t i) const { return dims_[i]; }
  void push_back(size_t d) {
    WEFT_ASSERT(rank_ < kMaxDims);
    dims_[rank_++] = d;
  }
  size_t elements() const {
    size_t n = 1;
    for (size_t i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  size_t columns() const { return rank_ == 0 ? 1 : dims_[rank_ - 1]; }  // the contiguous dimension
  size_t rows() const { return columns() == 0 ? 0 : elements() / columns(); }
  bool operator==(const Shape& other) const = default;

 private:
  std::array<size_t, kMaxDims> dims_{};
  size_t rank_ = 0;
};

struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const void* data = nullptr;

  size_t bytes() const { return bytes_of(dtype, shape.elements()); }
  const uint8_t* row(size_t i) const {
    return static_cast<const uint8_t*>(data) + i * bytes_of(dtype, shape.columns());
  }
};

}  // namespace weft
