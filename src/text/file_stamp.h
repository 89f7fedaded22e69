// Whether a model's files are still those that were loaded. They stay mapped, and rows of the vocabulary
// are read when they are wanted: whoever overwrites such a file in place changes answers, or ends the
// process. One that is replaced by another under its name (as `mv` does) is no matter: the map keeps
// the old one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace weft::text {

class FileStamps {
 public:
  FileStamps() = default;
  explicit FileStamps(const std::filesystem::path& path);  // a file, or all of a folder's

  // kIo: a file has another size or time of writing than then; names it.
  void check() const;

 private:
  struct Stamp {
    std::filesystem::path path;
    uint64_t device = 0, inode = 0, size = 0;
    int64_t written_ns = 0;
  };
  static bool read(Stamp& stamp);  // false: no such file

  std::vector<Stamp> stamps_;
};

}  // namespace weft::text
