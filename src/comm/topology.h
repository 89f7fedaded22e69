// Which links join the ranks, and what a message over them costs: latency + bytes / rate on every
// link that it passes ("alpha-beta"). Messages that share a link add up; those that do not are free
// of one another.
//
// A file is JSON, with `"weft_topology": 1` and one of
//   {"kind": "full-mesh", "ranks": 8, "link": LINK}           a link for each ordered pair
//   {"kind": "ring", "ranks": 8, "link": LINK}                each rank to its two neighbours
//   {"kind": "switch", "ranks": 8, "link": LINK}              one port for each rank, in and out
//   {"kind": "two-level", "nodes": 2, "devices": 8, "inside": "full-mesh" or "switch",
//    "link": LINK, "nic": LINK}                               one network port for each device
//   {"kind": "measured", "ranks": 4, "pairs": [{"from": 0, "to": 1, LINK's fields}, ...]}
// where LINK = {"latency_us": 50, "gbit_per_s": 0.1}.
//
// Immutable once made; thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft::comm {

inline constexpr size_t kMaxRanks = 1024;

struct Link {
  double latency_s = 0;
  double bytes_per_s = 0;
};

struct Message {
  size_t from = 0, to = 0;  // ranks, different
  double bytes = 0;
};

class Topology {
 public:
  enum class Kind : uint8_t { kFullMesh, kRing, kSwitch, kTwoLevel, kMeasured };

  // kInvalidInput: no ranks or more than kMaxRanks, a rate that is not above 0, a negative latency.
  static Topology full_mesh(size_t ranks, Link link);
  static Topology ring(size_t ranks, Link link);  // the shorter way round; ties go upwards
  static Topology one_switch(size_t ranks, Link port);
  static Topology two_level(size_t nodes, size_t devices, Kind inside, Link link, Link nic);
  // kInvalidInput names the file and the field.
  static Topology read(const std::filesystem::path& path);
  static Topology parse(std::string_view json, const std::string& name);
  std::string to_json() const;

  Kind kind() const { return kind_; }
  size_t num_ranks() const { return num_ranks_; }
  size_t num_nodes() const { return num_nodes_; }  // 1 but for two levels
  size_t devices_per_node() const { return num_ranks_ / num_nodes_; }
  std::string description() const;  // "full mesh of 8 ranks, 100 Mbit/s each way"

  // A directed link or port; the sum of those of a message's route is what it pays.
  struct Wire {
    std::string name;  // "0>1", "port 3 out", "NIC of 2 in"
    Link link;
  };
  std::span<const Wire> wires() const { return wires_; }
  std::span<const uint32_t> route(size_t from, size_t to) const;

  // Seconds until all messages have arrived that start at once: the busiest wire's sum of
  // latency + bytes / rate.
  double seconds(std::span<const Message> messages) const;
  // Bytes over each wire.
  std::vector<double> load(std::span<const Message> messages) const;

 private:
  Topology(Kind kind, size_t ranks);
  uint32_t add_wire(std::string name, Link link);
  void set_route(size_t from, size_t to, std::vector<uint32_t> wires);

  Kind kind_, inside_ = Kind::kFullMesh;
  size_t num_ranks_ = 0, num_nodes_ = 1;
  Link link_, nic_;
  std::vector<Wire> wires_;
  std::vector<std::vector<uint32_t>> routes_;  // (from, to)
};

const char* name(Topology::Kind kind);      // as in the file
std::string rate_text(double bytes_per_s);  // "100 Mbit/s", "64 GB/s"

}  // namespace weft::comm
