#include "cli/expert_options.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace weft::cli {
namespace {

// A server of a small mixture, one three times as large, and a dense model.
const std::vector<ExpertShare> kModels = {{"small", 1000}, {"large", 3000}, {"dense", 0}};

std::vector<std::optional<text::ExpertBudget>> divided(std::vector<std::string> sizes,
                                                       std::vector<ExpertShare> models = kModels) {
  return divide_expert_memory(sizes, models);
}

std::string refusal(std::vector<std::string> sizes, std::vector<ExpertShare> models = kModels) {
  try {
    divided(std::move(sizes), std::move(models));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidInput);
    return error.what();
  }
  return "(taken)";
}

TEST(expert_options, without_the_flag_all_are_in_memory) {
  for (const auto& budget : divided({})) EXPECT_FALSE(budget);
}

TEST(expert_options, bytes_are_for_all_mixtures_together) {
  const auto budgets = divided({"2K"});
  EXPECT_EQ(budgets[0]->bytes, 512U);
  EXPECT_EQ(budgets[1]->bytes, 1536U);
  EXPECT_FALSE(budgets[2]) << "a dense model is left alone";
}

TEST(expert_options, a_part_is_each_mixtures_part) {
  const auto budgets = divided({"50%"});
  EXPECT_EQ(budgets[0]->fraction, 0.5);
  EXPECT_EQ(budgets[1]->fraction, 0.5);
  EXPECT_FALSE(budgets[2]);
}

TEST(expert_options, a_model_has_its_own_and_the_others_the_rest) {
  const auto budgets = divided({"small=25%", "2K"});
  EXPECT_EQ(budgets[0]->fraction, 0.25);
  EXPECT_EQ(budgets[1]->bytes, 2048U);
  const auto one = divided({"large=1K"});
  EXPECT_FALSE(one[0]) << "nothing is said of it";
  EXPECT_EQ(one[1]->bytes, 1024U);
}

TEST(expert_options, what_cannot_be_is_refused_by_name) {
  EXPECT_NE(refusal({"huge=1G"}).find("no model is called 'huge'. There are: small, large, dense"),
            std::string::npos);
  EXPECT_NE(refusal({"dense=1G"}).find("model 'dense' is none"), std::string::npos);
  EXPECT_NE(refusal({"1G", "2G"}).find("NAME=SIZE"), std::string::npos);
  EXPECT_NE(refusal({"small=1G", "small=2G"}).find("twice for model 'small'"), std::string::npos);
  EXPECT_NE(refusal({"1G"}, {{"dense", 0}}).find("no model is one"), std::string::npos);
  EXPECT_NE(refusal({"small=1G", "1G"}, {{"small", 10}, {"dense", 0}}).find("no other model"),
            std::string::npos);
  EXPECT_NE(refusal({"small=lots"}).find("'lots' is no amount of memory"), std::string::npos);
}

TEST(expert_options, flags_that_belong_to_it_are_refused_without_it) {
  ExpertOptions options;
  options.on_demand = true;
  text::TextModelOptions how;
  EXPECT_THROW(options.apply(how), Error);
  options.memory = {"50%"};
  options.apply(how);
  EXPECT_EQ(how.experts->budget.fraction, 0.5);
  EXPECT_FALSE(how.experts->prefetch);
  options.memory = {"50%", "60%"};
  EXPECT_THROW(options.apply(how), Error);
}

}  // namespace
}  // namespace weft::cli
