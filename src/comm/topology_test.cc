#include "comm/topology.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace weft::comm {
namespace {

using Kind = Topology::Kind;
const Link kLink{.latency_s = 1e-3, .bytes_per_s = 1000};

TEST(topology, messages_that_share_a_wire_add_up) {
  const Topology mesh = Topology::full_mesh(3, kLink);
  const Message both[] = {{0, 1, 100}, {0, 2, 50}};
  EXPECT_DOUBLE_EQ(mesh.seconds(both), 0.101);  // a wire each
  const Message twice[] = {{0, 1, 100}, {0, 1, 50}};
  EXPECT_DOUBLE_EQ(mesh.seconds(twice), 0.152);
  EXPECT_DOUBLE_EQ(Topology::one_switch(3, kLink).seconds(both), 0.152);  // one port out
}

TEST(topology, a_ring_goes_the_shorter_way_round) {
  const Topology ring = Topology::ring(5, kLink);
  EXPECT_EQ(ring.route(0, 2).size(), 2u);
  EXPECT_EQ(ring.route(0, 3).size(), 2u);
  EXPECT_EQ(ring.wires()[ring.route(0, 4)[0]].name, "0>4");
  EXPECT_EQ(Topology::ring(4, kLink).route(1, 3).size(), 2u);
}

TEST(topology, two_levels_leave_a_node_through_its_devices_ports) {
  const Topology t = Topology::two_level(2, 4, Kind::kFullMesh, kLink, kLink);
  EXPECT_EQ(t.num_ranks(), 8u);
  EXPECT_EQ(t.route(1, 3).size(), 1u);
  ASSERT_EQ(t.route(1, 6).size(), 2u);
  EXPECT_EQ(t.wires()[t.route(1, 6)[0]].name, "NIC of 1 out");
  EXPECT_EQ(t.wires()[t.route(1, 6)[1]].name, "NIC of 6 in");
}

TEST(topology, files_come_back_as_they_were_written) {
  const char* measured =
      R"({"weft_topology":1,"kind":"measured","ranks":2,"pairs":[
          {"from":0,"to":1,"latency_us":10,"gbit_per_s":1},
          {"from":1,"to":0,"latency_us":20,"gbit_per_s":2}]})";
  for (const Topology& t :
       {Topology::full_mesh(3, kLink), Topology::ring(4, kLink), Topology::one_switch(5, kLink),
        Topology::two_level(2, 3, Kind::kSwitch, kLink, {.latency_s = 0, .bytes_per_s = 5}),
        Topology::parse(measured, "m")}) {
    const Topology again = Topology::parse(t.to_json(), "again");
    EXPECT_EQ(again.to_json(), t.to_json());
    EXPECT_EQ(again.description(), t.description());
    EXPECT_EQ(again.wires().size(), t.wires().size());
  }
}

TEST(topology, bad_files_are_named_with_the_field) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not a JSON object"},
      {"[]", "not a JSON object"},
      {"{}", "'weft_topology' is missing"},
      {R"({"weft_topology":2})", "is not 1"},
      {R"({"weft_topology":1,"kind":"torus"})", "known: full-mesh"},
      {R"({"weft_topology":1,"kind":"ring","ranks":0,"link":{}})", "'ranks' is 0"},
      {R"({"weft_topology":1,"kind":"ring","ranks":1e9,"link":{}})", "'ranks' is"},
      {R"({"weft_topology":1,"kind":"ring","ranks":2.5,"link":{}})", "'ranks' is 2.5"},
      {R"({"weft_topology":1,"kind":"ring","ranks":2})", "'link' is missing"},
      {R"({"weft_topology":1,"kind":"ring","ranks":2,"link":7})", "'latency_us' is missing"},
      {R"({"weft_topology":1,"kind":"ring","ranks":2,"link":{"latency_us":0,"gbit_per_s":0}})",
       "rate must be above 0"},
      {R"({"weft_topology":1,"kind":"ring","ranks":2,"link":{"latency_us":-1,"gbit_per_s":1}})",
       "latency must be 0 or more"},
      {R"({"weft_topology":1,"kind":"measured","ranks":2,"pairs":[]})", "0 pairs are given"},
      {R"({"weft_topology":1,"kind":"measured","ranks":2,"pairs":[
           {"from":0,"to":0,"latency_us":1,"gbit_per_s":1}]})",
       "joins a rank to itself"},
      {R"({"weft_topology":1,"kind":"two-level","nodes":2,"devices":2,"inside":"ring",
           "link":{"latency_us":1,"gbit_per_s":1},"nic":{"latency_us":1,"gbit_per_s":1}})",
       "full-mesh or switch"},
  };
  for (const auto& [text, expected] : cases) {
    try {
      Topology::parse(text, "t.json");
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << text << "\n"
                                                                             << error.what();
      EXPECT_TRUE(std::string(error.what()).starts_with("t.json: "));
    }
  }
}

}  // namespace
}  // namespace weft::comm
