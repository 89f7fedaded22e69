#include "parallel/tasp/tasp.h"

#include <numeric>
#include <utility>
#include <vector>

#include "base/error.h"
#include "parallel/tasp/rings.h"

namespace weft::parallel::tasp {
namespace {

// Moves every piece along: `next(step, piece, rank)` is where the holder sends it.
template <class Next>
Exchange pass_round(std::string name, size_t num_ranks, size_t num_pieces, Next next) {
  Exchange exchange{
      .name = std::move(name), .num_ranks = num_ranks, .num_pieces = num_pieces, .steps = {}};
  // (pieces, ranks): whose piece a rank holds.
  std::vector<Ring> source(num_pieces, Ring(num_ranks));
  for (Ring& row : source) std::iota(row.begin(), row.end(), uint16_t{0});
  for (size_t step = 0; step + 1 < num_ranks; ++step) {
    auto& transfers = exchange.steps.emplace_back();
    for (size_t piece = 0; piece < num_pieces; ++piece) {
      Ring arrived(num_ranks);
      for (size_t rank = 0; rank < num_ranks; ++rank) {
        const uint16_t to = next(step, piece, rank);
        transfers.push_back({.from = static_cast<uint16_t>(rank),
                             .to = to,
                             .source = source[piece][rank],
                             .piece = static_cast<uint16_t>(piece)});
        arrived[to] = source[piece][rank];
      }
      source[piece] = std::move(arrived);
    }
  }
  return exchange;
}

// Of each ring, the rank after each rank.
std::vector<Ring> successors(const std::vector<Ring>& rings, size_t num_ranks) {
  std::vector<Ring> next(rings.size(), Ring(num_ranks));
  for (size_t c = 0; c < rings.size(); ++c)
    for (size_t i = 0; i < num_ranks; ++i) next[c][rings[c][i]] = rings[c][(i + 1) % num_ranks];
  return next;
}

}  // namespace

Exchange full_mesh_exchange(size_t num_ranks) {
  if (num_ranks == 1) return {.name = "tasp", .num_ranks = 1, .num_pieces = 1, .steps = {}};
  Exchange exchange;
  if (num_ranks == 4 || num_ranks == 6) {
    const auto to = hops(num_ranks);
    exchange = pass_round("tasp", num_ranks, num_ranks - 1,
                          [&](size_t step, size_t c, size_t r) { return to[step][c][r]; });
  } else {
    const std::vector<Ring> next = successors(rings(num_ranks), num_ranks);
    exchange = pass_round("tasp", num_ranks, num_ranks - 1,
                          [&](size_t, size_t c, size_t r) { return next[c][r]; });
  }
  WEFT_ASSERT(fault_of(exchange).empty() && unbalanced_link_of(exchange).empty());
  return exchange;
}

Exchange nodes_exchange(size_t num_nodes, size_t devices) {
  const std::vector<Ring> inside = paths(devices);
  const size_t num_ranks = num_nodes * devices;
  std::vector<Ring> rings(devices);
  // Where a path's vertex v stands in the node at hand. In the next node the path must begin at the
  // device number where it ended here.
  Ring place(devices);
  std::iota(place.begin(), place.end(), uint16_t{0});
  for (size_t node = 0; node < num_nodes; ++node) {
    Ring next(devices);
    for (size_t c = 0; c < devices; ++c) {
      for (const uint16_t v : inside[c])
        rings[c].push_back(static_cast<uint16_t>(node * devices + place[v]));
      next[inside[c].front()] = place[inside[c].back()];
    }
    place = std::move(next);
  }
  const std::vector<Ring> next = successors(rings, num_ranks);
  Exchange exchange = pass_round("paths", num_ranks, devices,
                                 [&](size_t, size_t c, size_t r) { return next[c][r]; });
  WEFT_ASSERT(fault_of(exchange).empty());
  return exchange;
}

}  // namespace weft::parallel::tasp
