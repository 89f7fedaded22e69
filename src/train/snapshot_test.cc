#include "train/snapshot.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "base/error.h"
#include "base/file.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;

struct Folder {
  fs::path path = fs::path(::testing::TempDir()) / ("weft_snapshot_" + std::to_string(getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

std::vector<float> values(size_t count, float first) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = first + static_cast<float>(i);
  return out;
}

void write(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST(snapshot, round_trip) {
  const Folder folder;
  const fs::path path = folder.path / "a.weft";
  const auto a = values(1000, 0), b = values((1 << 20) + 7, 5);
  write_snapshot(path, {{"step", 7}}, {{"a", a}, {"none", {}}, {"b", b}});
  const Snapshot read = read_snapshot(path);
  EXPECT_EQ(read.state.at("step"), 7);
  EXPECT_EQ(read.arrays.at("a"), a);
  EXPECT_EQ(read.arrays.at("b"), b);
  EXPECT_TRUE(read.arrays.at("none").empty());
}

TEST(snapshot, every_truncation_and_every_flipped_byte_is_refused) {
  const Folder folder;
  const fs::path path = folder.path / "a.weft", damaged = folder.path / "b.weft";
  write_snapshot(path, {{"step", 7}}, {{"a", values(20, 0)}});
  const std::string good = read_file(path);
  for (size_t size = 0; size < good.size(); ++size) {
    write(damaged, std::string_view(good).substr(0, size));
    EXPECT_THROW(read_snapshot(damaged), Error) << size << " bytes";
  }
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    write(damaged, bytes);
    EXPECT_THROW(read_snapshot(damaged), Error) << "byte " << at;
  }
  write(damaged, good + "x");
  EXPECT_THROW(read_snapshot(damaged), Error);
}

TEST(snapshot, the_one_before_a_damaged_one_is_taken) {
  const Folder folder;
  std::vector<std::string> refused;
  EXPECT_FALSE(last_checkpoint(folder.path, refused));
  for (const size_t step : {9, 10, 100})
    write_snapshot(checkpoint_path(folder.path, step), {{"step", step}}, {});
  EXPECT_EQ(last_checkpoint(folder.path, refused)->state.at("step"), 100);
  EXPECT_TRUE(refused.empty());
  fs::resize_file(checkpoint_path(folder.path, 100), 30);
  EXPECT_EQ(last_checkpoint(folder.path, refused)->state.at("step"), 10);
  ASSERT_EQ(refused.size(), 1U);
  EXPECT_NE(refused[0].find("checkpoint-100.weft"), std::string::npos);
  EXPECT_NE(refused[0].find("truncated"), std::string::npos);
}

TEST(snapshot, only_the_last_are_kept) {
  const Folder folder;
  for (const size_t step : {1, 2, 10, 3})
    write_snapshot(checkpoint_path(folder.path, step), {}, {});
  write(folder.path / "checkpoint-x.weft", "somebody else's");
  keep_last_checkpoints(folder.path, 2);
  EXPECT_FALSE(fs::exists(checkpoint_path(folder.path, 1)));
  EXPECT_FALSE(fs::exists(checkpoint_path(folder.path, 2)));
  EXPECT_TRUE(fs::exists(checkpoint_path(folder.path, 3)));
  EXPECT_TRUE(fs::exists(checkpoint_path(folder.path, 10)));
  EXPECT_TRUE(fs::exists(folder.path / "checkpoint-x.weft"));
}

// A limit on file sizes fails a write as a full disk does.
TEST(snapshot, a_full_disk_leaves_what_was_there) {
  const Folder folder;
  const fs::path path = folder.path / "a.weft";
  write_snapshot(path, {{"step", 1}}, {{"a", values(1000, 0)}});
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_snapshot(path, {{"step", 2}}, {{"a", values(1 << 20, 0)}});
    } catch (const Error& error) {
      _exit(error.kind() == ErrorKind::kIo ? 0 : 2);
    }
    _exit(1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_snapshot(path).state.at("step"), 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), {}), 1);
}

}  // namespace
}  // namespace weft::train
