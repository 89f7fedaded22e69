#include "comm/communicator.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <mutex>
#include <numeric>
#include <utility>

namespace weft::comm {
namespace {

using Clock = std::chrono::steady_clock;

// A tag is drawn as  context (4) | collective (1) | tag of the user (26)
//                                                 | channel (4), number of the call (20), stage (2)
constexpr uint32_t kContextShift = 27;
constexpr uint32_t kCollective = 1u << 26;
constexpr uint32_t kChannelShift = 22;
constexpr uint32_t kCallMask = (1u << 20) - 1;
constexpr uint32_t kCallShift = 2;

// Up to here a second stage costs more than the bytes that it saves: at 1 Gbit/s and 50 us, 6 KiB
// take as long as a message's latency.
constexpr size_t kShortBytes = 16 << 10;

template <typename T>
std::span<T> part(std::span<T> all, std::span<const size_t> begins, size_t r) {
  return all.subspan(begins[r], begins[r + 1] - begins[r]);
}

void check_parts(std::span<const size_t> begins, size_t num_ranks, size_t count) {
  WEFT_ASSERT(begins.size() == num_ranks + 1 && begins.front() == 0 && begins.back() == count);
  WEFT_ASSERT(std::is_sorted(begins.begin(), begins.end()));
}

// out = the sum, in the order of the ranks, of n vectors of which `mine` is in place.
void sum_in_rank_order(std::span<float> mine, std::span<const float> others, size_t rank,
                       size_t num_ranks) {
  const size_t count = mine.size();
  constexpr size_t kBlock = 1024;  // stays in the L1 cache
  float sum[kBlock];
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t n = std::min(kBlock, count - begin);
    for (size_t r = 0; r < num_ranks; ++r) {
      const float* const from = r == rank
                                    ? mine.data() + begin
                                    : others.data() + (r - (r > rank ? 1 : 0)) * count + begin;
      if (r == 0)
        std::copy(from, from + n, sum);
      else
        for (size_t i = 0; i < n; ++i) sum[i] += from[i];
    }
    std::copy(sum, sum + n, mine.data() + begin);
  }
}

}  // namespace

std::vector<size_t> even_parts(size_t count, size_t num_ranks) {
  std::vector<size_t> begins(num_ranks + 1);
  const size_t lines = (count + 15) / 16;
  for (size_t r = 0; r <= num_ranks; ++r) begins[r] = std::min(count, lines * r / num_ranks * 16);
  return begins;
}

// ---- Request

struct Request::State final : Ongoing {
  std::shared_ptr<Transport> transport;
  std::chrono::milliseconds timeout{};
  const char* what = "";

  std::mutex mutex;                              // guards the rest once the request was given out
  std::shared_ptr<State> after;                  // whose end its one flight waits for
  std::vector<std::shared_ptr<Flight>> flights;  // of this stage
  std::vector<float> scratch;
  std::function<void(State&)> then;  // when they have landed: starts the next stage, or ends
  std::exception_ptr failure;

  // Whether all stages are done. Throws what went wrong, again and again.
  bool advance() {
    const std::scoped_lock lock(mutex);
    return advance_locked();
  }

  bool move_on() noexcept override {
    const std::unique_lock lock(mutex, std::try_to_lock);
    if (!lock) return false;  // somebody is at it
    try {
      return advance_locked();
    } catch (...) {  // its owner will see
      return true;
    }
  }

  void fail_with(const Error& error) {
    const std::scoped_lock lock(mutex);
    failure = std::make_exception_ptr(error);
    std::rethrow_exception(failure);
  }

  // Of the flights that are still out, the one that advance() stopped at, or that it waits for.
  std::shared_ptr<Flight> missing() {
    const std::scoped_lock lock(mutex);
    if (flights.empty() || flights.back()->landed()) return nullptr;
    if (after)
      if (auto earlier = after->missing()) return earlier;
    return flights.back();
  }

  void abandon(const std::shared_ptr<const void>& buffers) {
    const std::scoped_lock lock(mutex);
    for (const auto& flight : flights) {
      flight->keep(buffers);
      transport->give_up(*flight);
    }
    after.reset();
    then = nullptr;
  }

  // After a failure, before the buffers go away.
  void forget() {
    const std::scoped_lock lock(mutex);
    for (const auto& flight : flights)
      if (!flight->landed()) transport->forget(*flight);
  }

  // Of a message between two ranks; none when it is done.
  std::shared_ptr<Flight> only_flight() {
    const std::scoped_lock lock(mutex);
    WEFT_ASSERT(!then && flights.size() <= 1);
    return flights.empty() ? nullptr : flights.front();
  }

  void throw_if_lost() {
    const auto flight = missing();
    if (!flight) return;
    if (auto complaint = transport->complaint_about(flight->peer())) fail_with(complaint->in(what));
  }

  void wait(Patience patience) {
    const auto begin = Clock::now();
    while (!advance()) {
      throw_if_lost();
      const auto waited = Clock::now() - begin;
      if (waited > timeout && patience == Patience::kTimeout)
        if (const auto flight = missing())
          fail_with(Error(
              ErrorKind::kTimeout,
              fmt::format("{}: waited {:.1f} s for rank {} on {}, which lives but does not {}. Do "
                          "all ranks run the same command?",
                          what, std::chrono::duration<double>(waited).count(), flight->peer(),
                          transport->host(flight->peer()),
                          flight->incoming() ? "send" : "receive")));
      transport->pause(waited);
    }
  }

 private:
  bool advance_locked() {
    if (failure) std::rethrow_exception(failure);
    try {
      while (true) {
        while (!flights.empty()) {
          if (!flights.back()->landed()) return false;
          flights.back()->throw_if_failed();
          flights.pop_back();
        }
        after.reset();
        if (!then) return true;
        const auto next = std::exchange(then, nullptr);
        next(*this);
      }
    } catch (const Error& error) {
      failure = std::make_exception_ptr(error.in(what));
    } catch (...) {
      failure = std::current_exception();
    }
    std::rethrow_exception(failure);
  }
};

Request& Request::operator=(Request&& other) noexcept {
  if (this != &other) {
    finish_quietly();
    state_ = std::move(other.state_);
  }
  return *this;
}

Request::~Request() { finish_quietly(); }

void Request::finish_quietly() noexcept {
  if (!state_) return;
  try {
    state_->wait(Patience::kTimeout);  // the buffers may go away after this
  } catch (...) {                      // whoever waits for the next message will hear of it
    state_->forget();
  }
}

bool Request::test() {
  if (!state_) return true;
  if (!state_->advance()) {
    state_->transport->poll();
    if (!state_->advance()) {
      state_->throw_if_lost();
      return false;
    }
  }
  state_.reset();
  return true;
}

void Request::wait(Patience patience) {
  if (!state_) return;
  state_->wait(patience);
  state_.reset();
}

void Request::abandon(const std::shared_ptr<const void>& buffers) {
  if (state_) state_->abandon(buffers);
  state_.reset();
}

// ---- Communicator

Communicator::Communicator(std::shared_ptr<Transport> transport, CommunicatorOptions options)
    : transport_(std::move(transport)),
      options_(options),
      ranks_(transport_->size()),
      rank_(transport_->rank()),
      started_(std::make_shared<Counters>()) {
  std::iota(ranks_.begin(), ranks_.end(), size_t{0});
}

Communicator Communicator::group(std::span<const size_t> ranks, uint32_t context) const {
  WEFT_ASSERT(context > 0 && context < kMaxContext && context_ == 0);
  Communicator out = *this;
  out.context_ = context;
  out.started_ = std::make_shared<Counters>();
  out.ranks_.clear();
  bool found = false;
  for (const size_t r : ranks) {
    WEFT_ASSERT(r < size());
    if (r == rank_) {
      out.rank_ = out.ranks_.size();
      found = true;
    }
    out.ranks_.push_back(ranks_[r]);
  }
  WEFT_ASSERT(found);
  return out;
}

std::optional<Communicator::SilentRank> Communicator::most_silent(
    std::chrono::nanoseconds least) const {
  std::optional<SilentRank> out;
  for (size_t r = 0; r < size(); ++r) {
    if (r == rank_) continue;
    const auto silence = transport_->silence_of(ranks_[r]);
    if (silence >= (out ? out->silence : least)) out = SilentRank{r, silence};
  }
  return out;
}

uint32_t Communicator::start_collective(uint32_t channel) const {
  WEFT_ASSERT(channel < kMaxChannel);
  const uint32_t call = (*started_)[channel].fetch_add(1, std::memory_order_relaxed) & kCallMask;
  return context_ << kContextShift | kCollective | channel << kChannelShift | call << kCallShift;
}

std::shared_ptr<Request::State> Communicator::start(const char* what) const {
  auto state = std::make_shared<Request::State>();
  state->transport = transport_;
  state->timeout = options_.timeout;
  state->what = what;
  return state;
}

void Communicator::post_send(Request::State& state, std::span<const std::byte> bytes, size_t to,
                             uint32_t tag) const {
  if (!bytes.empty()) state.flights.push_back(transport_->send(bytes, ranks_[to], tag));
}

void Communicator::post_receive(Request::State& state, std::span<std::byte> bytes, size_t from,
                                uint32_t tag) const {
  if (!bytes.empty()) state.flights.push_back(transport_->receive(bytes, ranks_[from], tag));
}

Request Communicator::isend(std::span<const std::byte> bytes, size_t to, uint32_t tag) const {
  WEFT_ASSERT(to < size() && to != rank_ && tag < kMaxTag);
  auto state = start("send");
  post_send(*state, bytes, to, context_ << kContextShift | tag);
  return Request(std::move(state));
}

Request Communicator::ireceive(std::span<std::byte> bytes, size_t from, uint32_t tag) const {
  WEFT_ASSERT(from < size() && from != rank_ && tag < kMaxTag);
  auto state = start("receive");
  post_receive(*state, bytes, from, context_ << kContextShift | tag);
  return Request(std::move(state));
}

Request Communicator::isend_after(const Request& before, std::span<const std::byte> bytes,
                                  size_t to, uint32_t tag) const {
  const auto flight = before.state_ ? before.state_->only_flight() : nullptr;
  if (!flight || bytes.empty()) return isend(bytes, to, tag);
  WEFT_ASSERT(to < size() && to != rank_ && tag < kMaxTag);
  auto state = start("send");
  state->after = before.state_;
  state->flights.push_back(
      transport_->send_after(flight, bytes, ranks_[to], context_ << kContextShift | tag));
  return Request(std::move(state));
}

void Communicator::send(std::span<const std::byte> bytes, size_t to, uint32_t tag) const {
  isend(bytes, to, tag).wait();
}

void Communicator::receive(std::span<std::byte> bytes, size_t from, uint32_t tag) const {
  ireceive(bytes, from, tag).wait();
}

void Communicator::barrier(uint32_t channel) const {
  const uint32_t tag = start_collective(channel);
  std::vector<std::byte> come(size());
  std::byte go{};
  auto arrive = start("barrier");
  if (rank_ == 0) {
    for (size_t r = 1; r < size(); ++r) post_receive(*arrive, {&come[r], 1}, r, tag);
  } else {
    post_send(*arrive, {&go, 1}, 0, tag);
  }
  Request(std::move(arrive)).wait();
  auto leave = start("barrier");
  if (rank_ == 0) {
    for (size_t r = 1; r < size(); ++r) post_send(*leave, {&go, 1}, r, tag + 1);
  } else {
    post_receive(*leave, {&come[0], 1}, 0, tag + 1);
  }
  Request(std::move(leave)).wait();
}

Request Communicator::ibroadcast(std::span<std::byte> bytes, size_t root, uint32_t channel) const {
  WEFT_ASSERT(root < size());
  const uint32_t tag = start_collective(channel);
  auto state = start("broadcast");
  if (rank_ != root) post_receive(*state, bytes, root, tag);
  for (size_t r = 0; r < size() && rank_ == root; ++r)
    if (r != root) post_send(*state, bytes, r, tag);
  return Request(std::move(state));
}

void Communicator::broadcast(std::span<std::byte> bytes, size_t root, uint32_t channel) const {
  ibroadcast(bytes, root, channel).wait();
}

void Communicator::post_all_gather(Request::State& state, std::span<std::byte> all,
                                   std::span<const size_t> begins, uint32_t tag) const {
  for (size_t i = 1; i < size(); ++i) {
    const size_t from = (rank_ + size() - i) % size();
    post_receive(state, part(all, begins, from), from, tag);
  }
  for (size_t i = 1; i < size(); ++i)
    post_send(state, part(all, begins, rank_), (rank_ + i) % size(), tag);
}

Request Communicator::iall_gather(std::span<std::byte> all, std::span<const size_t> begins,
                                  uint32_t channel) const {
  check_parts(begins, size(), all.size());
  const uint32_t tag = start_collective(channel);
  auto state = start("all-gather");
  post_all_gather(*state, all, begins, tag);
  return Request(std::move(state));
}

void Communicator::all_gather(std::span<std::byte> all, std::span<const size_t> begins,
                              uint32_t channel) const {
  iall_gather(all, begins, channel).wait();
}

// The others' versions of my part come into scratch, by rank, and are added when all are here.
void Communicator::post_reduce_scatter(Request::State& state, std::span<float> values,
                                       std::span<const size_t> begins, uint32_t tag,
                                       Next then) const {
  const std::span<float> mine = part(values, begins, rank_);
  state.scratch.resize((size() - 1) * mine.size());
  for (size_t i = 1; i < size(); ++i) {
    const size_t from = (rank_ + size() - i) % size();
    const size_t place = from - (from > rank_ ? 1 : 0);
    post_receive(
        state,
        writable_bytes_of(std::span(state.scratch).subspan(place * mine.size(), mine.size())), from,
        tag);
  }
  for (size_t i = 1; i < size(); ++i) {
    const size_t to = (rank_ + i) % size();
    post_send(state, bytes_of(std::span<const float>(part(values, begins, to))), to, tag);
  }
  state.then = [mine, rank = rank_, n = size(), then = std::move(then)](Request::State& s) {
    sum_in_rank_order(mine, s.scratch, rank, n);
    if (then) then(s);
  };
}

Request Communicator::ireduce_scatter(std::span<float> values, std::span<const size_t> begins,
                                      uint32_t channel) const {
  check_parts(begins, size(), values.size());
  const uint32_t tag = start_collective(channel);
  auto state = start("reduce-scatter");
  post_reduce_scatter(*state, values, begins, tag, nullptr);
  return Request(std::move(state));
}

void Communicator::reduce_scatter(std::span<float> values, std::span<const size_t> begins,
                                  uint32_t channel) const {
  ireduce_scatter(values, begins, channel).wait();
}

Request Communicator::iall_reduce(std::span<float> values, uint32_t channel) const {
  const uint32_t tag = start_collective(channel);
  auto state = start("all-reduce");
  if (size() == 1 || values.empty()) return Request(std::move(state));
  if (values.size_bytes() <= kShortBytes || size() > values.size() / 16) {
    state->scratch.resize((size() - 1) * values.size());
    for (size_t i = 1; i < size(); ++i) {
      const size_t from = (rank_ + size() - i) % size();
      const size_t place = from - (from > rank_ ? 1 : 0);
      post_receive(*state,
                   writable_bytes_of(
                       std::span(state->scratch).subspan(place * values.size(), values.size())),
                   from, tag);
    }
    for (size_t i = 1; i < size(); ++i)
      post_send(*state, bytes_of(std::span<const float>(values)), (rank_ + i) % size(), tag);
    state->then = [values, rank = rank_, n = size()](Request::State& s) {
      sum_in_rank_order(values, s.scratch, rank, n);
    };
    return Request(std::move(state));
  }
  const std::vector<size_t> begins = even_parts(values.size(), size());
  post_reduce_scatter(*state, values, begins, tag,
                      [self = *this, values, begins, tag](Request::State& s) {
                        std::vector<size_t> in_bytes = begins;
                        for (size_t& b : in_bytes) b *= sizeof(float);
                        self.post_all_gather(s, writable_bytes_of(values), in_bytes, tag + 1);
                      });
  transport_->add_ongoing(state);
  return Request(std::move(state));
}

void Communicator::all_reduce(std::span<float> values, uint32_t channel) const {
  iall_reduce(values, channel).wait();
}

Request Communicator::iall_to_all(std::span<const std::byte> out,
                                  std::span<const size_t> out_begins, std::span<std::byte> in,
                                  std::span<const size_t> in_begins, uint32_t channel) const {
  check_parts(out_begins, size(), out.size());
  check_parts(in_begins, size(), in.size());
  const uint32_t tag = start_collective(channel);
  auto state = start("all-to-all");
  for (size_t i = 1; i < size(); ++i) {
    const size_t from = (rank_ + size() - i) % size();
    post_receive(*state, part(in, in_begins, from), from, tag);
  }
  for (size_t i = 1; i < size(); ++i) {
    const size_t to = (rank_ + i) % size();
    post_send(*state, part(out, out_begins, to), to, tag);
  }
  const auto mine_out = part(out, out_begins, rank_);
  const auto mine_in = part(in, in_begins, rank_);
  WEFT_ASSERT(mine_out.size() == mine_in.size());
  if (!mine_out.empty()) std::memcpy(mine_in.data(), mine_out.data(), mine_out.size());
  return Request(std::move(state));
}

void Communicator::all_to_all(std::span<const std::byte> out, std::span<const size_t> out_begins,
                              std::span<std::byte> in, std::span<const size_t> in_begins,
                              uint32_t channel) const {
  iall_to_all(out, out_begins, in, in_begins, channel).wait();
}

}  // namespace weft::comm
