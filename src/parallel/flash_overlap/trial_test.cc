#include "parallel/flash_overlap/trial.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "comm/thread_transport.h"
#include "kernels/test_values.h"
#include "parallel/flash_overlap/tuning_file.h"

namespace weft::parallel::flash_overlap {
namespace {

// Trials made up by a model with another interference and slower messages: the fit finds it again, and
// foretells partitions that it was not shown.
TEST(flash_overlap_trial, a_fitted_model_foretells_what_was_not_tried) {
  std::vector<double> before = {0};
  for (size_t tile = 1; tile <= 32; ++tile) before.push_back(static_cast<double>(tile) * 1000);
  const LatencyModel asked{.tile_s = 1,
                           .interference = 0.1,
                           .collective = LatencyCurve({{1000, 0.8}, {32000, 20}}),
                           .whole_s = 20,
                           .reading_s = 0.5};
  LatencyModel truth = asked;
  truth.interference = 0.6;
  truth.collective = LatencyCurve({{1000, 0.8 * 1.3}, {32000, 20 * 1.3}});
  std::vector<Trial> trials;
  for (const size_t groups : {2, 4, 8, 16}) {
    std::vector<size_t> ends = equal_groups(32, groups);
    const double seconds = predict_s(ends, before, truth);
    trials.push_back({std::move(ends), seconds});
  }
  const LatencyModel found = fitted(asked, trials, before);
  for (const size_t groups : {3, 5, 11, 32}) {
    const std::vector<size_t> ends = equal_groups(32, groups);
    const double expected = predict_s(ends, before, truth);
    // The fit looks at factors 4 % and interferences 0.05 apart.
    EXPECT_NEAR(predict_s(ends, before, found), expected, 0.04 * expected) << groups;
  }
}

TEST(flash_overlap_trial, all_ranks_choose_the_same) {
  std::vector<std::vector<size_t>> chosen(3);
  comm::run_thread_ranks(3, [&](const comm::Communicator& ranks) {
    const auto seed = static_cast<uint32_t>(ranks.rank());
    const kernels::Linear weight = kernels::random_linear(64, 48, seed);
    const std::vector<float> x = kernels::random_values(size_t{100} * 48, seed);
    kernels::Activations activations;
    activations.set(x.data(), 100, 48, 48);
    const TuningRecord tuning = tune({&weight, &activations, &ranks}, {100, 64, 16, 32},
                                     Collective::kAllReduce, CoreSet());
    chosen[ranks.rank()] = tuning.best.group_ends;
    // No overlap and blocks of rows (100 rows in bands of 16) are among what was tried.
    const auto tried = [&](const std::vector<size_t>& ends) {
      return std::find_if(tuning.trials.begin(), tuning.trials.end(),
                          [&](const Trial& trial) { return trial.group_ends == ends; });
    };
    for (const size_t groups : {1, 7}) {
      ASSERT_NE(tried(equal_groups(14, groups)), tuning.trials.end()) << groups;
      EXPECT_GT(tried(equal_groups(14, groups))->seconds, 0) << groups;
    }
    EXPECT_NE(tried(tuning.best.group_ends), tuning.trials.end());
  });
  EXPECT_EQ(chosen[1], chosen[0]);
  EXPECT_EQ(chosen[2], chosen[0]);
}

class Tunings : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  TuningFile open() {
    return TuningFile(path_, [this](const std::string& said) { said_.push_back(said); });
  }
  void write(std::string_view text) {
    AtomicFile file(path_);
    file.write(text);
    file.commit();
  }
  const std::filesystem::path path_ =
      std::filesystem::path(testing::TempDir()) / fmt::format("tunings-{}.json", getpid());
  std::vector<std::string> said_;
};

TEST_F(Tunings, are_found_again) {
  open().add("a, 8 x 16", {{2, 5}, 0.25});
  TuningFile second = open();
  second.add("b", {{7}, 1});
  const TuningFile third = open();
  ASSERT_TRUE(third.find("a, 8 x 16"));
  EXPECT_EQ(third.find("a, 8 x 16")->group_ends, (std::vector<size_t>{2, 5}));
  EXPECT_DOUBLE_EQ(third.find("a, 8 x 16")->collective_s, 0.25);
  EXPECT_TRUE(third.find("b"));
  EXPECT_FALSE(third.find("c"));
  EXPECT_TRUE(said_.empty());
}

TEST_F(Tunings, of_a_wrong_file_are_none_and_it_stays) {
  for (const char* wrong :
       {"", "[]", "{}", "\0\1", R"({"weft_overlap_tunings": 2, "tunings": {}})",
        R"({"weft_overlap_tunings": 1})",
        R"({"weft_overlap_tunings": 1, "tunings": {"a": {"group_ends": [], "collective_ms": 1}}})",
        R"({"weft_overlap_tunings": 1, "tunings": {"a": {"group_ends": [2, 2], "collective_ms": 1}}})",
        R"({"weft_overlap_tunings": 1, "tunings": {"a": {"group_ends": [0, 2], "collective_ms": 1}}})",
        R"({"weft_overlap_tunings": 1, "tunings": {"a": {"group_ends": [-1], "collective_ms": 1}}})",
        R"({"weft_overlap_tunings": 1, "tunings": {"a": {"group_ends": [2], "collective_ms": -1}}})",
        R"({"weft_overlap_tunings": 1, "tunings": {"a": {"group_ends": [2]}}})"}) {
    SCOPED_TRACE(wrong);
    write(wrong);
    said_.clear();
    TuningFile file = open();
    EXPECT_FALSE(file.find("a"));
    ASSERT_EQ(said_.size(), 1u);
    EXPECT_NE(said_[0].find(path_.string()), std::string::npos);
    file.add("b", {{1}, 1});
    EXPECT_EQ(read_file(path_, 1000), wrong);
  }
}

TEST_F(Tunings, that_cannot_be_written_are_given_up) {
  TuningFile file("/proc/none/tunings.json",
                  [this](const std::string& said) { said_.push_back(said); });
  file.add("a", {{1}, 1});
  file.add("b", {{1}, 1});
  EXPECT_EQ(said_.size(), 1u);
}

}  // namespace
}  // namespace weft::parallel::flash_overlap
