// generate with a part of a mixture's experts in memory, as a user runs it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/random_model.h"
#include "tests/process.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Experts : public ::testing::Test {
 protected:
  Experts() {
    fs::create_directories(folder_);
    formats::write_random_model(model_, "megrez2-tiny", formats::quant_mix("q4_0"), 1, CoreSet());
  }
  ~Experts() override { fs::remove_all(folder_); }

  Finished generate(std::vector<std::string> more) const {
    std::vector<std::string> args = {
        "generate",     "--model", model_.string(), "--raw",     "--temp", "0",
        "--max-tokens", "16",      "--json",        "--threads", "1",      "Once upon"};
    args.insert(args.end(), more.begin(), more.end());
    return run_weft(args);
  }

  const fs::path folder_ =
      fs::path(::testing::TempDir()) / ("weft_experts_" + std::to_string(getpid()));
  const fs::path model_ = folder_ / "tiny.gguf";
};

TEST_F(Experts, any_part_of_them_gives_the_same_answer) {
  const Finished all = generate({});
  ASSERT_EQ(all.exit_code, 0) << all.err;
  const json want = json::parse(all.out);
  EXPECT_FALSE(want.contains("experts"));
  for (const std::vector<std::string>& flags :
       {std::vector<std::string>{"--expert-memory", "25%"},
        {"--expert-memory", "25%", "--expert-policy", "lru", "--expert-io", "direct"},
        {"--expert-memory", "50%", "--expert-on-demand"},
        {"--expert-memory", "60K", "--expert-pack", "none"}}) {
    const Finished part = generate(flags);
    ASSERT_EQ(part.exit_code, 0) << part.err;
    const json got = json::parse(part.out);
    EXPECT_EQ(got["text"], want["text"]);
    EXPECT_GT(got["experts"]["misses"].get<size_t>(), 0U);
    EXPECT_NE(part.err.find("of 16 experts in memory"), std::string::npos) << part.err;
  }
  EXPECT_TRUE(fs::exists(folder_ / "tiny.gguf.experts"));
}

TEST_F(Experts, flags_that_cannot_be_are_refused) {
  struct Case {
    std::vector<std::string> flags;
    const char* says;
  };
  for (const Case& c :
       {Case{{"--expert-memory", "lots"}, "no amount of memory"},
        Case{{"--expert-memory", "1K"}, "At least"},
        Case{{"--expert-policy", "lru"}, "belong to --expert-memory"},
        Case{{"--expert-memory", "50%", "--expert-io", "tape"}, "Known are auto"}}) {
    const Finished run = generate(c.flags);
    EXPECT_NE(run.exit_code, 0) << c.says;
    EXPECT_NE(run.err.find(c.says), std::string::npos) << run.err;
  }
}

}  // namespace
}  // namespace weft::tests
