#include "comm/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/file.h"

namespace weft::comm {
namespace {

using nlohmann::json;
using Kind = Topology::Kind;

constexpr Kind kKinds[] = {Kind::kFullMesh, Kind::kRing, Kind::kSwitch, Kind::kTwoLevel,
                           Kind::kMeasured};
constexpr size_t kMaxFileBytes = size_t{256} << 20;  // a million measured pairs

void check(size_t ranks, const Link& link) {
  if (ranks == 0 || ranks > kMaxRanks)
    fail(ErrorKind::kInvalidInput, "{} ranks: a topology has 1 to {}", ranks, kMaxRanks);
  if (!(link.bytes_per_s > 0) || !std::isfinite(link.bytes_per_s))
    fail(ErrorKind::kInvalidInput, "a link's rate must be above 0, not {} bytes/s",
         link.bytes_per_s);
  if (!(link.latency_s >= 0) || !std::isfinite(link.latency_s))
    fail(ErrorKind::kInvalidInput, "a link's latency must be 0 or more, not {} s", link.latency_s);
}

// ---- the file

const json& field(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end()) fail(ErrorKind::kInvalidInput, "the field '{}' is missing", key);
  return *it;
}

double number(const json& object, const char* key) {
  const json& value = field(object, key);
  if (!value.is_number()) fail(ErrorKind::kInvalidInput, "the field '{}' is no number", key);
  return value.get<double>();
}

size_t count(const json& object, const char* key, size_t least, size_t most) {
  const double value = number(object, key);
  if (!(value >= static_cast<double>(least) && value <= static_cast<double>(most)) ||
      value != std::floor(value))
    fail(ErrorKind::kInvalidInput, "the field '{}' is {}, not a whole number from {} to {}", key,
         value, least, most);
  return static_cast<size_t>(value);
}

Kind kind_field(const json& object, const char* key) {
  const json& value = field(object, key);
  for (const Kind kind : kKinds)
    if (value == name(kind)) return kind;
  fail(ErrorKind::kInvalidInput,
       "the field '{}' is {}; known: full-mesh, ring, switch, two-level, "
       "measured",
       key, value.dump(-1, ' ', true, json::error_handler_t::replace));
}

Link link_of(const json& object) {
  return {.latency_s = number(object, "latency_us") * 1e-6,
          .bytes_per_s = number(object, "gbit_per_s") * 1e9 / 8};
}

json link_to_json(const Link& link) {
  return {{"latency_us", link.latency_s * 1e6}, {"gbit_per_s", link.bytes_per_s * 8 / 1e9}};
}

}  // namespace

const char* name(Kind kind) {
  switch (kind) {
    case Kind::kFullMesh:
      return "full-mesh";
    case Kind::kRing:
      return "ring";
    case Kind::kSwitch:
      return "switch";
    case Kind::kTwoLevel:
      return "two-level";
    case Kind::kMeasured:
      return "measured";
  }
  return "";
}

std::string rate_text(double bytes_per_s) {
  if (bytes_per_s >= 1e10) return fmt::format("{:.3g} GB/s", bytes_per_s / 1e9);
  const double bits = bytes_per_s * 8;
  if (bits >= 1e9) return fmt::format("{:.3g} Gbit/s", bits / 1e9);
  return fmt::format("{:.3g} Mbit/s", bits / 1e6);
}

Topology::Topology(Kind kind, size_t ranks) : kind_(kind), num_ranks_(ranks) {
  routes_.resize(ranks * ranks);
}

uint32_t Topology::add_wire(std::string name, Link link) {
  wires_.push_back({std::move(name), link});
  return static_cast<uint32_t>(wires_.size() - 1);
}

void Topology::set_route(size_t from, size_t to, std::vector<uint32_t> wires) {
  routes_[from * num_ranks_ + to] = std::move(wires);
}

std::span<const uint32_t> Topology::route(size_t from, size_t to) const {
  WEFT_ASSERT(from < num_ranks_ && to < num_ranks_ && from != to);
  return routes_[from * num_ranks_ + to];
}

Topology Topology::full_mesh(size_t ranks, Link link) {
  check(ranks, link);
  Topology t(Kind::kFullMesh, ranks);
  t.link_ = link;
  for (size_t from = 0; from < ranks; ++from)
    for (size_t to = 0; to < ranks; ++to)
      if (from != to) t.set_route(from, to, {t.add_wire(fmt::format("{}>{}", from, to), link)});
  return t;
}

Topology Topology::ring(size_t ranks, Link link) {
  check(ranks, link);
  Topology t(Kind::kRing, ranks);
  t.link_ = link;
  std::vector<uint32_t> up(ranks), down(ranks);  // from rank r to r + 1, and to r - 1
  for (size_t r = 0; r < ranks; ++r) {
    up[r] = t.add_wire(fmt::format("{}>{}", r, (r + 1) % ranks), link);
    down[r] = t.add_wire(fmt::format("{}>{}", r, (r + ranks - 1) % ranks), link);
  }
  for (size_t from = 0; from < ranks; ++from) {
    for (size_t to = 0; to < ranks; ++to) {
      if (from == to) continue;
      const size_t ahead = (to + ranks - from) % ranks;
      std::vector<uint32_t> wires;
      if (2 * ahead <= ranks)
        for (size_t i = 0; i < ahead; ++i) wires.push_back(up[(from + i) % ranks]);
      else
        for (size_t i = 0; i < ranks - ahead; ++i)
          wires.push_back(down[(from + ranks - i) % ranks]);
      t.set_route(from, to, std::move(wires));
    }
  }
  return t;
}

Topology Topology::one_switch(size_t ranks, Link port) {
  check(ranks, port);
  Topology t(Kind::kSwitch, ranks);
  t.link_ = port;
  std::vector<uint32_t> out(ranks), in(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    out[r] = t.add_wire(fmt::format("port {} out", r), port);
    in[r] = t.add_wire(fmt::format("port {} in", r), port);
  }
  for (size_t from = 0; from < ranks; ++from)
    for (size_t to = 0; to < ranks; ++to)
      if (from != to) t.set_route(from, to, {out[from], in[to]});
  return t;
}

Topology Topology::two_level(size_t nodes, size_t devices, Kind inside, Link link, Link nic) {
  if (nodes == 0 || devices == 0 || nodes > kMaxRanks || devices > kMaxRanks)
    fail(ErrorKind::kInvalidInput, "{} nodes of {} devices: both must be from 1 to {}", nodes,
         devices, kMaxRanks);
  check(nodes * devices, link);
  check(nodes * devices, nic);
  if (inside != Kind::kFullMesh && inside != Kind::kSwitch)
    fail(ErrorKind::kInvalidInput, "a node's inside is full-mesh or switch, not {}", name(inside));
  const Topology node =
      inside == Kind::kSwitch ? one_switch(devices, link) : full_mesh(devices, link);
  Topology t(Kind::kTwoLevel, nodes * devices);
  t.num_nodes_ = nodes;
  t.inside_ = inside;
  t.link_ = link;
  t.nic_ = nic;
  std::vector<uint32_t> out(nodes * devices), in(nodes * devices);
  for (size_t r = 0; r < nodes * devices; ++r) {
    out[r] = t.add_wire(fmt::format("NIC of {} out", r), nic);
    in[r] = t.add_wire(fmt::format("NIC of {} in", r), nic);
  }
  for (size_t n = 0; n < nodes; ++n) {
    const auto first = static_cast<uint32_t>(t.wires_.size());
    for (const Wire& wire : node.wires_)
      t.add_wire(nodes == 1 ? wire.name : fmt::format("node {}: {}", n, wire.name), wire.link);
    for (size_t a = 0; a < devices; ++a) {
      for (size_t b = 0; b < devices; ++b) {
        if (a == b) continue;
        std::vector<uint32_t> wires;
        for (const uint32_t wire : node.route(a, b)) wires.push_back(first + wire);
        t.set_route(n * devices + a, n * devices + b, std::move(wires));
      }
    }
  }
  for (size_t from = 0; from < nodes * devices; ++from)
    for (size_t to = 0; to < nodes * devices; ++to)
      if (from / devices != to / devices) t.set_route(from, to, {out[from], in[to]});
  return t;
}

Topology Topology::read(const std::filesystem::path& path) {
  return parse(read_file(path, kMaxFileBytes), path.string());
}

Topology Topology::parse(std::string_view text, const std::string& file) {
  try {
    const json object = json::parse(text, nullptr, false);
    if (!object.is_object()) fail(ErrorKind::kInvalidInput, "not a JSON object");
    if (field(object, "weft_topology") != 1)
      fail(ErrorKind::kUnsupported, "the field 'weft_topology' is not 1, the version known here");
    const Kind kind = kind_field(object, "kind");
    if (kind == Kind::kTwoLevel)
      return two_level(count(object, "nodes", 1, kMaxRanks), count(object, "devices", 1, kMaxRanks),
                       kind_field(object, "inside"), link_of(field(object, "link")),
                       link_of(field(object, "nic")));
    const size_t ranks = count(object, "ranks", 1, kMaxRanks);
    if (kind == Kind::kFullMesh) return full_mesh(ranks, link_of(field(object, "link")));
    if (kind == Kind::kRing) return ring(ranks, link_of(field(object, "link")));
    if (kind == Kind::kSwitch) return one_switch(ranks, link_of(field(object, "link")));

    Topology t(Kind::kMeasured, ranks);
    for (const json& pair : field(object, "pairs")) {
      const size_t from = count(pair, "from", 0, ranks - 1), to = count(pair, "to", 0, ranks - 1);
      if (from == to || !t.routes_[from * ranks + to].empty())
        fail(ErrorKind::kInvalidInput,
             "the pair {} to {} is given twice, or joins a rank to itself", from, to);
      const Link link = link_of(pair);
      check(ranks, link);
      t.set_route(from, to, {t.add_wire(fmt::format("{}>{}", from, to), link)});
    }
    if (t.wires_.size() != ranks * (ranks - 1))
      fail(ErrorKind::kInvalidInput, "{} pairs are given, but {} ranks have {}", t.wires_.size(),
           ranks, ranks * (ranks - 1));
    return t;
  } catch (const json::exception& error) {
    fail(ErrorKind::kInvalidInput, "{}: {}", file, error.what());
  } catch (const Error& error) {
    throw error.in(file);
  }
}

std::string Topology::to_json() const {
  json object = {{"weft_topology", 1}, {"kind", name(kind_)}};
  if (kind_ == Kind::kTwoLevel) {
    object.update({{"nodes", num_nodes_},
                   {"devices", devices_per_node()},
                   {"inside", name(inside_)},
                   {"link", link_to_json(link_)},
                   {"nic", link_to_json(nic_)}});
    return object.dump(1);
  }
  object["ranks"] = num_ranks_;
  if (kind_ != Kind::kMeasured) {
    object["link"] = link_to_json(link_);
    return object.dump(1);
  }
  json& pairs = object["pairs"] = json::array();
  for (size_t from = 0; from < num_ranks_; ++from) {
    for (size_t to = 0; to < num_ranks_; ++to) {
      if (from == to) continue;
      json pair = link_to_json(wires_[route(from, to)[0]].link);
      pair["from"] = from;
      pair["to"] = to;
      pairs.push_back(std::move(pair));
    }
  }
  return object.dump(1);
}

std::string Topology::description() const {
  switch (kind_) {
    case Kind::kFullMesh:
      return fmt::format("full mesh of {} ranks, {} each way", num_ranks_,
                         rate_text(link_.bytes_per_s));
    case Kind::kRing:
      return fmt::format("ring of {} ranks, {} each way", num_ranks_, rate_text(link_.bytes_per_s));
    case Kind::kSwitch:
      return fmt::format("{} ranks on a switch, {} for each port", num_ranks_,
                         rate_text(link_.bytes_per_s));
    case Kind::kTwoLevel:
      return fmt::format("{} nodes of {} devices ({}, {}), a {} NIC for each device", num_nodes_,
                         devices_per_node(), name(inside_), rate_text(link_.bytes_per_s),
                         rate_text(nic_.bytes_per_s));
    case Kind::kMeasured:
      return fmt::format("{} ranks, every pair measured", num_ranks_);
  }
  return "";
}

double Topology::seconds(std::span<const Message> messages) const {
  std::vector<double> busy(wires_.size(), 0);
  for (const Message& m : messages)
    for (const uint32_t wire : route(m.from, m.to))
      busy[wire] += wires_[wire].link.latency_s + m.bytes / wires_[wire].link.bytes_per_s;
  return busy.empty() ? 0 : *std::max_element(busy.begin(), busy.end());
}

std::vector<double> Topology::load(std::span<const Message> messages) const {
  std::vector<double> bytes(wires_.size(), 0);
  for (const Message& m : messages)
    for (const uint32_t wire : route(m.from, m.to)) bytes[wire] += m.bytes;
  return bytes;
}

}  // namespace weft::comm
