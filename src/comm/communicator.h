// Ranks that talk: messages between two of them and the usual collectives, over MPI
// (mpi_transport.h) or between threads of one process (thread_transport.h).
//
// Every call comes in a form that returns at once (i...) with a Request, and in one that waits.
// Collectives are called by all ranks of the communicator in the same order; those that one thread
// starts while another's are under way belong on a channel of their own. They are direct: each pair
// of ranks uses its own link, n (n - 1) at a time, and every message has a tag of its own, so
// several collectives may be under way at once.
//
// Sums are taken in the order of the ranks, whatever arrives first: all ranks get the same bits,
// and the same as any other cut of the data into calls would give.
//
// A wait ends with kPeerLost when the rank that it waits for is known to be gone or was silent for
// too long, with kTimeout when it is alive but does not come within CommunicatorOptions::timeout.
//
// Cheap to copy. Thread-safe; a Request belongs to one thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/transport.h"

namespace weft::comm {

struct CommunicatorOptions {
  std::chrono::milliseconds timeout{600'000};  // of one wait for a rank that lives
};

// How long to wait for a rank that lives: up to CommunicatorOptions::timeout, or for ever (a
// follower for its next order).
enum class Patience : uint8_t { kTimeout, kEndless };

// Something that was started. Its buffers stay until it is done; one that is dropped before waits.
class Request {
 public:
  Request() = default;  // done
  Request(Request&&) noexcept = default;
  Request& operator=(Request&& other) noexcept;
  ~Request();

  // Whether it is done. Moves it on, and everything else that is under way.
  bool test();
  void wait(Patience patience = Patience::kTimeout);
  // Gives it up, after an error: nobody waits, what was not sent yet stays here. The memory that its
  // bytes lie in is kept until they are not used any more.
  void abandon(const std::shared_ptr<const void>& buffers);

 private:
  friend class Communicator;
  struct State;
  explicit Request(std::shared_ptr<State> state) : state_(std::move(state)) {}
  void finish_quietly() noexcept;
  std::shared_ptr<State> state_;
};

// The part of `count` elements that rank r of n is in charge of in a reduction: elements [begin(r),
// begin(r + 1)), cut at multiples of 16.
std::vector<size_t> even_parts(size_t count, size_t num_ranks);

class Communicator {
 public:
  static constexpr uint32_t kMaxTag = 1u << 26;  // of messages between two ranks
  static constexpr uint32_t kMaxChannel = 16;    // of collectives
  static constexpr uint32_t kMaxContext = 16;    // of groups

  explicit Communicator(std::shared_ptr<Transport> transport, CommunicatorOptions options = {});

  size_t rank() const { return rank_; }
  size_t size() const { return ranks_.size(); }
  std::string host(size_t rank) const { return transport_->host(ranks_[rank]); }

  // Some of the ranks, in a new order, this one among them. Messages of two groups do not meet as
  // long as their contexts (1 ... kMaxContext - 1) differ. No communication: every member calls it
  // with the same ranks and context.
  Communicator group(std::span<const size_t> ranks, uint32_t context) const;

  // ---- between two ranks. Both sides know the length.
  Request isend(std::span<const std::byte> bytes, size_t to, uint32_t tag) const;
  Request ireceive(std::span<std::byte> bytes, size_t from, uint32_t tag) const;
  // A send that begins once `before`, a message between two ranks, is done, whatever the ranks'
  // threads do meanwhile. `before` may be the receive of the same bytes, which are then passed on as
  // they come. It fails where `before` does.
  Request isend_after(const Request& before, std::span<const std::byte> bytes, size_t to,
                      uint32_t tag) const;
  void send(std::span<const std::byte> bytes, size_t to, uint32_t tag) const;
  void receive(std::span<std::byte> bytes, size_t from, uint32_t tag) const;

  // ---- collectives. `begins` has size() + 1 entries: part r is [begins[r], begins[r + 1]).
  void barrier(uint32_t channel = 0) const;
  Request ibroadcast(std::span<std::byte> bytes, size_t root, uint32_t channel = 0) const;
  void broadcast(std::span<std::byte> bytes, size_t root, uint32_t channel = 0) const;
  // Rank r has part r; afterwards everybody has all parts.
  Request iall_gather(std::span<std::byte> all, std::span<const size_t> begins,
                      uint32_t channel = 0) const;
  void all_gather(std::span<std::byte> all, std::span<const size_t> begins,
                  uint32_t channel = 0) const;
  // Part r of rank r's values becomes the sum over all ranks; the others are left as they were.
  Request ireduce_scatter(std::span<float> values, std::span<const size_t> begins,
                          uint32_t channel = 0) const;
  void reduce_scatter(std::span<float> values, std::span<const size_t> begins,
                      uint32_t channel = 0) const;
  // All values become the sums. Short ones go whole to everybody, in one stage instead of two; the
  // sums are the same.
  Request iall_reduce(std::span<float> values, uint32_t channel = 0) const;
  void all_reduce(std::span<float> values, uint32_t channel = 0) const;
  // Part r of `out` goes to rank r; part r of `in` comes from it. One's own is copied. Empty parts
  // send nothing.
  Request iall_to_all(std::span<const std::byte> out, std::span<const size_t> out_begins,
                      std::span<std::byte> in, std::span<const size_t> in_begins,
                      uint32_t channel = 0) const;
  void all_to_all(std::span<const std::byte> out, std::span<const size_t> out_begins,
                  std::span<std::byte> in, std::span<const size_t> in_begins,
                  uint32_t channel = 0) const;

  // Payload bytes that this process has sent to a rank so far, by any communicator.
  uint64_t bytes_sent(size_t to) const { return transport_->bytes_sent(ranks_[to]); }
  void poll() const { transport_->poll(); }
  // Of the other ranks the one whose last sign of life is oldest, if that came `least` ago or earlier.
  struct SilentRank {
    size_t rank;
    std::chrono::nanoseconds silence;
  };
  std::optional<SilentRank> most_silent(std::chrono::nanoseconds least) const;
  const CommunicatorOptions& options() const { return options_; }

 private:
  using Counters = std::array<std::atomic<uint32_t>, kMaxChannel>;
  using Next = std::function<void(Request::State&)>;
  uint32_t start_collective(uint32_t channel) const;
  std::shared_ptr<Request::State> start(const char* what) const;
  void post_send(Request::State& state, std::span<const std::byte> bytes, size_t to,
                 uint32_t tag) const;
  void post_receive(Request::State& state, std::span<std::byte> bytes, size_t from,
                    uint32_t tag) const;
  void post_all_gather(Request::State& state, std::span<std::byte> all,
                       std::span<const size_t> begins, uint32_t tag) const;
  void post_reduce_scatter(Request::State& state, std::span<float> values,
                           std::span<const size_t> begins, uint32_t tag, Next then) const;

  std::shared_ptr<Transport> transport_;
  CommunicatorOptions options_;
  std::vector<size_t> ranks_;  // of the transport
  size_t rank_ = 0;
  uint32_t context_ = 0;
  std::shared_ptr<Counters> started_;  // collectives, by channel
};

// Plain values as bytes.
template <typename T>
std::span<const std::byte> bytes_of(std::span<const T> values) {
  return std::as_bytes(values);
}
template <typename T>
std::span<std::byte> writable_bytes_of(std::span<T> values) {
  return std::as_writable_bytes(values);
}

}  // namespace weft::comm
