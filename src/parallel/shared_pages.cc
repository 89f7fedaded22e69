#include "parallel/shared_pages.h"

#include <algorithm>

#include "base/error.h"

namespace weft::parallel {

using kernels::kPageTokens;

FollowingPages::FollowingPages(size_t num_layers, const kernels::KvShape& shape,
                               kernels::KvFormat format, size_t num_blocks)
    : num_layers_(num_layers),
      num_blocks_(num_blocks),
      shape_(shape),
      format_(format),
      memory_(num_layers * num_blocks * shape.page_bytes(format),
              "the KV cache (ask for a shorter context)") {
  WEFT_ASSERT(!kernels::is_quantized(format));
}

uint8_t* FollowingPages::page(size_t layer, uint32_t block) {
  WEFT_ASSERT(layer < num_layers_ && block < num_blocks_);
  return memory_.data() + (layer * num_blocks_ + block) * shape_.page_bytes(format_);
}

void FollowingPages::set_sequence(size_t sequence, std::span<const uint32_t> blocks,
                                  size_t length) {
  WEFT_ASSERT(length <= blocks.size() * kPageTokens);
  if (sequence >= sequences_.size()) sequences_.resize(sequence + 1);
  Sequence& s = sequences_[sequence];
  s.num_pages = blocks.size();
  s.pages.resize(num_layers_ * blocks.size());
  for (size_t layer = 0; layer < num_layers_; ++layer)
    for (size_t i = 0; i < blocks.size(); ++i)
      s.pages[layer * blocks.size() + i] = {.data = page(layer, blocks[i]),
                                            .head_stride = 2 * shape_.head_bytes(format_),
                                            .k_format = format_,
                                            .v_format = format_};
  s.length.assign(num_layers_, length);
}

std::span<const kernels::KvPage> FollowingPages::reserved(size_t layer, size_t sequence) const {
  const Sequence& s = sequences_[sequence];
  return std::span(s.pages).subspan(layer * s.num_pages, s.num_pages);
}

void FollowingPages::set_length(size_t layer, size_t sequence, size_t length) {
  Sequence& s = sequences_[sequence];
  WEFT_ASSERT(length <= s.num_pages * kPageTokens);
  s.length[layer] = length;
}

void FollowingPages::append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
                            const float* k, const float* v, size_t stride) {
  const auto pages = reserved(layer, sequence);
  WEFT_ASSERT(first_position + num_tokens <= pages.size() * kPageTokens);
  for (size_t done = 0; done < num_tokens;) {
    const size_t position = first_position + done, in_page = position % kPageTokens;
    const size_t count = std::min(num_tokens - done, kPageTokens - in_page);
    const kernels::KvPage& p = pages[position / kPageTokens];
    // This store's own; the view of them is const for who reads.
    kernels::write_kv(shape_, format_, const_cast<uint8_t*>(p.data), p.head_stride, in_page, count,
                      k + done * stride, v + done * stride, stride);
    done += count;
  }
  sequences_[sequence].length[layer] = first_position + num_tokens;
}

kernels::KvView FollowingPages::view(size_t layer, size_t sequence) const {
  const size_t length = sequences_[sequence].length[layer];
  return {.pages = reserved(layer, sequence).first((length + kPageTokens - 1) / kPageTokens),
          .length = length};
}

}  // namespace weft::parallel
