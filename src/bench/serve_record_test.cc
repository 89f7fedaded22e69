#include "bench/serve_record.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"

namespace weft::bench {
namespace {

struct RecordFile {
  std::filesystem::path path = std::filesystem::path(testing::TempDir()) /
                               ("weft_record_" + std::to_string(getpid()) + ".json");
  ~RecordFile() { std::filesystem::remove(path); }
};

TEST(serve_record, what_was_added_is_found_again) {
  const RecordFile file;
  LoadOutcome outcome{
      .requests = {{true, 0.25, 0.125, 0.5, 17}, {}}, .seconds = 3, .span_s = 2, .cpu_seconds = 4};
  {
    ServeRecord record(file.path, "mix, 2 requests");
    EXPECT_FALSE(record.scale());
    record.set_scale({.capacity = 5.5, .unloaded = {0.5, 0.25}});
    record.add(0.9, 2, "chunked 64", outcome);
  }
  const ServeRecord record(file.path, "mix, 2 requests");
  EXPECT_EQ(record.scale()->capacity, 5.5);
  EXPECT_EQ(record.scale()->unloaded.tpot_s, 0.25);
  EXPECT_FALSE(record.find(0.9, 1, "chunked 64"));
  EXPECT_FALSE(record.find(0.6, 2, "chunked 64"));
  const auto found = record.find(0.9, 2, "chunked 64");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->span_s, 2);
  ASSERT_EQ(found->requests.size(), 2u);
  EXPECT_TRUE(found->requests[0].answered);
  EXPECT_EQ(found->requests[0].longest_gap_s, 0.5);
  EXPECT_EQ(found->requests[0].tokens, 17u);
  EXPECT_FALSE(found->requests[1].answered);
}

TEST(serve_record, one_of_other_options_or_none_at_all_is_refused) {
  const RecordFile file;
  ServeRecord(file.path, "mix").set_scale({1, {1, 1}});
  EXPECT_THROW(ServeRecord(file.path, "chat"), Error);
  std::ofstream(file.path) << "{}";
  EXPECT_THROW(ServeRecord(file.path, "mix"), Error);
}

}  // namespace
}  // namespace weft::bench
