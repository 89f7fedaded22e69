// A prepacked weight matrix and its product, y = x W^T (+ bias). Every matrix of every model is
// one: a shard of it, a subset of its rows (VocabTailor) and a streamed one (Megrez2 experts) are
// Linears too, so no model knows the difference.
//
// Batch-invariant: a row of y depends only on its row of x and on W, bit for bit, whatever the
// number of rows in the call and of cores in the set. (Each output is one sum over the input
// features, in an order that the weight format fixes; work is split over outputs and rows only.)
//
// Thread-safety: a packed Linear is immutable; any number of threads may multiply by it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/buffer.h"
#include "base/tensor.h"
#include "base/thread_pool.h"

namespace weft::kernels {

// What x is turned into before the product. Chosen by the weight's format, not by the caller:
// f32 and f16 weights meet f32 activations, bf16 weights bf16, block formats int8 (a scale for each
// 32 values, rounded to nearest).
enum class ActivationKind : uint8_t { kF32, kBF16, kInt8 };

struct QuantisedBlock;  // panel_layout.h

// Rows of x, converted once for all Linears that read them. Owned by one thread; reused from step
// to step (allocates only when it grows).
class Activations {
 public:
  // x: (num_rows, features) f32, `stride` values from row to row. Looked at until prepare() has
  // been called for every kind that is needed; multiply() calls it.
  void set(const float* x, size_t num_rows, size_t features, size_t stride);
  void prepare(ActivationKind kind, const CoreSet& cores);  // does nothing the second time

  size_t num_rows() const { return num_rows_; }
  size_t features() const { return features_; }

  // The converted rows of the tile that starts at `first_row` (order: panel_layout.h).
  const void* tile(ActivationKind kind, size_t first_row) const;

 private:
  const float* x_ = nullptr;
  size_t num_rows_ = 0, features_ = 0, stride_ = 0;
  bool prepared_[3] = {};
  Scratch<float> f32_;
  Scratch<uint16_t> bf16_;
  Scratch<uint8_t> int8_;
};

class Linear {
 public:
  Linear() = default;

  // Packs `weight` (out_features, in_features) of any weight dtype into panels of 16 outputs. The
  // view may go away afterwards. A model packs its matrices into one `arena` in the order that it
  // reads them: small ones then lie on huge pages too, and the end of one brings in the beginning
  // of the next. From a filled arena the packed weights are taken as they are.
  // kInvalidInput if in_features is not a whole number of blocks.
  static Linear pack(const TensorView& weight, const CoreSet& cores, Arena* arena = nullptr);
  // Output i is row rows[i] of `weight`, and bit for bit what it is in the product of all rows.
  static Linear pack_rows(const TensorView& weight, std::span<const uint32_t> rows,
                          const CoreSet& cores, Arena* arena = nullptr);

  // The same panels in memory of the caller's: `panels` holds packed_bytes(...), 64-byte aligned,
  // and over() looks at them without copying (a record of an expert that was read from a file).
  static size_t packed_bytes(DType dtype, size_t out_features, size_t in_features);
  static void pack_into(const TensorView& weight, const CoreSet& cores, uint8_t* panels);
  static Linear over(DType dtype, size_t out_features, size_t in_features,
                     std::shared_ptr<const uint8_t> panels);

  explicit operator bool() const { return out_features_ != 0; }
  size_t out_features() const { return out_features_; }
  size_t in_features() const { return in_features_; }
  DType dtype() const { return dtype_; }
  size_t packed_bytes() const { return panel_bytes_ * num_panels(); }
  ActivationKind activation_kind() const;

  // Row `row` of W in f32 (an embedding look-up from a tied head). `out` holds in_features values.
  void dequantize_row(size_t row, float* out) const;

  const uint8_t* panel(size_t p) const { return packed_.get() + p * panel_bytes_; }
  size_t num_panels() const { return (out_features_ + 15) / 16; }

 private:
  static Linear pack_chosen(const TensorView& weight, const std::span<const uint32_t>* chosen,
                            const CoreSet& cores, Arena* arena);

  DType dtype_ = DType::kF32;
  size_t out_features_ = 0, in_features_ = 0, panel_bytes_ = 0;
  std::shared_ptr<const uint8_t> packed_;
};

struct LinearCall {
  const Linear* weight = nullptr;
  float* out = nullptr;         // (num_rows, out_features) f32
  size_t out_stride = 0;        // values from row to row
  const float* bias = nullptr;  // (out_features) or none
  bool accumulate = false;      // out += instead of out = (a residual stream)
  Activations* x = nullptr;     // its own, where calls differ in what they read
};

// All calls read the same x and run as one parallel region (q, k and v; gate and up).
void multiply(std::span<const LinearCall> calls, Activations& x, const CoreSet& cores);
// Each call reads its own x (experts, each with the rows that chose it).
void multiply(std::span<const LinearCall> calls, const CoreSet& cores);
inline constexpr size_t kMaxLinearCalls = 16;  // of one multiply()

}  // namespace weft::kernels
