#include "text/file_stamp.h"

#include <sys/stat.h>

#include "base/error.h"

namespace weft::text {

bool FileStamps::read(Stamp& stamp) {
  struct stat now {};
  if (stat(stamp.path.c_str(), &now) != 0) return false;
  stamp.device = now.st_dev;
  stamp.inode = now.st_ino;
  stamp.size = static_cast<uint64_t>(now.st_size);
  stamp.written_ns = int64_t{now.st_mtim.tv_sec} * 1'000'000'000 + now.st_mtim.tv_nsec;
  return true;
}

FileStamps::FileStamps(const std::filesystem::path& path) {
  const auto add = [&](const std::filesystem::path& file) {
    Stamp stamp{.path = file};
    if (read(stamp)) stamps_.push_back(std::move(stamp));
  };
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    add(path);
    return;
  }
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored))
    if (entry.is_regular_file(ignored)) add(entry.path());
}

void FileStamps::check() const {
  for (const Stamp& then : stamps_) {
    Stamp now{.path = then.path};
    const bool same_file = read(now) && now.device == then.device && now.inode == then.inode;
    if (same_file && (now.size != then.size || now.written_ns != then.written_ns))
      fail(ErrorKind::kIo,
           "{}: the file has been written to since it was loaded ({} bytes, then {}). Parts of it are "
           "read when they are wanted, so answers would be of neither model: start again, and replace "
           "models by renaming a new file over the old one.",
           then.path.string(), now.size, then.size);
  }
}

}  // namespace weft::text
