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

struct Letter {
  std::vector<std::byte> bytes;
};
struct Wish {
  std::span<std::byte> bytes;
  std::shared_ptr<Flight> flight;
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
      for (const Wish& wish : slot.wishes) wish.flight->fail(*lost[rank]);
      slot.wishes.clear();
    }
    tell();
  }
};

void fill(std::span<std::byte> to, std::span<const std::byte> from) {
  WEFT_ASSERT(to.size() == from.size());  // both sides know the length
  std::memcpy(to.data(), from.data(), from.size());
}

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(std::shared_ptr<World> world, size_t rank, size_t size)
      : Transport(size), world_(std::move(world)), rank_(rank) {}

  size_t rank() const override { return rank_; }
  std::string host(size_t) const override { return "this process"; }

  std::shared_ptr<Flight> receive(std::span<std::byte> bytes, size_t from, uint32_t tag) override {
    auto flight = std::make_shared<Flight>(true, from);
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

 protected:
  std::shared_ptr<Flight> post_send(std::span<const std::byte> bytes, size_t to,
                                    uint32_t tag) override {
    auto flight = std::make_shared<Flight>(false, to);
    const std::scoped_lock lock(world_->mutex);
    Slot& slot = world_->slots[{rank_, to, tag}];
    if (!slot.wishes.empty()) {
      fill(slot.wishes.front().bytes, bytes);
      slot.wishes.front().flight->land();
      slot.wishes.pop_front();
      world_->tell();
    } else {
      slot.letters.push_back({{bytes.begin(), bytes.end()}});
    }
    world_->tidy({rank_, to, tag});
    flight->land();
    return flight;
  }

 private:
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
