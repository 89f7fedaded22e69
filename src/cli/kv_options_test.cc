#include "cli/kv_options.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "text/kv_calibration.h"

namespace weft::cli {
namespace {

text::TextModelOptions parse(std::vector<std::string> arguments,
                             const std::filesystem::path& model = "") {
  CLI::App app;
  KvOptions options;
  add_kv_options(app, options);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes vectors
  app.parse(arguments);
  text::TextModelOptions out;
  options.apply(out, model);
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
  EXPECT_EQ(parse({"--kv", "pressure", "--kv-budget", "1.5G"}).kv.budget_bytes, size_t{3} << 29);
}

// Deep layers that mind nothing give their bits to the first.
TEST(kv_options, bits_are_shared_out_over_layers_by_the_calibration) {
  const std::filesystem::path model = WEFT_SOURCE_DIR "/tests/data/parity/llama3_tied";
  const auto checkpoint = formats::open_checkpoint(model);
  const auto config = models::read_config(*checkpoint);
  text::KvCalibration c{.model_hash = text::kv_model_hash(*checkpoint),
                        .model = "test",
                        .num_kv_heads = config.num_kv_heads,
                        .head_dim = config.head_dim,
                        .group = config.head_dim,
                        .text_hash = 1,
                        .text_tokens = 1000,
                        .layers = std::vector<text::KvSensitivity>(config.num_layers),
                        .smoothing = {}};
  c.smoothing.resize(config.num_layers);
  for (text::KvSmoothing& s : c.smoothing)
    s.factors.assign(config.num_kv_heads * config.head_dim, 1.0f);
  c.layers[0] = {.k = {0.1, 0.5, 2}, .v = {0.1, 0.4, 1}};
  const auto file = std::filesystem::path(testing::TempDir()) /
                    fmt::format("weft_options_{}.kvq.json", getpid());
  text::save_kv_calibration(c, file);
  const auto bits_of = [](const text::KvPolicyOptions& kv) {
    size_t sum = 0;
    for (const text::KvWidths w : kv.layer_widths) sum += size_t{w.k} + w.v;
    return sum;
  };
  const auto direct = parse({"--kv-bits", "4", "--kv-calibration", file}, model).kv;
  EXPECT_EQ(direct.mode, text::KvMode::kDirect);
  ASSERT_EQ(direct.layer_widths.size(), config.num_layers);
  EXPECT_LE(bits_of(direct), 8 * config.num_layers);
  EXPECT_GT(direct.layer_widths[0].k, direct.layer_widths[1].k);
  const auto progressive = parse({"--kv", "progressive", "--kv-budget", "1MiB", "--kv-bits", "3.5",
                                  "--kv-calibration", file}, model).kv;
  EXPECT_EQ(progressive.mode, text::KvMode::kProgressive);
  EXPECT_LE(bits_of(progressive), 7 * config.num_layers);
  EXPECT_EQ(progressive.sensitivities.size(), config.num_layers);
  std::filesystem::remove(file);
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
  EXPECT_NE(message({"--kv-bits", "5"}).find("'weft calibrate kv'"), std::string::npos);
  EXPECT_NE(message({"--kv-bits", "5", "--kv-calibration", "x", "--kv-k", "8"}).find("leave out"),
            std::string::npos);
  EXPECT_NE(message({"--kv-bits", "5", "--kv-calibration", "x", "--kv", "8"}).find("leave it out"),
            std::string::npos);
  EXPECT_NE(message({"--kv-max-length", "100"}).find("belongs to --kv progressive"),
            std::string::npos);
}

}  // namespace
}  // namespace weft::cli
