#include "serve/views.h"

#include <gtest/gtest.h>

#include "serve/test_model.h"

namespace weft::serve {
namespace {

// An executor that does nothing, and says what it is told to say.
class Still final : public PhaseExecutor {
 public:
  explicit Still(ExecutorState state) : state_(std::move(state)) {}
  const char* name() const override { return "still"; }
  void submit(std::shared_ptr<Job>) override {}
  void wake() override {}
  ExecutorState state() const override { return state_; }
  const Metrics& metrics() const override { return metrics_; }
  void compute(const std::function<void(const CoreSet&)>&) override {}

 private:
  ExecutorState state_;
  Metrics metrics_;
};

TEST(views, predictions_stand_beside_what_was_observed) {
  ExecutorState state;
  state.partition.emplace();
  ModelSet models;
  models.add(
      std::make_unique<ServedModel>("none yet", load_test_model(), std::make_unique<Still>(state)));
  state.partition->forecast = {.predicted_ttft_s = 0.25,
                               .observed_ttft_s = 0.5,
                               .predicted_tpot_s = 0.125,
                               .observed_tpot_s = std::nullopt};
  models.add(
      std::make_unique<ServedModel>("tiny", load_test_model(), std::make_unique<Still>(state)));
  models.set_ready();
  const std::string text = views::metrics(models);
  for (const char* const line : {"weft_ttft_predicted_seconds{model=\"tiny\"} 0.25\n",
                                 "weft_ttft_observed_seconds{model=\"tiny\"} 0.5\n",
                                 "weft_tpot_predicted_seconds{model=\"tiny\"} 0.125\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line;
  EXPECT_EQ(text.find("weft_tpot_observed_seconds{"), std::string::npos) << "nothing was observed";
  EXPECT_EQ(text.find("predicted_seconds{model=\"none yet\"}"), std::string::npos);
}

TEST(views, the_machine_room_gets_them_in_milliseconds) {
  ModelSet models;
  ExecutorState state;
  state.partition.emplace().forecast.emplace().predicted_ttft_s = 0.25;
  models.add(
      std::make_unique<ServedModel>("tiny", load_test_model(), std::make_unique<Still>(state)));
  models.set_ready();
  const auto forecast = views::state(models)["partition"]["forecast"];
  EXPECT_EQ(forecast["predicted_ttft_ms"], 250);
  EXPECT_EQ(forecast["observed_ttft_ms"], nullptr);
}

}  // namespace
}  // namespace weft::serve
