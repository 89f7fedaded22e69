#include "base/memory.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/buffer.h"

namespace weft {
namespace {

TEST(resident_memory, counts_what_has_been_written) {
  constexpr size_t kBytes = size_t{32} << 20;
  const ResidentMemory before = resident_memory();
  EXPECT_GT(before.anonymous_bytes, 0u);
  EXPECT_GT(before.file_bytes, 0u) << "the program itself is a mapped file";
  Buffer buffer(kBytes, "a test");
  std::memset(buffer.data(), 1, kBytes);
  EXPECT_GE(resident_memory().anonymous_bytes, before.anonymous_bytes + kBytes / 2);
}

}  // namespace
}  // namespace weft
