#include "text/stop_strings.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace weft::text {
namespace {

TEST(stop_strings, without_any_everything_passes_at_once) {
  StopStrings filter({});
  EXPECT_EQ(filter.push("abc"), "abc");
  EXPECT_EQ(filter.finish(), "");
  EXPECT_FALSE(filter.stopped());
}

TEST(stop_strings, text_ends_before_the_first_one) {
  StopStrings filter({"END", "\n\n"});
  EXPECT_EQ(filter.push("one\n\ntwo END"), "one");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.push("more"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(stop_strings, a_beginning_is_held_until_it_is_known) {
  StopStrings filter({"END"});
  EXPECT_EQ(filter.push("an E"), "an ");
  EXPECT_EQ(filter.push("N"), "");
  EXPECT_EQ(filter.push("Tity"), "ENTity");
  EXPECT_EQ(filter.push("EN"), "");
  EXPECT_EQ(filter.finish(), "EN");
}

// Every way to cut a text into pieces gives the same, and what was shown never shows a stop string.
TEST(stop_strings, cuts_do_not_matter) {
  const std::string text = "abababcabab", stop = "ababc";
  const std::string want = "ab";
  for (unsigned cuts = 0; cuts < 1u << (text.size() - 1); ++cuts) {
    StopStrings filter({stop, "zz"});
    std::string shown, piece;
    for (size_t i = 0; i < text.size(); ++i) {
      piece += text[i];
      if (i + 1 < text.size() && (cuts >> i & 1) == 0) continue;
      shown += filter.push(piece);
      piece.clear();
      ASSERT_TRUE(want.starts_with(shown)) << cuts << ": " << shown;
    }
    ASSERT_TRUE(filter.stopped());
    ASSERT_EQ(shown + filter.finish(), want) << cuts;
  }
}

TEST(stop_strings, empty_ones_are_refused) { EXPECT_THROW(StopStrings({"a", ""}), Error); }

}  // namespace
}  // namespace weft::text
