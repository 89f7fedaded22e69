#include "base/error.h"

#include <gtest/gtest.h>

#include <set>

#include "base/file.h"

namespace weft {
namespace {

constexpr ErrorKind kAll[] = {ErrorKind::kInvalidInput, ErrorKind::kNotFound,
                              ErrorKind::kUnsupported,  ErrorKind::kOutOfResources,
                              ErrorKind::kIo,           ErrorKind::kTimeout,
                              ErrorKind::kCancelled,    ErrorKind::kPeerLost};

TEST(error, kinds_have_their_own_names_and_exit_codes) {
  std::set<std::string> names;
  std::set<int> codes;
  for (const ErrorKind kind : kAll) {
    names.insert(name(kind));
    codes.insert(exit_code(kind));
    EXPECT_GE(http_status(kind), 400) << name(kind);
    EXPECT_LT(http_status(kind), 600) << name(kind);
  }
  EXPECT_EQ(names.size(), std::size(kAll));
  EXPECT_EQ(codes.size(), std::size(kAll));
  EXPECT_EQ(codes.count(0), 0u);
}

// Scripts and clients rely on these.
TEST(error, published_numbers) {
  EXPECT_STREQ(name(ErrorKind::kInvalidInput), "invalid_input");
  EXPECT_EQ(exit_code(ErrorKind::kInvalidInput), 2);
  EXPECT_EQ(http_status(ErrorKind::kInvalidInput), 400);
  EXPECT_STREQ(name(ErrorKind::kPeerLost), "peer_lost");
  EXPECT_EQ(exit_code(ErrorKind::kCancelled), 130);
  EXPECT_EQ(http_status(ErrorKind::kOutOfResources), 503);
}

// docs/errors.md shows the same table.
TEST(error, the_page_agrees) {
  const std::string page = read_file(WEFT_SOURCE_DIR "/docs/errors.md");
  for (const ErrorKind kind : kAll) {
    const std::string row =
        fmt::format("| `{}` | {} | {} |", name(kind), exit_code(kind), http_status(kind));
    EXPECT_NE(page.find(row), std::string::npos) << row;
  }
}

TEST(error, carries_kind_and_message) {
  try {
    fail(ErrorKind::kUnsupported, "version {} of {}", 4, "GGUF");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_STREQ(error.what(), "version 4 of GGUF");
    const Error placed = error.in("model.gguf");
    EXPECT_EQ(placed.kind(), ErrorKind::kUnsupported);
    EXPECT_STREQ(placed.what(), "model.gguf: version 4 of GGUF");
  }
}

TEST(error_death, a_broken_promise_of_ours_stops_the_process) {
  const int one = 1;
  EXPECT_DEATH(WEFT_ASSERT(one == 2), "internal error: one == 2 is false at .*error_test.cc");
}

}  // namespace
}  // namespace weft
