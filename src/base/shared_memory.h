// Memory that several processes map: a file without a name, which is gone with the last of them
// however they end. It grows by appending; a child process inherits its descriptor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/buffer.h"

namespace weft {

class SharedMemory {
 public:
  enum class Access : uint8_t { kRead, kReadWrite };

  explicit SharedMemory(const char* what);  // empty; kOutOfResources
  // Another process's, by the descriptor that this one was started with, which it owns from now on.
  // kIo: it is not one.
  static SharedMemory inherit(int fd, const char* what);
  ~SharedMemory();
  SharedMemory(SharedMemory&& other) noexcept
      : what_(other.what_), fd_(std::exchange(other.fd_, -1)), bytes_(other.bytes_) {}
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  int fd() const { return fd_; }  // closed by exec unless the spawner asks otherwise
  size_t bytes() const { return bytes_; }

  // More of it at the end, zeros, rounded up to whole huge pages and mapped here.
  Buffer append(size_t bytes);  // kOutOfResources
  // A part of it; `offset` is the sum of what was appended before. kIo: it has no such part.
  Buffer map(size_t offset, size_t bytes, Access access) const;

  // No process can map it writable from now on, or change its size. Mappings that exist stay
  // writable until they are protected (Buffer::protect).
  void seal();
  bool is_sealed() const;

 private:
  SharedMemory(const char* what, int fd, size_t bytes) : what_(what), fd_(fd), bytes_(bytes) {}

  const char* what_;
  int fd_;
  size_t bytes_ = 0;
};

}  // namespace weft
