#include "parallel/exchange.h"

#include <fmt/format.h>

#include <algorithm>

namespace weft::parallel {
namespace {

std::string print(const Transfer& t) {
  return fmt::format("piece {} of rank {}, from {} to {}", t.piece, t.source, t.from, t.to);
}

// The (holder, source, piece) that a table is about, as an index.
struct Cells {
  size_t ranks, pieces;
  size_t size() const { return ranks * ranks * pieces; }
  size_t at(size_t holder, size_t source, size_t piece) const {
    return (holder * ranks + source) * pieces + piece;
  }
};

}  // namespace

std::string fault_of(const Exchange& exchange) {
  const size_t n = exchange.num_ranks;
  const Cells cells{n, exchange.num_pieces};
  constexpr uint32_t kNever = ~uint32_t{0};
  std::vector<uint32_t> came(cells.size(), kNever);  // the step in which it arrived
  for (uint32_t step = 0; step < exchange.steps.size(); ++step) {
    for (const Transfer& t : exchange.steps[step]) {
      if (t.from >= n || t.to >= n || t.source >= n || t.piece >= exchange.num_pieces)
        return fmt::format("step {}: {}: there are {} ranks and {} pieces", step, print(t), n,
                           exchange.num_pieces);
      if (t.from == t.to) return fmt::format("step {}: {}: a rank sends to itself", step, print(t));
      const bool holds =
          t.from == t.source || (step > 0 && came[cells.at(t.from, t.source, t.piece)] == step - 1);
      if (!holds)
        return fmt::format("step {}: {}: the sender does not hold it then", step, print(t));
      uint32_t& arrival = came[cells.at(t.to, t.source, t.piece)];
      if (t.to == t.source || arrival != kNever)
        return fmt::format("step {}: {}: the receiver has had it before", step, print(t));
      arrival = step;
    }
  }
  for (size_t rank = 0; rank < n; ++rank)
    for (size_t source = 0; source < n; ++source)
      for (size_t piece = 0; piece < exchange.num_pieces; ++piece)
        if (rank != source && came[cells.at(rank, source, piece)] == kNever)
          return fmt::format("piece {} of rank {} never comes to rank {}", piece, source, rank);
  return "";
}

std::string unbalanced_link_of(const Exchange& exchange) {
  const size_t n = exchange.num_ranks;
  std::vector<size_t> uses(n * n);
  for (size_t step = 0; step < exchange.steps.size(); ++step) {
    std::fill(uses.begin(), uses.end(), 0);
    for (const Transfer& t : exchange.steps[step]) ++uses[t.from * n + t.to];
    for (size_t from = 0; from < n; ++from)
      for (size_t to = 0; to < n; ++to)
        if (from != to && uses[from * n + to] != 1)
          return fmt::format("step {}: the link from {} to {} is used {} times", step, from, to,
                             uses[from * n + to]);
  }
  return "";
}

Exchange ring_exchange(size_t num_ranks) {
  Exchange exchange{.name = "ring", .num_ranks = num_ranks, .num_pieces = 1, .steps = {}};
  for (size_t step = 0; step + 1 < num_ranks; ++step) {
    auto& transfers = exchange.steps.emplace_back();
    for (size_t r = 0; r < num_ranks; ++r)
      transfers.push_back({.from = static_cast<uint16_t>(r),
                           .to = static_cast<uint16_t>((r + 1) % num_ranks),
                           .source = static_cast<uint16_t>((r + num_ranks - step) % num_ranks),
                           .piece = 0});
  }
  return exchange;
}

Exchange direct_exchange(size_t num_ranks) {
  Exchange exchange{.name = "direct",
                    .num_ranks = num_ranks,
                    .num_pieces = std::max<size_t>(num_ranks, 2) - 1,
                    .steps = {}};
  for (size_t step = 0; step + 1 < num_ranks; ++step) {
    auto& transfers = exchange.steps.emplace_back();
    for (size_t from = 0; from < num_ranks; ++from)
      for (size_t to = 0; to < num_ranks; ++to)
        if (from != to)
          transfers.push_back({.from = static_cast<uint16_t>(from),
                               .to = static_cast<uint16_t>(to),
                               .source = static_cast<uint16_t>(from),
                               .piece = static_cast<uint16_t>(step)});
  }
  return exchange;
}

}  // namespace weft::parallel
