#include "cli/kv_options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"

namespace weft::cli {
namespace {

text::TextModelOptions parse(std::vector<std::string> arguments) {
  CLI::App app;
  KvOptions options;
  add_kv_options(app, options);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes vectors
  app.parse(arguments);
  text::TextModelOptions out;
  options.apply(out, "");
  return out;
}

TEST(kv_options, every_flag_reaches_its_option) {
  using text::KvMode;
  using text::KvWidths;
  EXPECT_EQ(parse({}).kv.mode, KvMode::kPlain);
  EXPECT_EQ(parse({"--kv", "16"}).kv.mode, KvMode::kPlain);
  EXPECT_EQ(parse({"--kv", "bf16"}).kv_format, kernels::KvFormat::kBF16);
  EXPECT_EQ(parse({"--kv", "4"}).kv.mode, KvMode::kDirect);
  EXPECT_EQ(parse({"--kv", "4"}).kv.widths, (KvWidths{4, 4}));
  EXPECT_EQ(parse({"--kv", "8", "--kv-v", "4"}).kv.widths, (KvWidths{8, 4}));
  EXPECT_EQ(parse({"--kv-k", "8"}).kv.widths, (KvWidths{8, 16}));
  const text::KvPolicyOptions kv = parse({"--kv", "progressive", "--kv-budget", "3MiB", "--kv-k", "4",
                                          "--kv-max-length", "900", "--kv-transform", "none"})
                                       .kv;
  EXPECT_EQ(kv.mode, KvMode::kProgressive);
  EXPECT_EQ(kv.budget_bytes, size_t{3} << 20);
  EXPECT_EQ(kv.widths, (KvWidths{4, 0})) << "0: as the model's size has it";
  EXPECT_EQ(kv.max_length, 900u);
  EXPECT_EQ(kv.transform, kernels::KvTransform::kNone);
}

TEST(kv_options, pressure_has_the_memory_of_all) {
  const text::KvPolicyOptions kv = parse({"--kv", "pressure"}).kv;
  EXPECT_EQ(kv.mode, text::KvMode::kPressure);
  EXPECT_EQ(kv.widths, (text::KvWidths{0, 0}));
  EXPECT_EQ(kv.budget_bytes, 0u);
  EXPECT_EQ(parse({"--kv", "pressure", "--kv-budget", "5MiB"}).kv.budget_bytes, size_t{5} << 20);
}

TEST(kv_options, what_cannot_be_is_an_error) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"--kv", "3"}, {"--kv", "int8"}, {"--kv-k", "5"}, {"--kv-v", "0"}, {"--kv-v", "-8"},
           {"--kv-budget", "-1"}, {"--kv-budget", "much"}, {"--kv-max-length", "0"},
           {"--kv-max-length", "-5"}, {"--kv-max-length", "99999999999"},
           {"--kv-transform", "wavelet"}})
    EXPECT_THROW(parse(arguments), CLI::ParseError) << arguments[0] << ' ' << arguments[1];
  const auto message = [](const std::vector<std::string>& arguments) {
    try {
      parse(arguments);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInvalidInput);
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(message({"--kv", "progressive"}).find("needs --kv-budget"), std::string::npos);
  EXPECT_NE(message({"--kv", "8", "--kv-budget", "1MiB"}).find("belongs to --kv progressive"),
            std::string::npos);
  EXPECT_NE(message({"--kv-calibration", "x.kvq.json"}).find("under --kv progressive"),
            std::string::npos);
  EXPECT_NE(message({"--kv-max-length", "100"}).find("belongs to --kv progressive"),
            std::string::npos);
}

}  // namespace
}  // namespace weft::cli
