#include "text/pm_kvq.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace weft::text {
namespace {

using kernels::KvFormat;
using kernels::kPageTokens;

size_t pages_for(size_t tokens) { return tokens / kPageTokens + (tokens % kPageTokens != 0); }

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

KvFormat format_of(size_t bits, KvFormat wide) {
  return bits == 16 ? wide : bits == 8 ? KvFormat::kInt8 : bits == 4 ? KvFormat::kInt4
                                                                    : KvFormat::kInt2;
}

size_t level(size_t bits) { return bits == 16 ? 0 : bits == 8 ? 1 : bits == 4 ? 2 : 3; }

}  // namespace

KvUsage& KvUsage::operator+=(const KvUsage& other) {
  for (size_t i = 0; i < code_bytes.size(); ++i) code_bytes[i] += other.code_bytes[i];
  meta_bytes += other.meta_bytes;
  block_bytes += other.block_bytes;
  return *this;
}

NarrowPages::NarrowPages(const KvPolicy& policy, size_t num_layers, size_t num_blocks,
                         size_t length)
    : layers_(num_layers), used_(num_blocks * policy.cells_per_block()) {
  const size_t pages = pages_for(length), in_block = policy.cells_per_block();
  for (size_t layer = 0; layer < num_layers; ++layer) {
    for (size_t page = 0; page < pages; ++page) {
      const auto first = static_cast<KvCell>(page * in_block + 2 * layer);
      layers_[layer].exact_k.push_back(first);
      layers_[layer].exact_v.push_back(first + 1);
    }
  }
  std::fill_n(used_.begin(), static_cast<ptrdiff_t>(pages * in_block), true);
  first_free_ = pages * in_block;
}

void NarrowPages::add_blocks(size_t num_blocks) {
  const size_t in_block = layers_.size() * 2;
  used_.resize(used_.size() + num_blocks * in_block);
}

KvCell NarrowPages::take_cell() {
  while (first_free_ < used_.size() && used_[first_free_]) ++first_free_;
  WEFT_ASSERT(first_free_ < used_.size());
  used_[first_free_] = true;
  return static_cast<KvCell>(first_free_++);
}

void NarrowPages::free_cell(KvCell cell) {
  WEFT_DCHECK(used_[cell]);
  used_[cell] = false;
  first_free_ = std::min<size_t>(first_free_, cell);
}

uint8_t* NarrowPages::cell(const KvPolicy& policy, const Place& place, KvCell cell) const {
  const size_t in_block = policy.cells_per_block(), inside = cell % in_block;
  return place.pool.page(inside / 2, place.blocks[cell / in_block]) +
         inside % 2 * place.pool.options().shape.head_bytes(KvFormat::kF16);
}

// Narrow page `index` (0 is page 1 of the sequence) as it lies in rows of cells at `tier`.
kernels::KvPageOut NarrowPages::narrow_page(const KvPolicy& policy, const Place& place,
                                            const Layer& layer, size_t index, size_t tier,
                                            size_t layer_index) const {
  const KvCacheOptions& options = place.pool.options();
  const KvWidths w = policy.widths(layer_index, tier);
  const KvFormat k_format = format_of(w.k, options.format), v_format = format_of(w.v, options.format);
  const auto in_row = [&](const std::vector<KvCell>& row, size_t per_cell, size_t head_bytes) {
    return cell(policy, place, row[index / per_cell]) + index % per_cell * head_bytes;
  };
  const size_t stride = place.pool.head_stride();
  return {.data = in_row(layer.k, KvPolicy::pages_per_cell(w.k), options.shape.head_bytes(k_format)),
          .head_stride = stride,
          .k_format = k_format,
          .v_format = v_format,
          .meta = in_row(layer.meta, policy.meta_pages_per_cell(), options.shape.meta_head_bytes()),
          .meta_stride = stride,
          .values =
              in_row(layer.v, KvPolicy::pages_per_cell(w.v), options.shape.head_bytes(v_format))};
}

void NarrowPages::update_page(const KvPolicy& policy, const Place& place, size_t layer,
                              size_t page) const {
  const Layer& l = layers_[layer];
  if (page != 0 && page <= l.narrow) {
    place.pages[page] = narrow_page(policy, place, l, page - 1, l.tier, layer);
    return;
  }
  const KvFormat format = place.pool.options().format;
  place.pages[page] = {.data = cell(policy, place, l.exact_k[page]),
                       .head_stride = place.pool.head_stride(),
                       .k_format = format,
                       .v_format = format,
                       .values = cell(policy, place, l.exact_v[page])};
}

void NarrowPages::update_pages(const KvPolicy& policy, const Place& place, size_t layer) const {
  for (size_t page = 0; page < num_pages(layer); ++page) update_page(policy, place, layer, page);
}

void NarrowPages::grow(const KvPolicy& policy, const Place& place, size_t layer, size_t length) {
  Layer& l = layers_[layer];
  while (num_pages(layer) < pages_for(length)) {
    l.exact_k.push_back(take_cell());
    l.exact_v.push_back(take_cell());
    update_page(policy, place, layer, num_pages(layer) - 1);
  }
}

std::optional<KvBadValue> NarrowPages::advance(const KvPolicy& policy, const Place& place,
                                               size_t layer, size_t position) {
  Layer& l = layers_[layer];
  const size_t cut = policy.last_cut(layer, position);
  if (cut == l.cut) return std::nullopt;
  WEFT_ASSERT(cut != KvPolicy::kNever && (l.cut == KvPolicy::kNever || cut > l.cut));
  l.cut = cut;
  const bool pressed = policy.mode() == KvMode::kPressure;
  return narrow_to(policy, place, layer,
                   policy.tier(layer, pressed ? steps_ : policy.steps_at(layer, cut)));
}

bool NarrowPages::take_step(const KvPolicy& policy, const Place& place, size_t length,
                            std::optional<KvBadValue>& bad) {
  WEFT_ASSERT(length != 0);
  if (steps_ == policy.num_steps()) return false;
  const size_t layer = policy.layer_of_step(steps_++);
  Layer& l = layers_[layer];
  l.cut = policy.last_cut(layer, length - 1);
  if (l.cut != KvPolicy::kNever)
    bad = narrow_to(policy, place, layer, policy.tier(layer, steps_));
  return true;
}

size_t NarrowPages::free_cells() const {
  return static_cast<size_t>(std::count(used_.begin(), used_.end(), false));
}

void NarrowPages::compact(const KvPolicy& policy, const Place& place) {
  std::vector<KvCell*> where(used_.size());
  for_each_cell(layers_, [&](KvCell& each) { where[each] = &each; });
  const kernels::KvShape& shape = place.pool.options().shape;
  const size_t head_bytes = shape.head_bytes(KvFormat::kF16);
  for (size_t last = used_.size(); last-- > 0;) {
    if (!used_[last]) continue;
    while (first_free_ < last && used_[first_free_]) ++first_free_;
    if (first_free_ >= last) break;
    const KvCell to = take_cell();
    for (size_t h = 0; h < shape.num_kv_heads; ++h) {
      const size_t at = h * place.pool.head_stride();
      std::memcpy(cell(policy, place, to) + at,
                  cell(policy, place, static_cast<KvCell>(last)) + at, head_bytes);
    }
    *where[last] = to;
    free_cell(static_cast<KvCell>(last));
  }
}

std::optional<KvBadValue> NarrowPages::narrow_to(const KvPolicy& policy, const Place& place,
                                                 size_t layer, size_t tier) {
  Layer& l = layers_[layer];
  WEFT_ASSERT(tier >= l.tier);
  if (tier != l.tier && l.narrow != 0) shrink(policy, place, layer, tier);
  l.tier = tier;
  if (tier == 0) return std::nullopt;
  std::optional<KvBadValue> bad;
  for (const size_t end = KvPolicy::narrow_pages(l.cut); l.narrow < end;) {
    const auto found = quantize_next(policy, place, layer);
    if (!bad) bad = found;
  }
  return bad;
}

// In place, page by page: the cell that a page goes to holds only pages before it, and itself.
void NarrowPages::shrink(const KvPolicy& policy, const Place& place, size_t layer, size_t tier) {
  Layer& l = layers_[layer];
  for (size_t i = 0; i < l.narrow; ++i)
    kernels::shrink_kv_page(place.pool.options().shape,
                            narrow_page(policy, place, l, i, l.tier, layer),
                            narrow_page(policy, place, l, i, tier, layer));
  const KvWidths w = policy.widths(layer, tier);
  const auto keep = [&](std::vector<KvCell>& row, size_t bits) {
    const size_t count = ceil_div(l.narrow, KvPolicy::pages_per_cell(bits));
    for (size_t i = count; i < row.size(); ++i) free_cell(row[i]);
    row.resize(count);
  };
  keep(l.k, w.k);
  keep(l.v, w.v);
  l.tier = tier;
  for (size_t page = 1; page <= l.narrow; ++page) update_page(policy, place, layer, page);
}

std::optional<KvBadValue> NarrowPages::quantize_next(const KvPolicy& policy, const Place& place,
                                                     size_t layer) {
  Layer& l = layers_[layer];
  const KvCacheOptions& options = place.pool.options();
  const size_t page = l.narrow + 1, head_bytes = options.shape.head_bytes(KvFormat::kF16);
  WEFT_ASSERT(page < num_pages(layer));
  // Out of the way, so that its own cells can be taken again.
  kernels::KvPage from = place.pages[page];
  place.scratch.resize(2 * options.shape.num_kv_heads * head_bytes);
  for (size_t h = 0; h < options.shape.num_kv_heads; ++h) {
    uint8_t* const to = place.scratch.data() + 2 * h * head_bytes;
    std::memcpy(to, from.head_keys(h), head_bytes);
    std::memcpy(to + head_bytes, from.head_values(options.shape, h), head_bytes);
  }
  from.data = place.scratch.data();
  from.values = from.data + head_bytes;
  from.head_stride = 2 * head_bytes;
  free_cell(l.exact_k[page]);
  free_cell(l.exact_v[page]);

  const KvWidths w = policy.widths(layer, l.tier);
  const size_t index = l.narrow++;
  if (index % KvPolicy::pages_per_cell(w.k) == 0) l.k.push_back(take_cell());
  if (index % KvPolicy::pages_per_cell(w.v) == 0) l.v.push_back(take_cell());
  if (index % policy.meta_pages_per_cell() == 0) l.meta.push_back(take_cell());
  const auto fault = kernels::quantize_kv_page(
      options.shape, from, narrow_page(policy, place, l, index, l.tier, layer));
  update_page(policy, place, layer, page);
  if (!fault) return std::nullopt;
  return KvBadValue{layer, page * kPageTokens + fault->token, fault->is_key};
}

size_t NarrowPages::can_keep(size_t num_tokens) const {
  if (num_tokens <= kPageTokens) return num_tokens;
  const bool exact = std::all_of(layers_.begin(), layers_.end(), [&](const Layer& l) {
    return l.narrow == 0 || l.cut <= num_tokens;
  });
  return exact ? num_tokens : kPageTokens;
}

void NarrowPages::truncate(const KvPolicy& policy, size_t num_tokens) {
  WEFT_ASSERT(can_keep(num_tokens) == num_tokens);
  const size_t pages = pages_for(num_tokens);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    Layer& l = layers_[layer];
    for (size_t page = std::min(pages, l.exact_k.size()); page < l.exact_k.size(); ++page) {
      if (page != 0 && page <= l.narrow) continue;
      free_cell(l.exact_k[page]);
      free_cell(l.exact_v[page]);
    }
    if (num_tokens <= kPageTokens) {
      for (std::vector<KvCell>* const row : {&l.k, &l.v, &l.meta}) {
        for (const KvCell each : *row) free_cell(each);
        row->clear();
      }
      l.narrow = 0;
    }
    if (l.narrow == 0) {
      l.tier = 0;
      l.cut = num_tokens == 0 ? KvPolicy::kNever : policy.last_cut(layer, num_tokens - 1);
    }
    l.exact_k.resize(std::min(pages, l.exact_k.size()));
    l.exact_v.resize(l.exact_k.size());
  }
}

template <typename Layers, typename Visit>
void NarrowPages::for_each_cell(Layers& layers, Visit visit) {
  for (auto& l : layers) {
    for (size_t page = 0; page < l.exact_k.size(); ++page) {
      if (page != 0 && page <= l.narrow) continue;
      visit(l.exact_k[page]);
      visit(l.exact_v[page]);
    }
    for (auto* const row : {&l.k, &l.v, &l.meta})
      for (auto& each : *row) visit(each);
  }
}

size_t NarrowPages::blocks_in_use() const {
  const auto last = std::find(used_.rbegin(), used_.rend(), true);
  return ceil_div(static_cast<size_t>(used_.rend() - last), 2 * layers_.size());
}

void NarrowPages::drop_blocks(size_t num_blocks_left) {
  const size_t cells = num_blocks_left * layers_.size() * 2;
  WEFT_ASSERT(cells <= used_.size());
  used_.resize(cells);
  first_free_ = std::min(first_free_, cells);
}

KvWidths NarrowPages::widths(const KvPolicy& policy, size_t layer) const {
  return policy.widths(layer, layers_[layer].tier);
}

void NarrowPages::add_usage(const KvPolicy& policy, const kernels::KvShape& shape,
                            KvUsage& usage) const {
  const size_t wide = shape.num_kv_heads * shape.head_bytes(KvFormat::kF16);  // of one side
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const Layer& l = layers_[layer];
    const KvWidths w = widths(policy, layer);
    usage.code_bytes[0] += 2 * wide * (l.exact_k.size() - l.narrow);
    usage.code_bytes[level(w.k)] += wide * w.k / 16 * l.narrow;
    usage.code_bytes[level(w.v)] += wide * w.v / 16 * l.narrow;
    usage.meta_bytes += shape.meta_page_bytes() * l.narrow;
  }
}

std::string NarrowPages::audit(const KvPolicy& policy, size_t num_blocks) const {
  if (used_.size() != num_blocks * policy.cells_per_block())
    return fmt::format("{} blocks, but {} cells", num_blocks, used_.size());
  std::vector<bool> seen(used_.size());
  std::string wrong;
  for_each_cell(layers_, [&](const KvCell& each) {
    if (each >= seen.size() || seen[each] || !used_[each])
      wrong = fmt::format("cell {} is used twice, free or outside", each);
    else
      seen[each] = true;
  });
  if (wrong.empty() && seen != used_) wrong = "a cell is neither free nor used";
  return wrong;
}

}  // namespace weft::text
