#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace weft {
namespace {

// An open descriptor that closes itself.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void fail_errno(const std::filesystem::path& path, const char* action) {
  const int code = errno;
  const ErrorKind kind = code == ENOENT ? ErrorKind::kNotFound : ErrorKind::kIo;
  fail(kind, "{}: cannot {}: {}", path.string(), action, std::strerror(code));
}

struct OpenFile {
  Descriptor descriptor;
  size_t size;
};

OpenFile open_for_reading(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_errno(path, "open");
  OpenFile file{{fd}, 0};
  struct stat status{};
  if (fstat(fd, &status) != 0) fail_errno(path, "stat");
  if (S_ISDIR(status.st_mode))
    fail(ErrorKind::kInvalidInput, "{}: is a directory, expected a file", path.string());
  file.size = static_cast<size_t>(status.st_size);
  return file;
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const OpenFile file = open_for_reading(path);
  std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  mapped->size_ = file.size;
  if (file.size == 0) return mapped;
  void* p = mmap(nullptr, file.size, PROT_READ, MAP_SHARED, file.descriptor.fd, 0);
  if (p == MAP_FAILED) fail_errno(path, "map");
  mapped->data_ = static_cast<const uint8_t*>(p);
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

void MappedFile::release(const void* data, size_t size) const {
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto* bytes = static_cast<const uint8_t*>(data);
  const size_t past = reinterpret_cast<uintptr_t>(bytes) % page;  // only whole pages may go
  const size_t skip = past == 0 ? 0 : page - past;
  if (size < skip + page) return;
  madvise(const_cast<uint8_t*>(bytes) + skip, (size - skip) / page * page, MADV_DONTNEED);
}

void advise(const void* data, size_t size, FileAccess access) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + size;
  madvise(reinterpret_cast<void*>(begin), end - begin,
          access == FileAccess::kRandom ? MADV_RANDOM : MADV_NORMAL);
}

std::string read_file(const std::filesystem::path& path, size_t limit_bytes) {
  const OpenFile file = open_for_reading(path);
  std::string text;
  char chunk[1 << 16];
  while (true) {  // not sized by stat: pipes and /proc files have no size
    const ssize_t n = ::read(file.descriptor.fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path, "read");
    if (n == 0) return text;
    if (text.size() + static_cast<size_t>(n) > limit_bytes)
      fail(ErrorKind::kInvalidInput, "{}: larger than the {} bytes allowed here", path.string(),
           limit_bytes);
    text.append(chunk, static_cast<size_t>(n));
  }
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  temporary_ = path_;
  temporary_ += fmt::format(".{}.tmp", ::getpid());
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno(temporary_, "create");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t size) {
  pending_.append(static_cast<const char*>(data), size);
  written_ += size;
  if (pending_.size() >= (size_t{1} << 20)) flush();
}

void AtomicFile::flush() {
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t n = ::write(fd_, pending_.data() + done, pending_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      fail(ErrorKind::kIo, "{}: cannot write after {} bytes: {}. Nothing was changed.",
           path_.string(), written_ - pending_.size() + done, std::strerror(errno));
    }
    done += static_cast<size_t>(n);
  }
  pending_.clear();
}

void AtomicFile::commit() {
  flush();
  // fsync before rename: else a crash may leave the new name with no content.
  if (fsync(fd_) != 0 || ::close(std::exchange(fd_, -1)) != 0) fail_errno(temporary_, "finish");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary_.c_str());
    errno = code;
    fail_errno(path_, "rename the finished file to");
  }
}

}  // namespace weft
