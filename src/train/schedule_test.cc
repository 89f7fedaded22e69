#include "train/schedule.h"

#include <gtest/gtest.h>

namespace weft::train {
namespace {

TEST(schedule, rises_then_falls) {
  Config config;
  config.warmup = 0.1;
  config.final_lr = 0.2;
  for (const Schedule schedule : {Schedule::kCosine, Schedule::kWsd, Schedule::kConstant}) {
    config.schedule = schedule;
    EXPECT_EQ(rate_at(config, 0), 0);
    EXPECT_DOUBLE_EQ(rate_at(config, 0.05), 0.5);
    EXPECT_DOUBLE_EQ(rate_at(config, 0.1), 1);
    double before = 1;
    for (double done = 0.1; done <= 1; done += 0.01) {
      EXPECT_LE(rate_at(config, done), before + 1e-12);
      before = rate_at(config, done);
    }
    EXPECT_DOUBLE_EQ(rate_at(config, 1), schedule == Schedule::kConstant ? 1 : 0.2);
  }
  config.schedule = Schedule::kCosine;
  EXPECT_DOUBLE_EQ(rate_at(config, 0.55), 0.6);  // half way
  config.schedule = Schedule::kWsd;
  EXPECT_DOUBLE_EQ(rate_at(config, 0.79), 1);
  EXPECT_DOUBLE_EQ(rate_at(config, 0.9), 0.6);
  config.warmup = 0;
  EXPECT_DOUBLE_EQ(rate_at(config, 0), 1);
}

TEST(schedule, whichever_limit_comes_first) {
  Config config;
  config.steps = 100;
  EXPECT_DOUBLE_EQ(part_done(config, 25, 1e9), 0.25);
  config.max_seconds = 10;
  EXPECT_DOUBLE_EQ(part_done(config, 25, 1), 0.25);
  EXPECT_DOUBLE_EQ(part_done(config, 25, 9), 0.9);
  config.steps = 0;
  EXPECT_DOUBLE_EQ(part_done(config, 25, 9), 0.9);
}

}  // namespace
}  // namespace weft::train
