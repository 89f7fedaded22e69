#include "text/kv_policy.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "base/error.h"
#include "kernels/kv_transform.h"

namespace weft::text {
namespace {

using kernels::kPageTokens;

constexpr size_t kCut = KvPolicy::kCutTokens;

size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

bool is_width(size_t bits) { return bits == 16 || bits == 8 || bits == 4 || bits == 2; }

double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

int level(size_t bits) { return bits == 16 ? 0 : bits == 8 ? 1 : bits == 4 ? 2 : 3; }

}  // namespace

KvPolicy::KvPolicy(const KvPolicyOptions& options, size_t num_layers,
                   const kernels::KvShape& shape)
    : options_(options) {
  WEFT_ASSERT(num_layers != 0 && options.mode != KvMode::kPlain);
  const size_t cell_head_bytes = shape.head_bytes(kernels::KvFormat::kF16);
  block_bytes_ = num_layers * 2 * shape.num_kv_heads * cell_head_bytes;
  meta_pages_per_cell_ = cell_head_bytes / shape.meta_head_bytes();
  WEFT_ASSERT(meta_pages_per_cell_ != 0);
  using kernels::KvTransform;
  const bool can_rotate = kernels::has_hadamard(shape.head_dim);
  transform_ = options.transform.value_or(can_rotate ? KvTransform::kHadamard : KvTransform::kNone);
  if (kernels::rotates(transform_) && !can_rotate)
    fail(ErrorKind::kUnsupported,
         "KV cache: a Hadamard transform needs heads of 2, 4, 8 ... values, but this model's have {}. "
         "Take --kv-transform none.",
         shape.head_dim);
  if (kernels::smooths(transform_)) make_factors(shape, num_layers);
  // Multiples of 8, where attention's tiles of tokens begin.
  for (size_t layer = 0; layer < num_layers; ++layer)
    phase_.push_back(layer * (kCut / 8) / num_layers * 8);
  make_tiers(num_layers);
  make_order();
  if (options.mode == KvMode::kDirect)
    exact_until_ = order_.empty() ? kNever : 0;
  if (options.mode == KvMode::kProgressive) make_schedule();
  if (options.mode == KvMode::kPressure && options.budget_bytes != 0) limit_length();
}

void KvPolicy::make_factors(const kernels::KvShape& shape, size_t num_layers) {
  if (options_.smoothing.empty())
    fail(ErrorKind::kInvalidInput,
         "KV cache: a transform that smooths needs factors: --kv-calibration FILE, which 'weft calibrate "
         "kv' writes");
  if (options_.smoothing.size() != num_layers)
    fail(ErrorKind::kInvalidInput,
         "KV cache: smoothing factors of {} layers were given, but the model has {}. They were made for "
         "another model.",
         options_.smoothing.size(), num_layers);
  for (size_t layer = 0; layer < num_layers; ++layer) {
    const std::vector<float>& factors = options_.smoothing[layer];
    const size_t wanted = shape.num_kv_heads * shape.head_dim;
    if (factors.size() != wanted)
      fail(ErrorKind::kInvalidInput, "KV cache: layer {} has {} smoothing factors, expected {}", layer,
           factors.size(), wanted);
    std::vector<float>& inverse = key_factors_.emplace_back();
    for (const float factor : factors) {
      if (!(factor > 0) || !std::isfinite(factor))
        fail(ErrorKind::kInvalidInput, "KV cache: layer {} has a smoothing factor of {}", layer, factor);
      inverse.push_back(1 / factor);
    }
  }
  query_factors_ = options_.smoothing;
}

kernels::HeadTransform KvPolicy::head_transform(size_t layer) const {
  kernels::HeadTransform t{.rotate = kernels::rotates(transform_)};
  if (query_factors_.empty()) return t;
  t.query_factors = query_factors_[layer].data();
  t.key_factors = key_factors_[layer].data();
  return t;
}

// kPressure: to what all of the budget holds for one sequence alone.
void KvPolicy::limit_length() {
  const size_t budget = options_.budget_bytes / block_bytes_;
  size_t fits = 0, too_long = options_.max_length + 1;
  while (too_long - fits > 1) {
    const size_t middle = fits + (too_long - fits) / 2;
    (peak_blocks(middle) <= budget ? fits : too_long) = middle;
  }
  max_length_ = fits;
  if (fits < std::min(options_.max_length, 4 * kCut))
    fail(ErrorKind::kInvalidInput,
         "KV cache: a budget of {:.2f} MiB for all requests holds {} tokens of one of them; give "
         "{:.2f} MiB or more.",
         mib(options_.budget_bytes), fits, mib(peak_blocks(4 * kCut) * block_bytes_));
}

// From 16 bit down to the layer's last widths: both sides to 8; then V goes one width ahead of K,
// which needs its bits more (§3.6).
void KvPolicy::make_tiers(size_t num_layers) {
  const auto check = [](KvWidths w, const std::string& where) {
    for (const size_t bits : {w.k, w.v})
      if (!is_width(bits))
        fail(ErrorKind::kInvalidInput, "KV cache{}: a width of {} bits; 16, 8, 4 and 2 are possible",
             where, bits);
  };
  check(options_.widths, "");
  const auto check_count = [&](size_t count, const char* what) {
    if (count != 0 && count != num_layers)
      fail(ErrorKind::kInvalidInput,
           "KV cache: {} of {} layers were given, but the model has {}. They were made for another "
           "model.",
           what, count, num_layers);
  };
  check_count(options_.layer_widths.size(), "widths");
  check_count(options_.sensitivities.size(), "sensitivities");
  for (size_t layer = 0; layer < num_layers; ++layer) {
    KvWidths last = options_.widths;
    if (!options_.layer_widths.empty()) {
      last = options_.layer_widths[layer];
      check(last, fmt::format(", layer {}", layer));
    }
    std::vector<KvWidths>& tiers = tiers_.emplace_back();
    const auto add = [&](uint8_t k, uint8_t v) {
      const KvWidths w{std::max(k, last.k), std::max(v, last.v)};
      if (tiers.empty() || tiers.back() != w) tiers.push_back(w);
    };
    add(16, 16);
    if (options_.mode == KvMode::kDirect) {
      add(last.k, last.v);
      continue;
    }
    add(8, 8);
    add(8, 4);
    add(4, 4);
    add(4, 2);
    add(2, 2);
  }
}

// What the step from `tier` costs in quality, per bit of a value that it frees.
double KvPolicy::step_cost(size_t layer, size_t tier) const {
  const KvWidths from = tiers_[layer][tier], to = tiers_[layer][tier + 1];
  const auto& s = options_.sensitivities[layer];
  const auto at = [](const double (&loss)[3], size_t bits) {
    return bits == 16 ? 0 : loss[level(bits) - 1];
  };
  const double loss = at(s.k, to.k) - at(s.k, from.k) + at(s.v, to.v) - at(s.v, from.v);
  return loss / static_cast<double>(from.k - to.k + from.v - to.v);
}

void KvPolicy::make_order() {
  const size_t num_layers = tiers_.size();
  step_of_.resize(num_layers);
  std::vector<size_t> at(num_layers, 0);
  const auto take = [&](size_t layer) {
    step_of_[layer].push_back(static_cast<uint32_t>(order_.size()));
    order_.push_back(static_cast<uint32_t>(layer));
    ++at[layer];
  };
  if (options_.sensitivities.empty()) {
    for (bool any = true; any;) {
      any = false;
      for (size_t layer = num_layers; layer-- > 0;) {
        if (at[layer] + 1 >= tiers_[layer].size()) continue;
        take(layer);
        any = true;
      }
    }
    return;
  }
  using Step = std::pair<double, size_t>;  // cost; deeper layers first
  std::set<Step> next;
  const auto offer = [&](size_t layer) {
    if (at[layer] + 1 < tiers_[layer].size())
      next.emplace(step_cost(layer, at[layer]), num_layers - 1 - layer);
  };
  for (size_t layer = 0; layer < num_layers; ++layer) offer(layer);
  while (!next.empty()) {
    const size_t layer = num_layers - 1 - next.begin()->second;
    next.erase(next.begin());
    take(layer);
    offer(layer);
  }
}

// Cycle k: positions [k, k + 1) * kCut; each layer has one cut in it. A layer that shall be narrow in
// cycle k + 1 is narrowed by its cut in cycle k.
void KvPolicy::make_schedule() {
  if (options_.budget_bytes == 0)
    fail(ErrorKind::kInvalidInput, "KV cache: a progressive cache needs a budget of bytes");
  if (options_.max_length == 0 || options_.max_length > size_t{1} << 40)
    fail(ErrorKind::kInvalidInput, "KV cache: a longest sequence of {} tokens; give 1 or more",
         options_.max_length);
  const size_t budget = options_.budget_bytes / block_bytes_;
  const size_t num_cycles = ceil_div(options_.max_length, kCut);
  // A cycle that another follows keeps the cell that a first step takes, should there be need of one.
  const auto fits = [&](size_t cycle) {
    const size_t end = std::min((cycle + 1) * kCut, options_.max_length);
    const Narrowing narrowing =
        cycle + 1 < num_cycles ? Narrowing::kMayBegin : Narrowing::kAsScheduled;
    return ceil_div(peak_cells(cycle * kCut, end, narrowing), cells_per_block()) <= budget;
  };
  uint32_t steps = 0;
  size_t cycle = 0;
  for (; cycle < num_cycles; ++cycle) {
    steps_by_cycle_.push_back(steps);
    if (!fits(cycle)) break;  // only where the budget is a few pages
    while (steps < order_.size() && cycle + 1 < num_cycles && !fits(cycle + 1)) {
      if (steps == 0) exact_until_ = cycle * kCut;
      steps_by_cycle_.back() = ++steps;
    }
    if (!fits(cycle)) break;
  }
  max_length_ = std::min(cycle * kCut, options_.max_length);
  const size_t least = 1 + (2 * kCut + KvPolicy::kExactTokens) / kPageTokens;
  if (max_length_ < std::min(options_.max_length, 3 * kCut))
    fail(ErrorKind::kInvalidInput,
         "KV cache: a budget of {:.2f} MiB is too small: the first page, the newest {} tokens and "
         "room to narrow them take {:.2f} MiB in this model. Give more.",
         mib(options_.budget_bytes), 2 * kCut, mib((least + 1) * block_bytes_));
}

size_t KvPolicy::pass_end(size_t position) const {
  if (options_.mode != KvMode::kProgressive || exact_until_ == kNever) return kNever;
  if (position < exact_until_) return exact_until_;
  return (position / kCut + 1) * kCut;
}

size_t KvPolicy::last_cut(size_t layer, size_t position) const {
  if (position < phase_[layer]) return kNever;
  return position - (position - phase_[layer]) % kCut;
}

size_t KvPolicy::next_cut(size_t layer, size_t position) const {
  const size_t last = last_cut(layer, position);
  return last == kNever ? phase_[layer] : last + kCut;
}

size_t KvPolicy::narrow_pages(size_t cut) {
  const size_t end = cut < kExactTokens ? 0 : (cut - kExactTokens) / kPageTokens;
  return end <= 1 ? 0 : end - 1;
}

size_t KvPolicy::steps_at(size_t layer, size_t cut) const {
  if (cut == kNever) return 0;
  if (options_.mode != KvMode::kProgressive) return order_.size();
  if (steps_by_cycle_.empty()) return 0;
  return steps_by_cycle_[std::min((cut - phase_[layer]) / kCut, steps_by_cycle_.size() - 1)];
}

size_t KvPolicy::tier(size_t layer, size_t steps) const {
  const auto& own = step_of_[layer];
  return static_cast<size_t>(std::lower_bound(own.begin(), own.end(), steps) - own.begin());
}

// Of a layer whose last cut was at `cut`, after so many steps.
size_t KvPolicy::cells(size_t layer, size_t cut, size_t steps, size_t length) const {
  const size_t pages = ceil_div(length, kPageTokens);
  const size_t its_tier = tier(layer, steps);
  const size_t narrow = cut == kNever || its_tier == 0 ? 0 : narrow_pages(cut);
  const KvWidths w = tiers_[layer][its_tier];
  return 2 * (pages - narrow) + ceil_div(narrow, pages_per_cell(w.k)) +
         ceil_div(narrow, pages_per_cell(w.v)) + ceil_div(narrow, meta_pages_per_cell_);
}

// Each layer at its largest, whichever of them a pass has done already.
size_t KvPolicy::peak_cells(size_t from, size_t to, Narrowing narrowing) const {
  size_t total = 0;
  bool any_narrow = narrowing == Narrowing::kMayBegin;
  for (size_t layer = 0; layer < tiers_.size(); ++layer) {
    const auto steps = [&](size_t cut) { return steps_at(layer, cut); };
    size_t peak = 0;
    size_t cut = from == 0 ? kNever : last_cut(layer, from - 1);
    while (true) {
      const size_t next = cut == kNever ? phase_[layer] : cut + kCut;
      peak = std::max(peak, cells(layer, cut, steps(cut), std::min(next, to)));
      any_narrow |= tier(layer, steps(cut)) != 0;
      if (next >= to) break;
      cut = next;
    }
    total += peak;
  }
  // While a page is being narrowed its first narrow cells are taken: three, for the two it leaves.
  return total + any_narrow;
}

size_t KvPolicy::blocks(size_t from, size_t to) const {
  return ceil_div(peak_cells(from, to), cells_per_block());
}

size_t KvPolicy::peak_blocks(size_t length) const {
  if (length == 0) return 0;
  const size_t plain = ceil_div(length, kPageTokens);
  if (mode() == KvMode::kPressure)  // at its narrowest, with the pages of a pass and one to narrow in
    return std::min(plain, blocks(length > kCut ? length - kCut : 0, length) + kCut / kPageTokens + 1);
  if (length <= exact_until_) return plain;
  if (mode() == KvMode::kProgressive)  // it has been full
    return std::max<size_t>(1, std::min(plain, options_.budget_bytes / block_bytes_));
  // Before its last cut a layer is at its largest.
  return blocks(length > kCut ? length - kCut : 0, length);
}

std::string KvPolicy::describe() const {
  const auto& o = options_;
  const std::string widths =
      !o.layer_widths.empty() ? std::string("widths by layer")
      : o.widths.k == o.widths.v ? fmt::format("{} bit", o.widths.k)
                                 : fmt::format("K {} bit, V {} bit", o.widths.k, o.widths.v);
  switch (o.mode) {
    case KvMode::kDirect:
      return widths;
    case KvMode::kProgressive:
      return fmt::format("progressive to {} within {:.1f} MiB", widths, mib(o.budget_bytes));
    case KvMode::kPressure:
      return fmt::format("16 bit, down to {} when memory runs short", widths);
    case KvMode::kPlain:
      break;
  }
  return "16 bit";
}

size_t direct_peak_bytes(KvPolicyOptions options, size_t num_layers, const kernels::KvShape& shape,
                         size_t length) {
  options.mode = KvMode::kDirect;
  const KvPolicy policy(options, num_layers, shape);
  return policy.peak_blocks(length) * policy.block_bytes();
}

}  // namespace weft::text
