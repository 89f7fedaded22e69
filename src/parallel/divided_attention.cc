#include "parallel/divided_attention.h"

#include <algorithm>

#include "base/error.h"
#include "parallel/partial_attention.h"

namespace weft::parallel {

using kernels::kPageTokens;
using kernels::KvPage;

void DividedAttention::begin(SharedPages& cache, std::span<const models::SequenceInput> batch) {
  WEFT_ASSERT(cache.division() == ranks_.size());
  cache_ = &cache;
  batch_ = batch;
}

// Queries page by page: all that this rank has of earlier pages is seen by all of a page's tokens, and
// the page itself, if it is this rank's, by those that are not before it.
void DividedAttention::add_calls(const models::SequenceInput& input, const std::vector<KvPage>& held,
                                 const float* q, float* part, float* log_sums) {
  const size_t heads = shape_.num_heads, stride = heads * shape_.kv.head_dim;
  const size_t n = ranks_.size(), rank = ranks_.rank();
  const size_t end = input.first_position + input.tokens.size();
  for (size_t position = input.first_position; position < end;) {
    const size_t page = position / kPageTokens, row = position - input.first_position;
    const size_t count = std::min(end, (page + 1) * kPageTokens) - position;
    const size_t before = (page + n - 1 - rank) / n;  // of this rank's pages
    const bool is_own = page % n == rank;
    position += count;
    if (!is_own && before == 0) {
      std::fill_n(part + row * stride, count * stride, 0.0f);
      std::fill_n(log_sums + row * heads, count * heads, kNoKeys);
      continue;
    }
    const size_t first = before * kPageTokens + (position - count) % kPageTokens;
    calls_.push_back(
        {.q = q + row * stride,
         .q_stride = stride,
         .out = part + row * stride,
         .out_stride = stride,
         .num_tokens = count,
         .first_position = first,
         .kv = {.pages = std::span(held).first(before + is_own),
                .length = is_own ? first + count : before * kPageTokens},
         .sees_all = !is_own,
         .log_sum = log_sums + row * heads});
  }
}

void DividedAttention::attend(const kernels::AttentionShape& shape, size_t layer, const float* q,
                              const float* k, const float* v, float* out, const CoreSet& cores) {
  if (shape.window != 0)
    fail(ErrorKind::kUnsupported,
         "sequence parallelism does not know sliding windows: use --sequence-parallel 1");
  shape_ = shape;
  const size_t heads = shape.num_heads, dim = shape.kv.head_dim, stride = heads * dim;
  const size_t kv_size = shape.kv.num_kv_heads * dim, n = ranks_.size();
  size_t num_tokens = 0;
  for (const models::SequenceInput& input : batch_) num_tokens += input.tokens.size();
  const size_t part_size = num_tokens * (stride + heads);
  float* const parts = parts_.need(n * part_size);
  float* const own = parts + ranks_.rank() * part_size;

  calls_.clear();
  held_.resize(std::max(held_.size(), batch_.size()));
  size_t row = 0;
  for (size_t i = 0; i < batch_.size(); ++i) {
    const models::SequenceInput& input = batch_[i];
    cache_->append(layer, input.sequence, input.first_position, input.tokens.size(),
                   k + row * kv_size, v + row * kv_size, kv_size);
    held_[i].clear();
    for (const KvPage& page : cache_->reserved(layer, input.sequence))
      if (page.data != nullptr) held_[i].push_back(page);
    add_calls(input, held_[i], q + row * stride, own + row * stride,
              own + num_tokens * stride + row * heads);
    row += input.tokens.size();
  }
  kernels::attention(shape, calls_, attention_, cores);

  std::vector<size_t> begins(n + 1);
  for (size_t r = 0; r <= n; ++r) begins[r] = r * part_size * sizeof(float);
  ranks_.all_gather(comm::writable_bytes_of(std::span(parts, n * part_size)), begins);
  cores.parallel_for(num_tokens, 16, [&](size_t begin, size_t end, size_t) {
    for (size_t t = begin; t < end; ++t)
      for (size_t h = 0; h < heads; ++h) {
        float sum = kNoKeys;
        for (size_t r = 0; r < n; ++r) {
          const float* const part = parts + r * part_size;
          merge_partial(out + t * stride + h * dim, sum, part + t * stride + h * dim,
                        part[num_tokens * stride + t * heads + h], dim);
        }
      }
  });
}

}  // namespace weft::parallel
