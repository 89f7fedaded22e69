// A set that new answers stay in. Those that a task's answers needed so far are not enough: a new
// answer of dozens of tokens is whole only if no step misses. So every token gets a place in one
// order, likeliest first, and the set is as long a piece of it as held-out answers ask for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "text/vocabtailor/profile_builder.h"

namespace weft::text {

// All tokens that a set may have (control tokens have other ways into it): first `counted` as they
// stand; then by `plausible`, what the model thought of each token where it said another (largest
// first; above 0); then by id, for byte pair encodings number their tokens as they were merged, the
// most frequent of their training text first. Of equal ones the lower id.
std::vector<uint32_t> order_tokens(std::span<const TokenCount> counted,
                                   std::span<const float> plausible,
                                   const formats::Tokenizer& tokenizer);

// Which piece of an order holds a token.
class OrderedSizes {
 public:
  static constexpr size_t kNever = std::numeric_limits<size_t>::max();

  // `always`: tokens that need no place, being in every set.
  OrderedSizes(std::span<const uint32_t> order, std::span<const uint32_t> always,
               size_t vocab_size);
  // The smallest number of the order's first tokens that have it; 0: it is always there.
  size_t size_with(Token token) const { return sizes_[static_cast<size_t>(token)]; }

 private:
  std::vector<size_t> sizes_;  // of each token
};

// The size at which a share of new answers is whole, from the sizes that answers needed which were
// held out: the ceil((n + 1) share)-th smallest. If new answers are like those, one is whole with
// that probability at least, whatever the distribution (split conformal prediction; Vovk, Gammerman
// and Shafer 2005, ch. 4). None: n is too small to promise it.
std::optional<size_t> size_for_answers(std::vector<size_t> needed, double share);
size_t fewest_answers(double share);  // for which it gives one

}  // namespace weft::text
