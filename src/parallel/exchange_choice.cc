#include "parallel/exchange_choice.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "parallel/tasp/tasp.h"

namespace weft::parallel {
namespace {

// Where piece `piece` of rank 0 is, step by step; empty if someone sends it to several at once.
std::vector<size_t> journey(const Exchange& exchange, size_t piece) {
  std::vector<size_t> places{0};
  for (const auto& step : exchange.steps) {
    size_t moves = 0;
    for (const Transfer& t : step) {
      if (t.source != 0 || t.piece != piece) continue;
      if (t.from != places.back() || ++moves > 1) return {};
      places.push_back(t.to);
    }
    if (moves == 0) return {};
  }
  return places;
}

}  // namespace

std::vector<PricedExchange> price_exchanges(const comm::Topology& topology, size_t num_tokens,
                                            bool causal, const AttentionWork& work) {
  const size_t n = topology.num_ranks();
  if (n > kMaxPricedRanks)
    fail(ErrorKind::kInvalidInput,
         "{} ranks: exchanges are planned for {} at most, since their tables grow with the cube", n,
         kMaxPricedRanks);
  std::vector<PricedExchange> all;
  const auto add = [&](Exchange exchange, bool zigzag, bool is_baseline) {
    const Placement placement{.num_tokens = num_tokens,
                              .num_ranks = n,
                              .num_pieces = exchange.num_pieces,
                              .causal = causal,
                              .zigzag = zigzag};
    ExchangeCost cost = predict(exchange, placement, topology, work);
    all.push_back({std::move(exchange), placement, std::move(cost), is_baseline});
  };
  // Those that do not exist for this number of ranks or devices are left out.
  const auto add_if_any = [&](auto make) {
    try {
      add(make(), causal, false);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported) throw;
    }
  };
  add(ring_exchange(n), false, !causal);
  if (causal) {
    Exchange zigzag = ring_exchange(n);
    zigzag.name = "zigzag-ring";
    add(std::move(zigzag), true, true);
  }
  if (n > 2) {  // with two ranks there is one ring, and it is all of these
    add(direct_exchange(n), causal, false);
    add_if_any([&] { return tasp::full_mesh_exchange(n); });
    if (topology.num_nodes() > 1)
      add_if_any(
          [&] { return tasp::nodes_exchange(topology.num_nodes(), topology.devices_per_node()); });
  }
  std::stable_sort(all.begin(), all.end(), [](const PricedExchange& a, const PricedExchange& b) {
    return a.cost.total_s < b.cost.total_s;
  });
  const auto near = std::partition_point(all.begin(), all.end(), [&](const PricedExchange& e) {
    return e.cost.total_s <= 1.01 * all.front().cost.total_s;
  });
  std::stable_sort(all.begin(), near, [](const PricedExchange& a, const PricedExchange& b) {
    return a.exchange.num_pieces < b.exchange.num_pieces;
  });
  return all;
}

const PricedExchange& best_with_rings(const std::vector<PricedExchange>& priced) {
  for (const PricedExchange& e : priced)
    if (e.exchange.num_pieces > 1 && !ring_lines(e.exchange).empty()) return e;
  return priced.front();
}

std::string reason_for(const std::vector<PricedExchange>& priced) {
  const PricedExchange& best = priced.front();
  const auto baseline = std::find_if(priced.begin(), priced.end(),
                                     [](const PricedExchange& e) { return e.is_baseline; });
  WEFT_ASSERT(baseline != priced.end());
  if (best.exchange.num_ranks == 1) return "One rank: there is nothing to exchange.";
  const double gain = baseline->cost.total_s / best.cost.total_s;
  if (gain < 1.05)
    return baseline->cost.exposed_s < 0.05 * baseline->cost.total_s
               ? fmt::format("{}: attention hides the transfers anyway, no gain expected.",
                             best.exchange.name)
               : fmt::format(
                     "{}: the ports are shared, so more rings carry no more bytes; no gain "
                     "expected.",
                     best.exchange.name);
  return fmt::format(
      "{}: {:.2f} times as fast as {}, whose busiest wire carries {:.1f} times as "
      "many bytes.",
      best.exchange.name, gain, baseline->exchange.name,
      baseline->cost.busiest_wire_bytes / best.cost.busiest_wire_bytes);
}

std::vector<std::string> ring_lines(const Exchange& exchange) {
  std::vector<std::string> lines;
  for (size_t piece = 0; piece < exchange.num_pieces; ++piece) {
    const std::vector<size_t> places = journey(exchange, piece);
    if (places.size() < 2) return {};
    lines.push_back(fmt::format("piece {} of rank 0: {}", piece, fmt::join(places, " > ")));
  }
  return lines;
}

}  // namespace weft::parallel
