// What a model asks for where several ranks compute it together (parallel/ answers; one rank needs
// none of it).
//
// Tensor parallelism: a rank has some KV heads with their query heads, some features of the MLP and
// some tokens of the vocabulary; what it adds to the residual stream is its share of a sum.
// Sequence parallelism: a rank has all weights and some tokens of a prompt; only attention looks at
// the others'.
#pragma once

#include <cstddef>

#include "base/thread_pool.h"
#include "kernels/attention.h"
#include "kernels/linear.h"

namespace weft::models {

// normed = RMSNorm(row), rows as far apart as those that it is of.
struct RowNorm {
  const float* weight = nullptr;  // (columns)
  float epsilon = 0;
  float* normed = nullptr;
};
// The stream that products are added to, and the norm that follows, if any: it is taken of each row
// while that is in the cache.
struct Residual {
  float* rows = nullptr;
  size_t stride = 0;  // in values
  RowNorm norm = {};  // weight null: none
};

class TensorTeam {
 public:
  virtual ~TensorTeam() = default;
  virtual size_t rank() const = 0;
  virtual size_t size() const = 0;

  // residual += the sum over ranks of x W^T, + bias, for each row of x: W has the columns, and x
  // the features, that belong to this rank. All ranks get the same bits.
  virtual void multiply_add(const kernels::Linear& weight, kernels::Activations& x,
                            const float* bias, const Residual& residual, const CoreSet& cores) = 0;
  // Rank 0's `all` (num_rows, columns) is put together from every rank's `part` (num_rows, its part
  // of the columns, as share()). Other ranks' `all` is not looked at.
  virtual void gather(const float* part, size_t num_rows, size_t columns, float* all) = 0;
};

struct Share {
  size_t begin = 0, end = 0;
  size_t size() const { return end - begin; }
};
// Rank's part of `count` things that come in units of `unit`: whole units, but for the last part.
inline Share share(size_t count, size_t unit, size_t rank, size_t num_ranks) {
  const size_t units = (count + unit - 1) / unit;
  const auto border = [&](size_t r) {
    const size_t at = units * r / num_ranks * unit;
    return at < count ? at : count;
  };
  return {border(rank), border(rank + 1)};
}
inline constexpr size_t kVocabularyUnit = 16;  // tokens of the head; outputs of a panel

// Attention over tokens of which this rank has some.
class SpreadAttention {
 public:
  virtual ~SpreadAttention() = default;
  // q (T, num_heads * head_dim), k, v (T, num_kv_heads * head_dim): rotated, of this rank's T
  // tokens in the order of its batch. out: as q.
  virtual void attend(const kernels::AttentionShape& shape, size_t layer, const float* q,
                      const float* k, const float* v, float* out, const CoreSet& cores) = 0;
};

}  // namespace weft::models
