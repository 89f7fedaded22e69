#include "text/vocabtailor/token_order.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace weft::text {
namespace {

// (n + 1) * share, rounded up; products that are whole numbers but for f64's rounding stay so.
size_t place(size_t n, double share) {
  constexpr double kRounding = 1e-9;
  return static_cast<size_t>(std::ceil(static_cast<double>(n + 1) * share - kRounding));
}

}  // namespace

std::vector<uint32_t> order_tokens(std::span<const TokenCount> counted,
                                   std::span<const float> plausible,
                                   const formats::Tokenizer& tokenizer) {
  const size_t vocab_size = std::min(tokenizer.vocab_size(), plausible.size());
  std::vector<uint8_t> placed(vocab_size);
  std::vector<uint32_t> order;
  for (const TokenCount& count : counted) {
    WEFT_ASSERT(count.id < vocab_size);
    placed[count.id] = 1;
    order.push_back(count.id);
  }
  const auto rest = static_cast<ptrdiff_t>(order.size());
  for (uint32_t id = 0; id < vocab_size; ++id) {
    const formats::TokenKind kind = tokenizer.kind(static_cast<Token>(id));
    if (placed[id] == 0 && kind != formats::TokenKind::kControl &&
        kind != formats::TokenKind::kUnused)
      order.push_back(id);
  }
  std::stable_sort(order.begin() + rest, order.end(),
                   [&](uint32_t a, uint32_t b) { return plausible[a] > plausible[b]; });
  return order;
}

OrderedSizes::OrderedSizes(std::span<const uint32_t> order, std::span<const uint32_t> always,
                           size_t vocab_size)
    : sizes_(vocab_size, kNever) {
  for (size_t i = 0; i < order.size(); ++i) sizes_[order[i]] = i + 1;
  for (const uint32_t id : always) sizes_[id] = 0;
}

std::optional<size_t> size_for_answers(std::vector<size_t> needed, double share) {
  const size_t nth = place(needed.size(), share);
  if (nth > needed.size()) return std::nullopt;
  if (nth == 0) return 0;
  std::nth_element(needed.begin(), needed.begin() + static_cast<ptrdiff_t>(nth - 1), needed.end());
  return needed[nth - 1];
}

size_t fewest_answers(double share) {
  WEFT_ASSERT(share < 1);
  auto n = static_cast<size_t>(share / (1 - share));
  while (place(n, share) > n) ++n;
  return n;
}

}  // namespace weft::text
