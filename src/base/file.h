// Files: read-only memory maps, whole-file reads, and writes that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weft {

// A file mapped read-only. Shared by whoever looks into it; unmapped with the last owner.
// Thread-safe (immutable). Errors: kNotFound, kIo, kInvalidInput for a directory.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Tells the system that [data, data + size) has been used up (copied into packed panels): its
  // pages leave this process, and come back from the file if touched again.
  void release(const void* data, size_t size) const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// How a part of a mapped file will be read: kRandom spares the read-ahead (128 KiB for each row of an
// embedding that is looked up), kNormal brings it back. Advice: nothing is said where it is not taken.
enum class FileAccess : uint8_t { kNormal, kRandom };
void advise(const void* data, size_t size, FileAccess access);

// The whole file as text. `limit_bytes` bounds what a hostile path can make us allocate.
std::string read_file(const std::filesystem::path& path, size_t limit_bytes = size_t{1} << 30);

// Writes beside `path` under a temporary name and renames on commit(), so that a reader sees the old
// file or the whole new one; a killed process leaves `path` as it was. Without commit() the
// temporary file is removed. Errors: kIo (a full disk says how many bytes were written).
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  size_t position() const { return written_; }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  size_t written_ = 0;
  std::string pending_;
  void flush();
};

}  // namespace weft
