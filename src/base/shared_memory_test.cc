#include "base/shared_memory.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "base/error.h"

namespace weft {
namespace {

// Runs `body` in a child and gives its status as waitpid does.
template <typename Body>
int in_child(Body&& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    std::signal(SIGSEGV, SIG_DFL);  // a sanitizer's handler would print and exit
    std::signal(SIGBUS, SIG_DFL);
    body();
    _exit(0);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST(shared_memory, grows_and_shows_the_same_to_all) {
  SharedMemory memory("a test");
  Buffer first = memory.append(10), second = memory.append(size_t{3} << 20);
  EXPECT_EQ(memory.bytes(), first.bytes() + second.bytes());
  std::strcpy(second.as<char>(), "here");
  const SharedMemory same = SharedMemory::inherit(dup(memory.fd()), "a test");
  const Buffer seen = same.map(first.bytes(), second.bytes(), SharedMemory::Access::kRead);
  EXPECT_STREQ(seen.as<char>(), "here");
  std::strcpy(second.as<char>(), "there");
  EXPECT_STREQ(seen.as<char>(), "there");
  EXPECT_THROW(same.map(memory.bytes(), 1, SharedMemory::Access::kRead), Error);
  EXPECT_THROW(SharedMemory::inherit(-1, "a test"), Error);
}

TEST(shared_memory, sealed_it_can_only_be_read) {
  SharedMemory memory("a test");
  Buffer buffer = memory.append(100);
  buffer.data()[5] = 7;
  EXPECT_FALSE(memory.is_sealed());
  memory.seal();
  EXPECT_TRUE(memory.is_sealed());
  EXPECT_THROW(memory.append(1), Error);
  EXPECT_THROW(memory.map(0, 100, SharedMemory::Access::kReadWrite), Error);
  Buffer read = memory.map(0, 100, SharedMemory::Access::kRead);
  EXPECT_EQ(read.data()[5], 7);
  buffer.protect();
  for (uint8_t* const data : {read.data(), buffer.data()}) {
    const int status = in_child([data] { *static_cast<volatile uint8_t*>(data) = 1; });
    EXPECT_TRUE(WIFSIGNALED(status)) << "the store did not fault";
  }
  EXPECT_EQ(read.data()[5], 7);
}

TEST(arena, another_process_finds_the_blocks_in_the_order_of_the_calls) {
  constexpr size_t kSizes[] = {100, 5000, 64, size_t{5} << 20, 1};
  SharedMemory memory("a test");
  std::vector<std::shared_ptr<uint8_t>> blocks;
  {
    Arena arena("a test", memory, size_t{4} << 20);
    EXPECT_FALSE(arena.is_filled());
    for (const size_t size : kSizes) {
      blocks.push_back(arena.take(size));
      std::memset(blocks.back().get(), static_cast<int>(blocks.size()), size);
    }
    arena.seal();
  }
  const auto first = blocks.front().get();
  const int status = in_child([first] { *static_cast<volatile uint8_t*>(first) = 1; });
  EXPECT_TRUE(WIFSIGNALED(status)) << "the store did not fault";

  SharedMemory inherited = SharedMemory::inherit(dup(memory.fd()), "a test");
  Arena filled("a test", inherited, size_t{4} << 20);
  EXPECT_TRUE(filled.is_filled());
  for (size_t i = 0; i < std::size(kSizes); ++i) {
    const auto block = filled.take(kSizes[i]);
    EXPECT_EQ(std::memcmp(block.get(), blocks[i].get(), kSizes[i]), 0) << "block " << i;
  }
  EXPECT_THROW(filled.take(size_t{8} << 20), Error);
}

}  // namespace
}  // namespace weft
