// A matrix in two bits a weight, to tell which of its rows may have the largest product with x: the
// rows that are worth computing, at a quarter of the reading of an int8 matrix.
//
//   w . x = m . x + (w - m) . x                       m: the mean row
//   R (w - m) ~ s q,  q in {-1.5, -0.5, 0.5, 1.5}     R orthonormal: signs and Hadamard matrices
//   (w - m) . x ~ s (q . R x),  s = |w - m|^2 / (q . R (w - m))
//
// R spreads each row's length evenly, so that the error is close to normal, and s makes it zero in
// the mean (RaBitQ, arXiv 2405.12497, sections 3.2 and 3.3, here with two bits instead of one). Its
// deviation is known for each row: e |x|, e = |w - m| sqrt((1 / cos^2 - 1) / (features - 1)), where
// cos is that of the angle between q and R (w - m), some 0.94. Bounds are thus likely, not certain.
//
// Thread-safety: a RowSketch is immutable; a SketchQuery belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/tensor.h"
#include "base/thread_pool.h"

namespace weft::kernels {

class RowSketch;

struct SketchHit {
  uint32_t row;
  float bound;  // what its product with x is likely to stay below
};

// x as the sketch reads it.
class SketchQuery {
 public:
  // x: (features), looked at in this call only.
  void set(const RowSketch& sketch, std::span<const float> x);

 private:
  friend class RowSketch;
  std::vector<float> rotated_;
  std::vector<int8_t> codes_;  // of R x
  float step_ = 0;             // R x ~ step * codes
  float mean_product_ = 0;     // m . x
  float length_ = 0;           // |x|
  int32_t sum_ = 0;            // of codes_
  std::vector<std::vector<SketchHit>> pieces_;
};

class RowSketch {
 public:
  RowSketch() = default;
  // The first `num_rows` rows of `weight` (rows, features), of any weight dtype, which may go away
  // afterwards. kUnsupported: features that are no multiple of 16.
  static RowSketch make(const TensorView& weight, size_t num_rows, const CoreSet& cores);

  static size_t bytes(size_t num_rows, size_t features);  // of one that is to be made

  size_t num_rows() const { return num_rows_; }
  size_t features() const { return features_; }
  size_t bytes() const { return bytes(num_rows_, features_); }

  // The rows whose product with x lies below estimate + deviations * deviation >= threshold,
  // ascending, instead of what `hits` held. The same whatever the cores.
  void scan(SketchQuery& query, float threshold, float deviations, const CoreSet& cores,
            std::vector<SketchHit>& hits) const;

 private:
  friend class SketchQuery;
  // Signs, Hadamard matrices along blocks, and where there are several, a transposition that deals
  // each block out to all others and Hadamard matrices again. `room`: as many values.
  void rotate(float* values, float* room) const;
  void pack_panel(const TensorView& weight, size_t panel, float* room, uint8_t* out) const;

  size_t num_rows_ = 0, features_ = 0, block_ = 0;
  size_t panel_bytes_ = 0;  // of 16 rows: scales and deviations in bf16, then codes
  std::vector<float> mean_, signs_;
  Buffer panels_;
};

}  // namespace weft::kernels
