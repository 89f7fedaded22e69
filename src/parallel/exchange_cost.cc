#include "parallel/exchange_cost.h"

#include <algorithm>

#include "base/error.h"

namespace weft::parallel {

ExchangeCost predict(const Exchange& exchange, const Placement& placement,
                     const comm::Topology& topology, const AttentionWork& work) {
  const size_t n = exchange.num_ranks;
  if (placement.num_ranks != n || topology.num_ranks() != n ||
      placement.num_pieces != exchange.num_pieces)
    fail(ErrorKind::kInvalidInput,
         "an exchange of {} ranks and {} pieces, tokens for {} and {}, and a topology of {} ranks "
         "do not go together",
         n, exchange.num_pieces, placement.num_ranks, placement.num_pieces, topology.num_ranks());
  const auto batch = static_cast<double>(work.batch);
  const double bytes_per_token =
      2.0 * static_cast<double>(work.num_kv_heads * work.head_dim) * work.bytes_per_value * batch;
  // A score and its share of the weighted sum: two multiply-adds of head_dim each.
  const double s_per_score =
      4.0 * static_cast<double>(work.num_heads * work.head_dim) * batch / work.flops_per_s;

  ExchangeCost cost;
  std::vector<double> scores(n, 0), wires(topology.wires().size(), 0);
  for (size_t rank = 0; rank < n; ++rank)
    for (size_t piece = 0; piece < placement.num_pieces; ++piece)
      scores[rank] += static_cast<double>(placement.scores(rank, rank, piece));
  std::vector<comm::Message> messages;
  for (size_t step = 0; step <= exchange.steps.size(); ++step) {
    ExchangeCost::Step& s = cost.steps.emplace_back();
    s.compute_s = *std::max_element(scores.begin(), scores.end()) * s_per_score;
    if (step < exchange.steps.size()) {
      messages.clear();
      std::fill(scores.begin(), scores.end(), 0);
      for (const Transfer& t : exchange.steps[step]) {
        const size_t tokens = placement.piece_tokens(t.source, t.piece);
        scores[t.to] += static_cast<double>(placement.scores(t.to, t.source, t.piece));
        if (tokens == 0) continue;  // neither side sends
        const double bytes = static_cast<double>(tokens) * bytes_per_token;
        messages.push_back({.from = t.from, .to = t.to, .bytes = bytes});
        cost.total_bytes += bytes;
      }
      s.transfer_s = topology.seconds(messages);
      const std::vector<double> load = topology.load(messages);
      for (size_t i = 0; i < wires.size(); ++i) wires[i] += load[i];
    }
    cost.compute_s += s.compute_s;
    cost.transfer_s += s.transfer_s;
    cost.total_s += std::max(s.compute_s, s.transfer_s) +
                    work.interference * std::min(s.compute_s, s.transfer_s);
  }
  cost.exposed_s = cost.total_s - cost.compute_s;
  if (!wires.empty()) {
    const auto [least, most] = std::minmax_element(wires.begin(), wires.end());
    cost.idlest_wire_bytes = *least;
    cost.busiest_wire_bytes = *most;
  }
  return cost;
}

}  // namespace weft::parallel
