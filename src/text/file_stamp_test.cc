#include "text/file_stamp.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"

namespace weft::text {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() : path_(fs::path(::testing::TempDir()) / ("weft_stamp_" + std::to_string(getpid()))) {
    fs::create_directory(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::trunc) << text;
    return path_ / name;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string refusal(const FileStamps& stamps) {
  try {
    stamps.check();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    return error.what();
  }
  return {};
}

TEST(file_stamp, notices_what_is_overwritten_in_place) {
  const Folder folder;
  const fs::path file = folder.write("a.gguf", "weights");
  folder.write("b.json", "{}");
  const FileStamps one(file), all(folder.path());
  EXPECT_EQ(refusal(one), "");
  EXPECT_EQ(refusal(all), "");
  folder.write("b.json", "{ }");
  EXPECT_EQ(refusal(one), "");
  EXPECT_NE(refusal(all).find("b.json"), std::string::npos);
  folder.write("a.gguf", "other weights");
  EXPECT_NE(refusal(one).find("a.gguf"), std::string::npos);
}

TEST(file_stamp, of_the_same_size_is_told_by_its_time) {
  const Folder folder;
  const fs::path file = folder.write("a.gguf", "weights");
  const FileStamps stamps(file);
  fs::last_write_time(file, fs::last_write_time(file) + std::chrono::seconds(2));
  EXPECT_NE(refusal(stamps).find("start again"), std::string::npos);
}

TEST(file_stamp, a_file_renamed_over_the_old_one_or_removed_is_no_matter) {
  const Folder folder;
  const fs::path file = folder.write("a.gguf", "weights");
  const FileStamps stamps(file);
  fs::rename(folder.write("new", "of another model"), file);
  EXPECT_EQ(refusal(stamps), "");
  fs::remove(file);
  EXPECT_EQ(refusal(stamps), "");
  EXPECT_EQ(refusal(FileStamps(folder.path() / "never was")), "");
}

}  // namespace
}  // namespace weft::text
