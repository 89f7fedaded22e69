// What carries messages between the ranks of a job. A Communicator is written on this: bytes from
// one rank to another under a tag, and the means to wait for them. Messages of one sender, receiver
// and tag arrive in the order in which they were sent.
//
// Thread-safe: several threads may send, receive and wait at once.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace weft::comm {

// A message that was posted. Its bytes stay where they are until it has landed.
class Flight {
 public:
  Flight(bool incoming, size_t peer) : incoming_(incoming), peer_(peer) {}
  bool landed() const { return landed_.load(std::memory_order_acquire); }
  bool incoming() const { return incoming_; }
  size_t peer() const { return peer_; }

  // By the transport: it has landed, or never will.
  void land() { landed_.store(true, std::memory_order_release); }
  void fail(Error error) {
    error_ = std::move(error);
    land();
  }
  const std::optional<Error>& error() const { return error_; }  // once it has landed
  void throw_if_failed() const {
    if (error_) throw *error_;
  }
  // By somebody who does not wait for it: what its bytes lie in, kept as long as they may be used.
  void keep(std::shared_ptr<const void> buffers) { buffers_ = std::move(buffers); }

 private:
  const bool incoming_;
  const size_t peer_;
  std::optional<Error> error_;  // written before landed_
  std::shared_ptr<const void> buffers_;
  std::atomic<bool> landed_{false};
};

// A collective of several stages that is under way. Whoever waits, for whatever, moves all of them
// on: ranks may wait for theirs in any order.
class Ongoing {
 public:
  virtual ~Ongoing() = default;
  virtual bool move_on() noexcept = 0;  // whether it has ended, well or badly
};

class Transport {
 public:
  explicit Transport(size_t size) : sent_(size) {}
  virtual ~Transport() = default;
  virtual size_t rank() const = 0;
  size_t size() const { return sent_.size(); }

  // `tag` < 2^31. A message is received with the length it was sent with.
  virtual std::shared_ptr<Flight> send(std::span<const std::byte> bytes, size_t to,
                                       uint32_t tag) = 0;
  virtual std::shared_ptr<Flight> receive(std::span<std::byte> bytes, size_t from,
                                          uint32_t tag) = 0;
  // A send that begins as soon as `before`, of this transport, has landed, by whoever notices. Where
  // `before` is the receive of the same bytes, what has come of them may be passed on before the
  // rest is here. Fails where `before` does.
  virtual std::shared_ptr<Flight> send_after(const std::shared_ptr<Flight>& before,
                                             std::span<const std::byte> bytes, size_t to,
                                             uint32_t tag) = 0;
  // Nobody waits for it any more: of a send, what has not gone out stays here.
  virtual void give_up(Flight& flight) = 0;
  // It has not landed and its bytes go away, for what it belongs to has failed: nobody touches them from
  // here on, whatever becomes of other messages.
  virtual void forget(Flight& flight) = 0;
  // Lets messages move, and returns when one may have landed, or after a moment: the longer
  // `waited` is, the longer the moment.
  virtual void pause(std::chrono::nanoseconds waited) = 0;
  // The same without waiting.
  virtual void poll() { move_ongoing(); }
  void add_ongoing(std::weak_ptr<Ongoing> ongoing);
  // What is known against a rank that is silent or gone (kPeerLost), else nothing.
  virtual std::optional<Error> complaint_about(size_t /*peer*/) { return std::nullopt; }
  // How long ago its last sign of life came; zero where ranks give none (threads of one process).
  virtual std::chrono::nanoseconds silence_of(size_t /*peer*/) { return {}; }
  virtual std::string host(size_t peer) const = 0;  // the machine that a rank runs on

  uint64_t bytes_sent(size_t to) const { return sent_[to].load(std::memory_order_relaxed); }

 protected:
  void count_sent(size_t to, size_t bytes) {
    sent_[to].fetch_add(bytes, std::memory_order_relaxed);
  }
  void move_ongoing();

 private:
  std::vector<std::atomic<uint64_t>> sent_;  // payload bytes, by receiver
  std::mutex ongoing_mutex_;                 // guards ongoing_
  std::vector<std::weak_ptr<Ongoing>> ongoing_;
  std::atomic<size_t> num_ongoing_{0};
};

}  // namespace weft::comm
