#include "text/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace weft::text {
namespace {

using kernels::kPageTokens;

constexpr size_t kRunBlocks = 16;  // 512 tokens

size_t pages_for(size_t tokens) { return tokens / kPageTokens + (tokens % kPageTokens != 0); }

}  // namespace

KvCache::KvCache(const KvCacheOptions& options) : options_(options) {
  const kernels::KvShape& shape = options.shape;
  WEFT_ASSERT(options.num_layers != 0 && shape.num_kv_heads != 0);
  if (shape.head_dim == 0 || shape.head_dim % 16 != 0 || shape.head_dim > 512)
    fail(ErrorKind::kUnsupported,
         "KV cache: head_dim = {}, but attention needs a multiple of 16, 512 at most. Use another "
         "model.",
         shape.head_dim);
  page_bytes_ = shape.page_bytes(options.format);
  block_bytes_ = options.num_layers * page_bytes_;
  head_bytes_ = 2 * shape.head_bytes(options.format);
  head_stride_ = kRunBlocks * head_bytes_;
  const size_t num_blocks = pages_for(options.capacity_tokens);
  const size_t num_runs = (num_blocks + kRunBlocks - 1) / kRunBlocks;
  if (num_blocks > std::numeric_limits<uint32_t>::max() ||
      num_runs > std::numeric_limits<ptrdiff_t>::max() / (kRunBlocks * block_bytes_))
    fail(ErrorKind::kOutOfResources,
         "KV cache: {} tokens of {} bytes each are more than a machine can address. Ask for a "
         "shorter context.",
         options.capacity_tokens, block_bytes_ / kPageTokens);
  pool_ = Buffer(num_runs * kRunBlocks * block_bytes_, "the KV cache (ask for a shorter context)");
  references_.resize(num_blocks);
  free_.resize(num_blocks);
  for (size_t i = 0; i < num_blocks; ++i) free_[i] = static_cast<uint32_t>(num_blocks - 1 - i);
}

SequenceId KvCache::create() {
  SequenceId id = sequences_.size();
  if (unused_.empty()) {
    sequences_.emplace_back();
    unused_.reserve(sequences_.size());
  } else {
    id = unused_.back();
    unused_.pop_back();
  }
  Sequence& s = sequences_[id];
  s.live = true;
  s.room = 0;
  s.layer_length.assign(options_.num_layers, 0);
  return id;
}

SequenceId KvCache::fork(SequenceId source, size_t num_tokens) {
  const SequenceId id = create();
  Sequence& from = get(source);
  Sequence& s = get(id);
  WEFT_ASSERT(num_tokens <= length(source));
  const size_t num_pages = pages_for(num_tokens);
  grow_page_table(s, num_pages);
  for (size_t page = 0; page < num_pages; ++page) {
    ++references_[from.blocks[page]];
    set_page(s, page, from.blocks[page]);
  }
  std::fill(s.layer_length.begin(), s.layer_length.end(), num_tokens);
  from.room = 0;
  return id;
}

void KvCache::release(SequenceId sequence) {
  Sequence& s = get(sequence);
  keep_pages(s, 0);
  s.live = false;
  unused_.push_back(sequence);
}

void KvCache::truncate(SequenceId sequence, size_t num_tokens) {
  Sequence& s = get(sequence);
  WEFT_ASSERT(num_tokens <= length(sequence));
  keep_pages(s, pages_for(num_tokens));
  std::fill(s.layer_length.begin(), s.layer_length.end(), num_tokens);
  s.room = 0;
}

bool KvCache::reserve(SequenceId sequence, size_t num_tokens) {
  Sequence& s = get(sequence);
  const size_t stored = length(sequence);
  if (num_tokens > capacity_tokens()) return false;  // and the sum below cannot overflow
  const size_t num_pages = pages_for(stored + num_tokens);
  // Only the page that the next token falls into can be both shared and written: the ones before
  // are full, the ones after were taken by this sequence.
  const size_t next = stored / kPageTokens;
  const bool copy = num_tokens != 0 && next < s.blocks.size() && references_[s.blocks[next]] > 1;
  const size_t more = num_pages > s.blocks.size() ? num_pages - s.blocks.size() : 0;
  if (more + copy > free_.size()) return false;

  grow_page_table(s, num_pages);
  if (copy) {
    const uint32_t shared = s.blocks[next];
    const uint32_t own = take_block();
    for (size_t layer = 0; layer < options_.num_layers; ++layer)
      for (size_t head = 0; head < options_.shape.num_kv_heads; ++head)
        std::memcpy(page(layer, own) + head * head_stride_,
                    page(layer, shared) + head * head_stride_, head_bytes_);
    drop_block(shared);
    set_page(s, next, own);
  }
  while (s.blocks.size() < num_pages) set_page(s, s.blocks.size(), take_block());
  s.room = std::max(s.room, stored + num_tokens);
  return true;
}

size_t KvCache::length(SequenceId sequence) const {
  const Sequence& s = get(sequence);
  return *std::min_element(s.layer_length.begin(), s.layer_length.end());
}

size_t KvCache::free_tokens() const { return free_.size() * kPageTokens; }
size_t KvCache::capacity_tokens() const { return references_.size() * kPageTokens; }
size_t KvCache::bytes() const { return references_.size() * block_bytes_; }

void KvCache::append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
                     const float* k, const float* v, size_t stride) {
  Sequence& s = get(sequence);
  WEFT_ASSERT(layer < options_.num_layers && first_position <= s.layer_length[layer] &&
              first_position + num_tokens <= s.room);
  for (size_t done = 0; done < num_tokens;) {
    const size_t position = first_position + done, in_page = position % kPageTokens;
    const size_t count = std::min(num_tokens - done, kPageTokens - in_page);
    kernels::write_kv(options_.shape, options_.format,
                      page(layer, s.blocks[position / kPageTokens]), head_stride_, in_page, count,
                      k + done * stride, v + done * stride, stride);
    done += count;
  }
  s.layer_length[layer] = first_position + num_tokens;
}

kernels::KvView KvCache::view(size_t layer, size_t sequence) const {
  const Sequence& s = get(sequence);
  WEFT_ASSERT(layer < options_.num_layers);
  const size_t length = s.layer_length[layer];
  return {.pages = std::span(s.pages).subspan(layer * s.pages_per_layer, pages_for(length)),
          .length = length};
}

KvCache::Sequence& KvCache::get(SequenceId sequence) {
  WEFT_ASSERT(sequence < sequences_.size() && sequences_[sequence].live);
  return sequences_[sequence];
}

const KvCache::Sequence& KvCache::get(SequenceId sequence) const {
  WEFT_ASSERT(sequence < sequences_.size() && sequences_[sequence].live);
  return sequences_[sequence];
}

uint8_t* KvCache::page(size_t layer, uint32_t block) {
  const size_t run = block / kRunBlocks;
  return pool_.data() + (run * options_.num_layers + layer) * kRunBlocks * page_bytes_ +
         block % kRunBlocks * head_bytes_;
}

uint32_t KvCache::take_block() {
  const uint32_t number = free_.back();
  free_.pop_back();
  references_[number] = 1;
  return number;
}

void KvCache::drop_block(uint32_t number) {
  if (--references_[number] == 0) free_.push_back(number);
}

// Doubles, so that a sequence growing token by token allocates a dozen times in its life.
void KvCache::grow_page_table(Sequence& s, size_t num_pages) {
  if (num_pages <= s.pages_per_layer) return;
  const size_t wider = std::max({num_pages, 2 * s.pages_per_layer, size_t{16}});
  std::vector<kernels::KvPage> pages(options_.num_layers * wider);
  for (size_t layer = 0; layer < options_.num_layers; ++layer) {
    std::copy_n(s.pages.begin() + static_cast<ptrdiff_t>(layer * s.pages_per_layer),
                s.blocks.size(), pages.begin() + static_cast<ptrdiff_t>(layer * wider));
  }
  s.blocks.reserve(wider);
  s.pages = std::move(pages);
  s.pages_per_layer = wider;
}

void KvCache::set_page(Sequence& s, size_t index, uint32_t number) {
  if (index == s.blocks.size()) s.blocks.push_back(number);
  s.blocks[index] = number;
  for (size_t layer = 0; layer < options_.num_layers; ++layer)
    s.pages[layer * s.pages_per_layer + index] = {
        .data = page(layer, number), .head_stride = head_stride_, .format = options_.format};
}

void KvCache::keep_pages(Sequence& s, size_t num_pages) {
  while (s.blocks.size() > num_pages) {
    drop_block(s.blocks.back());
    s.blocks.pop_back();
  }
}

}  // namespace weft::text
