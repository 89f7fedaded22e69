// generate with a part of a mixture's experts in memory, as a user runs it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/checkpoint.h"
#include "formats/random_model.h"
#include "models/language_model.h"
#include "tests/process.h"

namespace weft::tests {
namespace {

#if defined(__has_feature)
#define WEFT_HAS_FEATURE(x) __has_feature(x)
#else
#define WEFT_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || WEFT_HAS_FEATURE(address_sanitizer)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

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

// What a process takes at its peak beside its experts (the program, other weights, KV cache,
// scratch) is the same whether all experts are in memory or a quarter of them.
TEST_F(Experts, a_process_takes_what_it_was_given) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer takes memory of its own";
  const fs::path model = folder_ / "many.gguf";
  formats::write_random_model(model, "megrez2-many", formats::quant_mix("q8_0"), 1, CoreSet());
  const auto plan =
      models::plan_memory(*formats::open_checkpoint(model), kernels::KvFormat::kF16, 256);
  ASSERT_GT(plan.expert_bytes, size_t{32} << 20);
  const auto peak = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {
        "generate",  "--model", model.string(), "--raw", "--temp",   "0", "--context", "256",
        "--threads", "1",       "--max-tokens", "64",    "Once upon"};
    args.insert(args.end(), more.begin(), more.end());
    const Finished run = run_weft(args);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return run.peak_memory_bytes;
  };
  peak({"--expert-memory", "25%"});  // makes the pack
  const size_t all = peak({});
  for (const char* io : {"direct", "cached", "mmap"}) {
    const size_t quarter = peak({"--expert-memory", "25%", "--expert-io", io});
    const size_t budget = all - plan.expert_bytes + plan.expert_bytes / 4;
    // 5 %; and 6 MiB, for huge pages of which the slots need a part and for what readers look at.
    EXPECT_LE(quarter, budget + budget / 20 + (size_t{6} << 20)) << io << ", all in memory " << all;
  }
}

TEST_F(Experts, eval_experts_tells_what_memory_would_hold) {
  const fs::path text = folder_ / "text.txt", json_file = folder_ / "report.json";
  std::string words;
  for (int i = 0; i < 60; ++i) words += "Once upon a time " + std::to_string(i * i) + ". ";
  std::ofstream(text) << words;
  const Finished right =
      run_weft({"eval", "experts", "--disk", "0.5,2", text.string(), "--model", model_.string(),
                "--tokens", "300", "--context", "100", "--json", json_file.string()});
  ASSERT_EQ(right.exit_code, 0) << right.err;
  const json report = json::parse(read_file(json_file));
  EXPECT_GT(report["summary"]["overlap_between_tokens"], 0);
  EXPECT_LT(report["summary"]["overlap_between_tokens"], 1);
  const json& rows = report["tables"][1]["rows"];
  ASSERT_GE(rows.size(), 2u);
  double part = 0, hits = 0, bytes = 1e9;
  for (const json& row : rows) {
    const auto number = [&](const char* column) { return row.at(column).get<double>(); };
    EXPECT_GT(number("in memory"), part);
    EXPECT_GE(number("expected"), hits) << "more memory, more hits";
    EXPECT_LE(number("MB a token"), bytes);
    for (const char* policy : {"expected", "lru", "lfu", "least-stale"})
      EXPECT_LE(number(policy), number("optimum")) << policy;
    EXPECT_LE(number("at 0.5 GB/s: at most tokens/s"), number("at 2 GB/s: at most tokens/s"));
    part = number("in memory");
    hits = number("expected");
    bytes = number("MB a token");
  }
  // With a few experts in memory the same is read, and the same told.
  const Finished streamed = run_weft({"eval", "experts", "--expert-memory", "60K", text.string(),
                                      "--model", model_.string(), "--tokens", "300", "--context",
                                      "100", "--json", json_file.string()});
  ASSERT_EQ(streamed.exit_code, 0) << streamed.err;
  EXPECT_EQ(streamed.out.find("With all in memory"), std::string::npos) << streamed.out;
  EXPECT_EQ(json::parse(read_file(json_file))["summary"], report["summary"]);
  const Finished dense = run_weft({"eval", "experts", text.string(), "--model", "reasoner-small"});
  EXPECT_EQ(dense.exit_code, 2);
  EXPECT_NE(dense.err.find("is no mixture of experts"), std::string::npos) << dense.err;
  const Finished nothing = run_weft({"eval", "experts", "--model", model_.string()});
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_NE(nothing.err.find("'weft eval experts --help'"), std::string::npos) << nothing.err;
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
