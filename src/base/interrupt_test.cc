#include "base/interrupt.h"

#include <gtest/gtest.h>

#include <csignal>

#include "base/error.h"

namespace weft {
namespace {

TEST(interrupt, a_default_token_never_stops) {
  const StopToken token;
  EXPECT_FALSE(token.stop_requested());
  EXPECT_NO_THROW(token.throw_if_stopped());
}

TEST(interrupt, the_first_signal_asks_and_a_reset_forgets) {
  const StopToken token = install_interrupt_handlers();
  EXPECT_FALSE(token.stop_requested());
  std::raise(SIGINT);
  EXPECT_TRUE(token.stop_requested());
  EXPECT_THROW(token.throw_if_stopped(), Error);
  reset_interrupt();
  EXPECT_FALSE(token.stop_requested());
}

TEST(interrupt_death, the_second_signal_ends_the_process) {
  EXPECT_EXIT(
      {
        install_interrupt_handlers();
        std::raise(SIGTERM);
        std::raise(SIGTERM);
      },
      testing::ExitedWithCode(128 + SIGTERM), "");
}

}  // namespace
}  // namespace weft
