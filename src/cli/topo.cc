#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "comm/topology.h"
#include "parallel/exchange_choice.h"
#include "parallel/exchange_drawing.h"

namespace weft::cli {
namespace {

using comm::Topology;

struct Options {
  std::string file, kind = "full-mesh", inside = "full-mesh", svg;
  size_t ranks = 0, nodes = 0, devices = 0;
  double gbit = 1, nic_gbit = 1, latency_us = 50;
  size_t tokens = 131072, heads = 32, kv_heads = 8, head_dim = 128, batch = 1;
  double gflops = 500, interference = 0.2;
  bool full = false, steps = false, json = false;
};

Topology make_topology(const Options& o) {
  if (!o.file.empty()) return Topology::read(o.file);
  const comm::Link link{.latency_s = o.latency_us * 1e-6, .bytes_per_s = o.gbit * 1e9 / 8};
  if (o.kind == "two-level") {
    if (o.nodes == 0 || o.devices == 0)
      fail(ErrorKind::kInvalidInput,
           "two levels need --nodes and --devices. Example: weft topo --kind two-level --nodes 2 "
           "--devices 8 --gbit 512 --nic-gbit 400");
    return Topology::two_level(
        o.nodes, o.devices,
        o.inside == "switch" ? Topology::Kind::kSwitch : Topology::Kind::kFullMesh, link,
        {.latency_s = link.latency_s, .bytes_per_s = o.nic_gbit * 1e9 / 8});
  }
  if (o.ranks == 0)
    fail(ErrorKind::kInvalidInput,
         "say how many ranks there are, or name a topology file. Example: weft topo --ranks 8");
  if (o.kind == "switch") return Topology::one_switch(o.ranks, link);
  if (o.kind == "ring") return Topology::ring(o.ranks, link);
  return Topology::full_mesh(o.ranks, link);
}

std::string time_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.2f} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.1f} us", seconds * 1e6);
}

void print_steps(const parallel::Exchange& exchange) {
  for (size_t step = 0; step < exchange.steps.size(); ++step) {
    fmt::print("\nstep {}\n", step + 1);
    for (const parallel::Transfer& t : exchange.steps[step])
      fmt::print("  {:>4} > {:<4} piece {} of rank {}\n", t.from, t.to, t.piece, t.source);
  }
}

void print(const Topology& topology, const std::vector<parallel::PricedExchange>& all,
           const Options& o) {
  fmt::print("{}\n", topology.description());
  const parallel::Exchange& rings = parallel::best_with_rings(all).exchange;
  const std::vector<std::string> lines = parallel::ring_lines(rings);
  if (!lines.empty()) fmt::print("\nhow pieces travel ({})\n", rings.name);
  for (const std::string& line : lines) fmt::print("  {}\n", line);
  if (o.steps) print_steps(all.front().exchange);
  fmt::print(
      "\npredicted, {} attention over {} tokens x {}, {} heads ({} of keys and values) of {}, {} "
      "GFLOP/s a rank\n",
      o.full ? "full" : "causal", o.tokens, o.batch, o.heads, o.kv_heads, o.head_dim, o.gflops);
  fmt::print("  {:<12} {:>6} {:>14} {:>11} {:>11} {:>11} {:>11} {:>8}\n", "exchange", "pieces",
             "busiest wire", "transfers", "attention", "together", "exposed", "speed-up");
  double baseline = 0;
  for (const parallel::PricedExchange& e : all)
    if (e.is_baseline) baseline = e.cost.total_s;
  for (const parallel::PricedExchange& e : all)
    fmt::print("  {:<12} {:>6} {:>10.1f} MB {:>11} {:>11} {:>11} {:>11} {:>7.2f}x\n",
               e.exchange.name, e.exchange.num_pieces, e.cost.busiest_wire_bytes / 1e6,
               time_text(e.cost.transfer_s), time_text(e.cost.compute_s), time_text(e.cost.total_s),
               time_text(e.cost.exposed_s), baseline / e.cost.total_s);
  fmt::print("\n{}\n", parallel::reason_for(all));
}

nlohmann::ordered_json to_json(const Topology& topology,
                               const std::vector<parallel::PricedExchange>& all) {
  nlohmann::ordered_json out = {{"topology", nlohmann::ordered_json::parse(topology.to_json())},
                                {"chosen", all.front().exchange.name},
                                {"reason", parallel::reason_for(all)}};
  for (const parallel::PricedExchange& e : all)
    out["exchanges"].push_back({{"name", e.exchange.name},
                                {"pieces", e.exchange.num_pieces},
                                {"steps", e.exchange.steps.size()},
                                {"busiest_wire_bytes", e.cost.busiest_wire_bytes},
                                {"idlest_wire_bytes", e.cost.idlest_wire_bytes},
                                {"transfer_s", e.cost.transfer_s},
                                {"compute_s", e.cost.compute_s},
                                {"total_s", e.cost.total_s},
                                {"exposed_s", e.cost.exposed_s},
                                {"rings", parallel::ring_lines(e.exchange)}});
  return out;
}

}  // namespace

void add_topo(CLI::App& program, StopToken) {
  auto o = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand(
      "topo", "Plan how ranks exchange keys and values over the links that join them");
  command->add_option("topology", o->file, "A topology file, instead of the options below")
      ->option_text("FILE");
  command->add_option("--ranks", o->ranks, "How many ranks")->check(CLI::Range(1, 1024));
  command->add_option("--kind", o->kind, "How they are joined")
      ->check(CLI::IsMember({"full-mesh", "switch", "ring", "two-level"}))
      ->capture_default_str();
  command->add_option("--nodes", o->nodes, "Of two levels: nodes")->check(CLI::Range(1, 1024));
  command->add_option("--devices", o->devices, "Of two levels: devices of a node")
      ->check(CLI::Range(1, 1024));
  command->add_option("--inside", o->inside, "Of two levels: how a node's devices are joined")
      ->check(CLI::IsMember({"full-mesh", "switch"}))
      ->capture_default_str();
  command->add_option("--gbit", o->gbit, "Rate of a link or port, each way, in Gbit/s")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--nic-gbit", o->nic_gbit, "Of two levels: a device's network port")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--latency-us", o->latency_us, "Of a message over a link")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  const std::string work = "Work to predict for";
  const auto positive = CLI::Range(size_t{1}, size_t{1} << 40);
  command->add_option("--tokens", o->tokens, "Of the sequence")
      ->check(positive)
      ->capture_default_str()
      ->group(work);
  command->add_option("--heads", o->heads, "Query heads")
      ->check(positive)
      ->capture_default_str()
      ->group(work);
  command->add_option("--kv-heads", o->kv_heads, "Heads of keys and values")
      ->check(positive)
      ->capture_default_str()
      ->group(work);
  command->add_option("--head-dim", o->head_dim, "Values of a head")
      ->check(positive)
      ->capture_default_str()
      ->group(work);
  command->add_option("--batch", o->batch, "Sequences at a time")
      ->check(positive)
      ->capture_default_str()
      ->group(work);
  command->add_option("--gflops", o->gflops, "What a rank reaches in attention")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group(work);
  command
      ->add_option("--interference", o->interference,
                   "Part of the shorter of attention and transfer that is not hidden")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str()
      ->group(work);
  command->add_flag("--full", o->full, "Every token sees all (images, video), not only the past")
      ->group(work);
  command->add_flag("--steps", o->steps, "List every transfer of the best exchange");
  command->add_option("--svg", o->svg, "Draw the rings and the predicted times")
      ->option_text("FILE");
  command->add_flag("--json", o->json, "Print everything as one JSON object");
  command->footer(
      "Examples:\n  weft topo --ranks 8 --gbit 0.1\n"
      "  weft topo --kind two-level --nodes 2 --devices 8 --gbit 512 --nic-gbit 400 --svg "
      "rings.svg");
  command->callback([o] {
    const Topology topology = make_topology(*o);
    const parallel::AttentionWork work{.num_heads = o->heads,
                                       .num_kv_heads = o->kv_heads,
                                       .head_dim = o->head_dim,
                                       .batch = o->batch,
                                       .flops_per_s = o->gflops * 1e9,
                                       .interference = o->interference};
    const auto all = parallel::price_exchanges(topology, o->tokens, !o->full, work);
    if (!o->svg.empty()) {
      AtomicFile file(o->svg);
      file.write(parallel::to_svg(topology, all));
      file.commit();
    }
    if (o->json)
      fmt::print("{}\n", to_json(topology, all).dump(2));
    else
      print(topology, all, *o);
  });
}

}  // namespace weft::cli
