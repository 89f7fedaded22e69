#include "train/run_log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;

struct Folder {
  fs::path path = fs::path(::testing::TempDir()) / ("weft_run_log_" + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

std::vector<size_t> steps_in(const fs::path& log) {
  std::vector<size_t> steps;
  std::istringstream lines(read_file(log));
  for (std::string line; std::getline(lines, line);)
    steps.push_back(nlohmann::json::parse(line)["step"]);
  return steps;
}

TEST(run_log, goes_on_behind_the_steps_that_are_kept) {
  const Folder folder;
  const fs::path path = folder.path / "log.jsonl";
  {
    RunLog log(path, 0);
    for (size_t step = 1; step <= 5; ++step) log.add({.step = step, .loss = NAN});
  }
  RunLog log(path, 3);
  log.add({.step = 4});
  log.add_evaluation(4, 1.5, "held-out");
  EXPECT_EQ(steps_in(path), (std::vector<size_t>{1, 2, 3, 4, 4}));
}

// A limit on the size of files is to a writer what a full disk is.
TEST(run_log, a_full_disk_ends_no_run_and_loses_no_line_once_there_is_room) {
  const Folder folder;
  const fs::path path = folder.path / "log.jsonl";
  RunLog log(path, 0);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{1000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  for (size_t step = 1; step <= 200; ++step) log.add({.step = step});
  log.flush();
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_LE(fs::file_size(path), 1000U);
  log.add({.step = 201});
  log.flush();
  const auto steps = steps_in(path);
  ASSERT_EQ(steps.size(), 201U);
  EXPECT_TRUE(std::is_sorted(steps.begin(), steps.end()));
}

}  // namespace
}  // namespace weft::train
