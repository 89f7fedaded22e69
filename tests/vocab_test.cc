// calibrate vocab, and generate with what it wrote, as a user runs them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/random_model.h"
#include "tests/process.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Vocabulary : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = fs::path(::testing::TempDir()) / ("weft_vocabulary_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    formats::write_random_model(model(), "tiny-wide", formats::quant_mix("q8_0"), 1, CoreSet());
    formats::write_random_model(folder_ / "other.gguf", "tiny", formats::quant_mix("q8_0"), 1,
                                CoreSet());
    std::string lines;
    for (int i = 0; i < 12; ++i)
      lines += json{{"input", "question " + std::to_string(i)}, {"output", "an answer"}}.dump() + "\n";
    write("data.jsonl", lines);
    const Finished made = calibrate("data.jsonl");
    ASSERT_EQ(made.exit_code, 0) << made.err;
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static fs::path model() { return folder_ / "wide.gguf"; }
  static fs::path profile() { return folder_ / "task.vocab.json"; }
  static void write(const std::string& name, std::string_view text) {
    AtomicFile file(folder_ / name);
    file.write(text);
    file.commit();
  }
  static Finished calibrate(const std::string& data, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {
        "calibrate", "vocab", model().string(), (folder_ / data).string(), "-o", profile().string(),
        "--max-tokens", "8", "--context", "64", "--threads", "1", "--tolerance", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_weft(arguments);
  }
  static Finished generate(std::vector<std::string> more, const fs::path& with = model()) {
    std::vector<std::string> arguments = {"generate", "question 2", "--temp", "0", "--max-tokens",
                                          "8", "--threads", "1", "--context", "64", "--model",
                                          with.string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_weft(arguments);
  }
  static fs::path folder_;
};
fs::path Vocabulary::folder_;

TEST_F(Vocabulary, a_profile_and_its_curve_are_written_the_same_each_time) {
  const std::string first = read_file(profile());
  const json written = json::parse(first);
  EXPECT_EQ(written["name"], "data");
  EXPECT_GT(written["ids"].size(), 0u);
  EXPECT_GT(written["curve"].size(), 1u);
  EXPECT_TRUE(read_file(folder_ / "task.vocab.svg").starts_with("<svg"));
  ASSERT_EQ(calibrate("data.jsonl").exit_code, 0);
  EXPECT_EQ(read_file(profile()), first);
}

TEST_F(Vocabulary, a_set_can_be_made_for_a_share_of_whole_answers) {
  const std::string out = (folder_ / "whole.vocab.json").string();
  const auto with = [&](const std::string& share, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {
        "calibrate", "vocab", model().string(), (folder_ / "data.jsonl").string(),
        "-o",        out,     "--max-tokens",   "4",
        "--context", "64",    "--threads",      "1",
        "--answers", share};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_weft(arguments);
  };
  const Finished made = with("0.8");
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_NE(made.out.find("80 % of new answers whole"), std::string::npos) << made.out;
  EXPECT_EQ(json::parse(read_file(out))["answers"], 0.8);
  const Finished few = with("0.99");
  EXPECT_NE(few.exit_code, 0);
  EXPECT_NE(few.err.find("at least 99"), std::string::npos) << few.err;
  EXPECT_NE(with("0.8", {"--size", "10"}).exit_code, 0) << "two ways of choosing the size";
  EXPECT_NE(with("1.5").exit_code, 0);
}

TEST_F(Vocabulary, answers_of_calibrated_prompts_are_as_without) {
  const Finished off = generate({"--json"});
  ASSERT_EQ(off.exit_code, 0) << off.err;
  for (const char* mode : {"hybrid", "screen", "verify", "draft"}) {
    const Finished got = generate({"--vocab-profile", profile().string(), "--vocab-mode", mode,
                                   "--json"});
    ASSERT_EQ(got.exit_code, 0) << got.err;
    const json out = json::parse(got.out);
    EXPECT_EQ(out["vocabulary"]["mode"], mode);
    EXPECT_EQ(out["text"], json::parse(off.out)["text"]) << mode;
  }
}

TEST_F(Vocabulary, the_plan_is_printed_before_loading) {
  const Finished got = generate({"--vocab-profile", profile().string(), "--verbose"});
  EXPECT_NE(got.err.find("kept in memory"), std::string::npos) << got.err;
  EXPECT_NE(got.err.find("and a sketch of all"), std::string::npos) << got.err;
  EXPECT_NE(got.err.find("steps computed others"), std::string::npos) << got.err;
  const Finished verified =
      generate({"--vocab-profile", profile().string(), "--vocab-mode", "verify", "--verbose"});
  EXPECT_NE(verified.err.find("steps asked the whole head"), std::string::npos) << verified.err;
}

TEST_F(Vocabulary, bad_input_is_one_clear_line) {
  write("broken.json", "{\"format\": ");
  write("bad.jsonl", "{\"input\": 3}\n");
  const struct {
    Finished finished;
    const char* expected;
  } cases[] = {
      {generate({"--vocab-profile", (folder_ / "none.json").string()}), "none.json"},
      {generate({"--vocab-profile", (folder_ / "broken.json").string()}), "broken.json"},
      {generate({"--vocab-profile", profile().string()}, folder_ / "other.gguf"),
       "another tokenizer"},
      {generate({"--vocab-mode", "static"}), "needs the tokens of a task"},
      {generate({"--vocab-mode", "quick"}), "quick"},
      {calibrate("bad.jsonl"), "bad.jsonl:1"},
      {calibrate("data.jsonl", {"--scripts", "klingon"}), "klingon"},
  };
  for (const auto& bad : cases) {
    EXPECT_NE(bad.finished.exit_code, 0) << bad.expected;
    EXPECT_NE(bad.finished.err.find(bad.expected), std::string::npos) << bad.finished.err;
  }
  const Finished bare = generate({"--vocab-mode", "hybrid"});
  EXPECT_EQ(bare.exit_code, 0);
  EXPECT_NE(bare.err.find("without a profile"), std::string::npos) << bare.err;
}

}  // namespace
}  // namespace weft::tests
