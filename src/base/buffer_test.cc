#include "base/buffer.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"

namespace weft {
namespace {

TEST(buffer, is_zero_aligned_and_large_enough) {
  for (const size_t bytes :
       {size_t{1}, size_t{4096}, (size_t{2} << 20) - 1, (size_t{2} << 20) + 1}) {
    Buffer buffer(bytes, "a test");
    ASSERT_GE(buffer.bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    EXPECT_EQ(buffer.data()[0], 0);
    EXPECT_EQ(buffer.data()[bytes - 1], 0);
  }
}

TEST(buffer, moves) {
  Buffer a(100, "a test");
  a.data()[7] = 42;
  Buffer b(std::move(a));
  EXPECT_EQ(b.data()[7], 42);
  Buffer c;
  c = std::move(b);
  EXPECT_EQ(c.data()[7], 42);
  EXPECT_EQ(Buffer(0, "nothing").data(), nullptr);
}

TEST(buffer, says_what_there_is_no_memory_for) {
  for (const size_t bytes : {size_t{1} << 60, SIZE_MAX}) {
    try {
      Buffer(bytes, "the KV cache");
      FAIL() << bytes;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kOutOfResources);
      EXPECT_NE(std::string(error.what()).find("the KV cache"), std::string::npos) << error.what();
    }
  }
}

TEST(scratch, keeps_its_room) {
  Scratch<float> scratch;
  float* first = scratch.need(1000);
  first[999] = 1;
  EXPECT_EQ(scratch.need(10), first);
  EXPECT_EQ(scratch.need(1000), first);
  scratch.need(1 << 20)[(1 << 20) - 1] = 2;
}

TEST(arena, blocks_follow_each_other_and_outlive_it) {
  std::shared_ptr<uint8_t> first, second, large;
  {
    Arena arena("a test", size_t{1} << 16);
    first = arena.take(100);
    second = arena.take(1);
    large = arena.take(size_t{3} << 20);
  }
  EXPECT_EQ(second.get() - first.get(), 128) << "64-byte aligned, nothing between";
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.get()) % (size_t{2} << 20), 0u) << "huge pages";
  std::memset(first.get(), 1, 100);
  EXPECT_EQ(*second, 0);
  std::memset(large.get(), 1, size_t{3} << 20);
  first.reset();
  EXPECT_EQ(*second, 0) << "lives as long as one block of its chunk";
}

}  // namespace
}  // namespace weft
