#include "base/progress.h"

#include <gtest/gtest.h>

namespace weft {
namespace {

// Logs and pipes must stay free of bars; under a test runner stderr is a pipe or a file.
TEST(progress, silent_without_a_terminal) {
  testing::internal::CaptureStderr();  // replaces stderr by a file
  {
    Progress progress("loading", 10, "tensors");
    const ProgressFn callback = progress.callback();
    for (size_t i = 0; i <= 10; ++i) callback(i, 10);
    progress.advance(1);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace weft
