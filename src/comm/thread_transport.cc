#include "comm/thread_transport.h"

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace weft::comm {
namespace {

class ThreadTransport;

struct ThreadFlight;
// A send that waits for another message.
struct Follower {
  std::weak_ptr<ThreadTransport> from;
  std::shared_ptr<ThreadFlight> flight;
  std::span<const std::byte> bytes;
  uint32_t tag;
};
struct ThreadFlight final : Flight {
  using Flight::Flight;
  std::vector<Follower> followers;  // this and the rest: guarded by the world's mutex
  bool given_up = false;

  void fail_all(const Error& error) {
    fail(error);
    for (const Follower& follower : std::exchange(followers, {})) follower.flight->fail_all(error);
  }
};

struct Letter {
  std::vector<std::byte> bytes;
};
struct Wish {
  std::span<std::byte> bytes;
  std::shared_ptr<ThreadFlight> flight;
};
// Of one sender, receiver and tag: letters that nobody asked for yet, or wishes for letters to
// come.
struct Slot {
  std::deque<Letter> letters;
  std::deque<Wish> wishes;
};

struct World {
  explicit World(size_t num_ranks) : lost(num_ranks) {}

  std::mutex mutex;  // guards all of it
  std::condition_variable moved;
  uint64_t moves = 0;
  std::map<std::array<size_t, 3>, Slot> slots;  // (from, to, tag)
  std::vector<std::optional<Error>> lost;

  // Every collective has tags of its own: what is done with goes.
  void tidy(const std::array<size_t, 3>& key) {
    const auto it = slots.find(key);
    if (it->second.letters.empty() && it->second.wishes.empty()) slots.erase(it);
  }

  void tell() {
    ++moves;
    moved.notify_all();
  }

  void lose(size_t rank, const std::string& why) {
    const std::scoped_lock lock(mutex);
    lost[rank] = Error(ErrorKind::kPeerLost, fmt::format("rank {} is gone: {}", rank, why));
    for (auto& [key, slot] : slots) {
      if (key[0] != rank) continue;
      for (const Wish& wish : slot.wishes) wish.flight->fail_all(*lost[rank]);
      slot.wishes.clear();
    }
    tell();
  }
};

void fill(std::span<std::byte> to, std::span<const std::byte> from) {
  WEFT_ASSERT(to.size() == from.size());  // both sides know the length
  std::memcpy(to.data(), from.data(), from.size());
}

class ThreadTransport final : public Transport,
                              public std::enable_shared_from_this<ThreadTransport> {
 public:
  ThreadTransport(std::shared_ptr<World> world, size_t rank, size_t size)
      : Transport(size), world_(std::move(world)), rank_(rank) {}

  size_t rank() const override { return rank_; }
  std::string host(size_t) const override { return "this process"; }

  std::shared_ptr<Flight> send(std::span<const std::byte> bytes, size_t to,
                               uint32_t tag) override {
    auto flight = std::make_shared<ThreadFlight>(false, to);
    const std::scoped_lock lock(world_->mutex);
    deliver(bytes, to, tag, *flight);
    return flight;
  }

  std::shared_ptr<Flight> receive(std::span<std::byte> bytes, size_t from, uint32_t tag) override {
    auto flight = std::make_shared<ThreadFlight>(true, from);
    const std::scoped_lock lock(world_->mutex);
    Slot& slot = world_->slots[{from, rank_, tag}];
    if (!slot.letters.empty()) {
      fill(bytes, slot.letters.front().bytes);
      slot.letters.pop_front();
      flight->land();
    } else if (world_->lost[from]) {
      flight->fail(*world_->lost[from]);
    } else {
      slot.wishes.push_back({bytes, flight});
    }
    world_->tidy({from, rank_, tag});
    return flight;
  }

  std::shared_ptr<Flight> send_after(const std::shared_ptr<Flight>& before,
                                     std::span<const std::byte> bytes, size_t to,
                                     uint32_t tag) override {
    auto flight = std::make_shared<ThreadFlight>(false, to);
    const std::scoped_lock lock(world_->mutex);
    auto& earlier = static_cast<ThreadFlight&>(*before);
    if (!earlier.landed())
      earlier.followers.push_back({weak_from_this(), flight, bytes, tag});
    else if (earlier.error())
      flight->fail(*earlier.error());
    else
      deliver(bytes, to, tag, *flight);
    return flight;
  }

  void give_up(Flight& flight) override {
    const std::scoped_lock lock(world_->mutex);
    static_cast<ThreadFlight&>(flight).given_up = true;
  }

  void forget(Flight& flight) override {
    const std::scoped_lock lock(world_->mutex);
    static_cast<ThreadFlight&>(flight).given_up = true;
    for (auto& [key, slot] : world_->slots)
      std::erase_if(slot.wishes, [&](const Wish& wish) { return wish.flight.get() == &flight; });
  }

  void pause(std::chrono::nanoseconds) override {
    move_ongoing();
    std::unique_lock lock(world_->mutex);
    const uint64_t seen = std::exchange(seen_moves_, world_->moves);
    if (seen != world_->moves) return;
    world_->moved.wait_for(lock, std::chrono::milliseconds(1),
                           [&] { return world_->moves != seen; });
    seen_moves_ = world_->moves;
  }

  std::optional<Error> complaint_about(size_t peer) override {
    const std::scoped_lock lock(world_->mutex);
    return world_->lost[peer];
  }

 private:
  // Under the world's lock, as the next.
  void deliver(std::span<const std::byte> bytes, size_t to, uint32_t tag, ThreadFlight& flight) {
    count_sent(to, bytes.size());
    const std::array<size_t, 3> key = {rank_, to, tag};
    Slot& slot = world_->slots[key];
    std::shared_ptr<ThreadFlight> received;
    if (slot.wishes.empty()) {
      slot.letters.push_back({{bytes.begin(), bytes.end()}});
    } else {
      fill(slot.wishes.front().bytes, bytes);
      received = slot.wishes.front().flight;
      slot.wishes.pop_front();
    }
    world_->tidy(key);
    if (received) land(*received);
    land(flight);
    world_->tell();
  }

  static void land(ThreadFlight& flight) {
    flight.land();
    for (const Follower& follower : std::exchange(flight.followers, {})) {
      const auto from = follower.from.lock();
      if (from && !follower.flight->given_up)
        from->deliver(follower.bytes, follower.flight->peer(), follower.tag, *follower.flight);
    }
  }

  const std::shared_ptr<World> world_;
  const size_t rank_;
  uint64_t seen_moves_ = 0;  // guarded by the world's mutex; a hint, shared by the rank's threads
};

}  // namespace

std::vector<Communicator> make_thread_ranks(size_t num_ranks, CommunicatorOptions options) {
  const auto world = std::make_shared<World>(num_ranks);
  std::vector<Communicator> out;
  for (size_t r = 0; r < num_ranks; ++r)
    out.emplace_back(std::make_shared<ThreadTransport>(world, r, num_ranks), options);
  return out;
}

void run_thread_ranks(size_t num_ranks, const std::function<void(const Communicator&)>& body,
                      CommunicatorOptions options) {
  const auto world = std::make_shared<World>(num_ranks);
  std::mutex mutex;  // guards `first`
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (size_t r = 0; r < num_ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        body(Communicator(std::make_shared<ThreadTransport>(world, r, num_ranks), options));
      } catch (const std::exception& error) {
        {
          const std::scoped_lock lock(mutex);
          if (!first) first = std::current_exception();
        }
        world->lose(r, error.what());
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace weft::comm
