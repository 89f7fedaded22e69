#include "parallel/exchange_named.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace weft::parallel {
namespace {

TEST(exchange_named, machines_count_where_each_has_as_many_ranks_side_by_side) {
  const auto nodes = [](const std::vector<std::string>& hosts) { return num_nodes(hosts); };
  EXPECT_EQ(nodes({"a"}), 1u);
  EXPECT_EQ(nodes({"a", "a", "a", "a"}), 1u);
  EXPECT_EQ(nodes({"a", "b", "c"}), 1u);  // one rank on each: no links inside a machine
  EXPECT_EQ(nodes({"a", "a", "b", "b"}), 2u);
  EXPECT_EQ(nodes({"a", "a", "b", "b", "c", "c"}), 3u);
  EXPECT_EQ(nodes({"a", "b", "a", "b"}), 1u);
  EXPECT_EQ(nodes({"a", "a", "b", "b", "a", "a"}), 1u);
  EXPECT_EQ(nodes({"a", "a", "b"}), 1u);
  EXPECT_EQ(nodes({"a", "a", "b", "c"}), 1u);
}

TEST(exchange_named, all_are_sound_and_found_by_their_names) {
  for (size_t n = 1; n <= 12; ++n)
    for (size_t nodes = 1; nodes <= n; ++nodes) {
      if (n % nodes != 0) continue;
      size_t pieces = 0;
      for (const auto& [name, exchange] : named_exchanges(n, nodes)) {
        EXPECT_EQ(fault_of(exchange), "") << name << " of " << n;
        EXPECT_EQ(exchange_called(name, n, nodes).steps.size(), exchange.steps.size());
        EXPECT_GE(exchange.num_pieces, pieces) << name;  // few messages first
        pieces = exchange.num_pieces;
      }
    }
  EXPECT_EQ(named_exchanges(8, 1).size(), 3u);
  EXPECT_EQ(named_exchanges(8, 2).size(), 4u);
  EXPECT_EQ(named_exchanges(6, 2).size(), 3u);  // no paths inside three devices
}

TEST(exchange_named, what_does_not_exist_is_refused_with_what_does) {
  const auto kind_and_words = [](const std::string& name, size_t nodes) {
    try {
      exchange_called(name, 4, nodes);
    } catch (const Error& error) {
      return std::pair(error.kind(), std::string(error.what()));
    }
    return std::pair(ErrorKind::kIo, std::string());
  };
  const auto [unknown, known] = kind_and_words("spiral", 1);
  EXPECT_EQ(unknown, ErrorKind::kInvalidInput);
  EXPECT_NE(known.find("Known are tasp, direct, zigzag, paths"), std::string::npos) << known;
  const auto [unsupported, why] = kind_and_words("paths", 1);
  EXPECT_EQ(unsupported, ErrorKind::kUnsupported);
  EXPECT_NE(why.find("several hosts"), std::string::npos) << why;
}

}  // namespace
}  // namespace weft::parallel
