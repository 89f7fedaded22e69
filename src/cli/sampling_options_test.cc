#include "cli/sampling_options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace weft::cli {
namespace {

text::SamplingOptions parse(std::vector<std::string> arguments) {
  CLI::App app;
  text::SamplingOptions options;
  add_sampling_options(app, options);
  add_seed_option(app, options);
  std::string prompt;
  app.add_option("prompt", prompt);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes vectors
  app.parse(arguments);
  return options;
}

TEST(sampling_options, every_flag_reaches_its_option) {
  const auto o = parse({"--temp",
                        "0.5",
                        "--top-k",
                        "7",
                        "--top-p",
                        "0.25",
                        "--min-p",
                        "0.125",
                        "--typical-p",
                        "0.75",
                        "--repeat-penalty",
                        "1.5",
                        "--presence-penalty",
                        "-1",
                        "--frequency-penalty",
                        "2",
                        "--penalty-last-n",
                        "-1",
                        "--seed",
                        "123"});
  EXPECT_EQ(o.temperature, 0.5f);
  EXPECT_EQ(o.top_k, 7);
  EXPECT_EQ(o.top_p, 0.25f);
  EXPECT_EQ(o.min_p, 0.125f);
  EXPECT_EQ(o.typical_p, 0.75f);
  EXPECT_EQ(o.repetition_penalty, 1.5f);
  EXPECT_EQ(o.presence_penalty, -1.0f);
  EXPECT_EQ(o.frequency_penalty, 2.0f);
  EXPECT_EQ(o.penalty_last_n, -1);
  EXPECT_EQ(o.seed, 123u);
}

TEST(sampling_options, logit_bias_repeats_and_leaves_the_prompt_alone) {
  const auto o = parse({"--logit-bias", "3=-inf", "--logit-bias", "4=2.5", "a prompt"});
  ASSERT_EQ(o.logit_bias.size(), 2u);
  EXPECT_EQ(o.logit_bias[0],
            (std::pair<text::Token, float>{3, -std::numeric_limits<float>::infinity()}));
  EXPECT_EQ(o.logit_bias[1], (std::pair<text::Token, float>{4, 2.5f}));
}

TEST(sampling_options, logit_bias_of_another_form_is_refused) {
  for (const char* bad : {"3", "=1", "3=", "x=1", "3=1x", "3 =1"})
    EXPECT_THROW(parse({"--logit-bias", bad}), CLI::ValidationError) << bad;
}

TEST(sampling_options, seeds_differ_unless_given) {
  EXPECT_NE(parse({}).seed, parse({}).seed);
  EXPECT_EQ(parse({"--seed", "18446744073709551615"}).seed, UINT64_MAX);
}

}  // namespace
}  // namespace weft::cli
