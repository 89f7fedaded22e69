// Which exchange suits a topology: every one that the topology allows, with what it would take, the
// best first.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "comm/topology.h"
#include "parallel/exchange.h"
#include "parallel/exchange_cost.h"
#include "parallel/placement.h"

namespace weft::parallel {

struct PricedExchange {
  Exchange exchange;
  Placement placement;
  ExchangeCost cost;
  bool is_baseline =
      false;  // what the others are compared with: Zigzag-Ring, or Ring for full attention
};

inline constexpr size_t kMaxPricedRanks = 128;

// kInvalidInput: more than kMaxPricedRanks.
// Ring and (causal) Zigzag-Ring, direct, TASP, and over several nodes its paths. Among those within
// 1 % of the fastest, the one with the fewest pieces comes first: fewer messages, same time.
std::vector<PricedExchange> price_exchanges(const comm::Topology& topology, size_t num_tokens,
                                            bool causal, const AttentionWork& work);

// Of those whose pieces travel rings of their own, the best; the first where there is none.
const PricedExchange& best_with_rings(const std::vector<PricedExchange>& priced);

// In one sentence, why the first was chosen.
std::string reason_for(const std::vector<PricedExchange>& priced);

// The journey of each piece of rank 0 ("piece 0 of rank 0: 0 > 3 > 1 > 2"), on which the pieces of
// the other ranks follow; empty for an exchange that forwards nothing.
std::vector<std::string> ring_lines(const Exchange& exchange);

}  // namespace weft::parallel
