#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>

#include "base/error.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

// A folder of its own that goes when the test ends.
class file : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "weft_file_test.XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const char* name, std::string_view text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  size_t num_files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }
  fs::path folder_;
};

template <typename Action>
void expect_error(ErrorKind kind, std::string_view part, Action action) {
  try {
    action();
    FAIL() << "no error, expected " << name(kind);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos) << error.what();
  }
}

// Ends as `child` does in a process of its own; it cannot return.
template <typename Child>
int status_of(Child child) {
  const pid_t pid = fork();
  if (pid == 0) {
    child();
    _exit(99);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST_F(file, maps_what_is_there) {
  const std::string text("one\0two", 7);
  const auto mapped = MappedFile::open(write("a", text));
  const auto bytes = mapped->bytes();
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), text);
  EXPECT_EQ(mapped->path(), folder_ / "a");
}

TEST_F(file, maps_an_empty_file) {
  EXPECT_TRUE(MappedFile::open(write("empty", ""))->bytes().empty());
}

TEST_F(file, a_map_outlives_the_file_name) {
  const auto mapped = MappedFile::open(write("a", "still here"));
  fs::remove(folder_ / "a");
  EXPECT_EQ(mapped->bytes()[0], 's');
}

TEST_F(file, released_pages_come_back) {
  const std::string text(1 << 16, 'x');
  const auto mapped = MappedFile::open(write("a", text));
  mapped->release(mapped->bytes().data() + 100, text.size() - 200);
  mapped->release(mapped->bytes().data(), 1);  // less than a page: nothing to let go
  const auto bytes = mapped->bytes();
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), text);
}

TEST_F(file, names_what_cannot_be_opened) {
  const auto open = [](const fs::path& path) { return [path] { MappedFile::open(path); }; };
  expect_error(ErrorKind::kNotFound, "absent", open(folder_ / "absent"));
  expect_error(ErrorKind::kInvalidInput, "is a directory", open(folder_));
  expect_error(ErrorKind::kIo, "Not a directory", open(write("a", "") / "below"));
  expect_error(ErrorKind::kNotFound, "absent", [&] { read_file(folder_ / "absent"); });
}

TEST_F(file, an_unreadable_file_is_an_io_error) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read every file";
  const fs::path path = write("secret", "x");
  fs::permissions(path, fs::perms::none);
  expect_error(ErrorKind::kIo, "Permission denied", [&] { MappedFile::open(path); });
}

TEST_F(file, reads_whole_and_bounded) {
  const std::string text(200000, 'y');
  const fs::path path = write("a", text);
  EXPECT_EQ(read_file(path), text);
  EXPECT_EQ(read_file(path, text.size()), text);
  expect_error(ErrorKind::kInvalidInput, "199999", [&] { read_file(path, text.size() - 1); });
  EXPECT_FALSE(read_file("/proc/self/stat").empty());  // stat says it has 0 bytes
}

TEST_F(file, appears_whole_on_commit) {
  const fs::path path = write("model", "old");
  AtomicFile out(path);
  const std::string big(3 << 20, 'n');
  out.write(big);
  out.write("end");
  EXPECT_EQ(out.position(), big.size() + 3);
  EXPECT_EQ(read_file(path), "old");
  out.commit();
  EXPECT_EQ(read_file(path), big + "end");
  EXPECT_EQ(num_files(), 1u);
}

TEST_F(file, disappears_without_commit) {
  const fs::path path = write("model", "old");
  { AtomicFile(path).write(std::string(3 << 20, 'n')); }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(num_files(), 1u);
}

TEST_F(file, a_killed_writer_leaves_the_old_file) {
  const fs::path path = write("model", "old");
  const int status = status_of([&] {
    AtomicFile out(path);
    out.write(std::string(3 << 20, 'n'));  // beyond the buffer: part of it is on disk
    kill(getpid(), SIGKILL);
  });
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(read_file(path), "old");
}

// The limit on a file's size stands for a disk that fills up: write() fails half-way either way.
TEST_F(file, a_full_disk_changes_nothing) {
  const fs::path path = write("model", "old");
  const int status = status_of([&] {
    const rlimit limit{2 << 20, 2 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    std::signal(SIGXFSZ, SIG_IGN);
    try {
      AtomicFile out(path);
      out.write(std::string(5 << 20, 'n'));
      out.commit();
    } catch (const Error& error) {
      const std::string_view message = error.what();
      const bool good = error.kind() == ErrorKind::kIo &&
                        message.find("after 2097152 bytes") != std::string_view::npos &&
                        message.find("Nothing was changed") != std::string_view::npos;
      _exit(good ? 7 : 8);
    }
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(num_files(), 1u);
}

TEST_F(file, a_folder_that_is_not_there_cannot_be_written) {
  expect_error(ErrorKind::kNotFound, "absent", [&] { AtomicFile(folder_ / "absent" / "model"); });
}

}  // namespace
}  // namespace weft
