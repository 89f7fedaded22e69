// Memory for weights, caches and scratch: anonymous pages, 64-byte aligned, huge pages asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace weft {

class SharedMemory;

// Zero-filled on first touch (the kernel gives zero pages); memory is only resident once touched.
// Throws kOutOfResources, naming `what` and the size, when the system refuses.
class Buffer {
 public:
  Buffer() = default;
  Buffer(size_t bytes, const char* what);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void protect();  // from now on a store into it faults

  size_t bytes() const { return bytes_; }
  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  friend class SharedMemory;
  Buffer(uint8_t* mapped, size_t bytes) : data_(mapped), bytes_(bytes) {}
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

// Room for many blocks that are used one after another, taken from few large Buffers in the order of
// the calls. A block lives until its last owner is gone, and with it the Buffer it came from.
class Arena {
 public:
  // `chunk_bytes`: of a Buffer, or more where a block is larger.
  explicit Arena(const char* what, size_t chunk_bytes = size_t{64} << 20)
      : what_(what), chunk_bytes_(chunk_bytes) {}
  // In memory that other processes map, which outlives the arena. Where it is sealed, the blocks
  // are those of the arena that filled it, if they are taken in the same order with the same sizes.
  Arena(const char* what, SharedMemory& memory, size_t chunk_bytes = size_t{64} << 20);

  std::shared_ptr<uint8_t> take(size_t bytes);  // 64-byte aligned, zeros; kOutOfResources
  // The blocks hold what another process has put there: they can only be read.
  bool is_filled() const { return filled_; }
  // Shared memory: a store into any block faults from now on, in every process.
  void seal();

 private:
  Buffer next_chunk(size_t bytes);

  const char* what_;
  size_t chunk_bytes_;
  SharedMemory* memory_ = nullptr;
  bool filled_ = false;
  size_t offset_ = 0;                          // in memory_, of the next chunk
  std::vector<std::weak_ptr<Buffer>> chunks_;  // of memory_
  std::shared_ptr<Buffer> chunk_;
  size_t used_ = 0;
};

// A growing scratch array: `need(n)` returns room for n values and keeps it for the next call, so a
// steady state allocates nothing. Contents are not kept when it grows.
template <typename T>
class Scratch {
 public:
  T* need(size_t n) {
    if (n * sizeof(T) > buffer_.bytes()) buffer_ = Buffer(n * sizeof(T), "scratch");
    return buffer_.as<T>();
  }
  T* data() { return buffer_.as<T>(); }
  const T* data() const { return buffer_.as<T>(); }

 private:
  Buffer buffer_;
};

}  // namespace weft
