#include "comm/mpi_transport.h"

#include <algorithm>
#include <cstdlib>

#include "base/error.h"

#if WEFT_HAVE_MPI
#include <mpi.h>

#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <utility>
#endif

namespace weft::comm {

std::optional<std::chrono::milliseconds> time_from_sigterm_to_sigkill() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return std::nullopt;
  const char* const seconds = std::getenv("OMPI_MCA_odls_base_sigkill_timeout");
  return std::chrono::seconds(seconds == nullptr ? 1 : std::max(0, std::atoi(seconds)));
}

#if WEFT_HAVE_MPI
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr auto kLastMessages = std::chrono::seconds(1);  // of a rank that has left, on their way
constexpr auto kPause = std::chrono::seconds(3);  // of this process: others' signs lie unread
// Of the thread that looks after messages. A link's buffer holds more than passes in the longer one, up to
// 4 Gbit/s.
constexpr std::chrono::nanoseconds kShortNap = microseconds(80), kLongNap = microseconds(250);
// Between hosts, messages travel in frames that Open MPI sends without asking (its TCP does so up to
// 64 KiB with its header). For a larger one the receiver must say "go ahead", and where both send, that
// waits behind half a megabyte of its own: TASP's transfers at 100 Mbit/s, 4 hosts, took 1.7x their
// bound so. A few frames of a message are under way at a time: they are copied. A message that follows the
// receive of its bytes goes frame by frame behind it.
constexpr size_t kFrame = 60 << 10;
// On one host a message is copied through shared memory, by whoever looks after messages, and Open MPI goes
// on with it as long as the other side keeps up: 100 MB kept a rank in one call for seconds, in which
// it sent no signs of life, where more ranks than cores were at it.
constexpr size_t kHostPart = size_t{1} << 20;
constexpr size_t kPartsUnderWay = 16;
constexpr int kBeatTag = 1;
enum class Beat : unsigned char { kAlive, kLeaving };

std::string words_of(int status) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  return {text, static_cast<size_t>(length)};
}

void check(int status, const char* what) {
  if (status != MPI_SUCCESS) fail(ErrorKind::kIo, "MPI cannot {}: {}", what, words_of(status));
}

// What Open MPI should do otherwise than by default. TCP: both directions of a link at once, and no
// megabytes in a socket's buffer, behind which the next message's go-ahead would wait:
// together 1.4x to 2.7x for exchanges in which every rank sends to several at once
// (docs/clusters.md). Shared memory: without the system call that containers forbid. A user's own
// setting stays.
void set_defaults() {
  setenv("OMPI_MCA_btl_tcp_flags", "1", 0);
  setenv("OMPI_MCA_btl_tcp_sndbuf", "65536", 0);
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
}

}  // namespace

class MpiJob::Transport final : public comm::Transport {
 public:
  Transport(size_t rank, size_t size, MpiOptions options)
      : comm::Transport(size), rank_(rank), options_(options), hosts_(size), peers_(size) {
    check(MPI_Comm_dup(MPI_COMM_WORLD, &data_), "copy its communicator");
    check(MPI_Comm_dup(MPI_COMM_WORLD, &beats_), "copy its communicator");
    MPI_Comm_set_errhandler(data_, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(beats_, MPI_ERRORS_RETURN);
    exchange_hosts();
    for (size_t r = 0; r < size; ++r) {
      if (r == rank_) continue;
      listen(r);
      peers_[r].last_heard = Clock::now();
    }
    thread_ = std::thread([this] { run(); });
  }

  ~Transport() override { stop(); }

  size_t rank() const override { return rank_; }
  std::string host(size_t peer) const override { return hosts_[peer]; }

  std::shared_ptr<Flight> send(std::span<const std::byte> bytes, size_t to,
                               uint32_t tag) override {
    return post(false, const_cast<std::byte*>(bytes.data()), bytes.size(), to, tag, nullptr);
  }

  std::shared_ptr<Flight> receive(std::span<std::byte> bytes, size_t from, uint32_t tag) override {
    return post(true, bytes.data(), bytes.size(), from, tag, nullptr);
  }

  std::shared_ptr<Flight> send_after(const std::shared_ptr<Flight>& before,
                                     std::span<const std::byte> bytes, size_t to,
                                     uint32_t tag) override {
    return post(false, const_cast<std::byte*>(bytes.data()), bytes.size(), to, tag, before.get());
  }

  void give_up(Flight& flight) override {
    const std::scoped_lock lock(mutex_);
    if (flight.landed() || flight.incoming()) return;
    const size_t slot = static_cast<MpiFlight&>(flight).slot;
    Posted& posted = posted_[slot];
    if (posted.source) std::erase(posted_[*posted.source].followers, slot);
    posted.source.reset();
    flight.fail(Error(ErrorKind::kCancelled, "a message was given up"));
    posted.ready = posted.size = posted.begun;
    begin_parts(slot);
  }

  // What MPI has begun cannot be called back. But it looks at bytes only while it is called, and a rank
  // that has lost a message is about to end.
  void forget(Flight& flight) override {
    const std::scoped_lock lock(mutex_);
    if (!flight.landed()) silent_ = true;
  }

  void pause(std::chrono::nanoseconds waited) override {
    look();
    // A latency of a few microseconds where answers come at once; else 5 % of what was waited for.
    if (waited < microseconds(100))
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(
          std::clamp<std::chrono::nanoseconds>(waited / 20, microseconds(10), milliseconds(1)));
  }

  void poll() override { look(); }

  std::optional<Error> complaint_about(size_t peer) override {
    const std::scoped_lock lock(mutex_);
    if (peer == rank_) return std::nullopt;
    if (silent_) return lost_before();
    const Peer& p = peers_[peer];
    // What it sent before may still be on its way.
    if (p.left && Clock::now() - p.last_heard > kLastMessages)
      return Error(ErrorKind::kPeerLost,
                   fmt::format("rank {} on {} has ended", peer, hosts_[peer]));
    const auto now = Clock::now();
    const auto silent = now - p.last_heard;
    if (silent < options_.silence || now - last_round_ > kPause) return std::nullopt;
    return Error(
        ErrorKind::kPeerLost,
        fmt::format("rank {} on {} was not heard of for {:.0f} s: it was stopped or killed, "
                    "or its link is cut",
                    peer, hosts_[peer], std::chrono::duration<double>(silent).count()));
  }

  std::chrono::nanoseconds silence_of(size_t peer) override {
    const std::scoped_lock lock(mutex_);
    hear_all(Clock::now());
    return Clock::now() - peers_[peer].last_heard;
  }

  // Says goodbye: who still waits for this rank need not wait for its silence.
  void leave() {
    const std::scoped_lock lock(mutex_);
    if (silent_) return;
    for (size_t r = 0; r < size(); ++r)
      if (r != rank_) tell(r, Beat::kLeaving);
  }

  void stop() {
    if (!thread_.joinable()) return;
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  void free_communicators() {
    for (Peer& p : peers_) {
      if (p.hearing != MPI_REQUEST_NULL) {
        MPI_Cancel(&p.hearing);
        MPI_Request_free(&p.hearing);
      }
      if (p.telling != MPI_REQUEST_NULL) MPI_Request_free(&p.telling);  // it still goes out
    }
    MPI_Comm_free(&data_);
    MPI_Comm_free(&beats_);
  }

 private:
  struct Peer {
    MPI_Request hearing = MPI_REQUEST_NULL, telling = MPI_REQUEST_NULL;
    Beat heard = Beat::kAlive, told = Beat::kAlive;
    Clock::time_point last_heard;
    bool left = false;
  };
  struct MpiFlight final : Flight {
    using Flight::Flight;
    size_t slot = 0;  // in posted_, until it has landed
  };
  // A message, in parts of which some are under way.
  struct Posted {
    std::shared_ptr<MpiFlight> flight;
    std::byte* data = nullptr;
    size_t size = 0, begun = 0;  // bytes; in parts that were started
    size_t ready = 0;            // bytes that may be: all, but of a send that waits for another message
    uint32_t tag = 0;
    size_t parts = 0;              // under way
    bool is_first = false;         // of its line: its parts may begin
    std::optional<size_t> behind;  // slot of the message that begins when this one's parts have begun

    size_t arrived = 0;             // bytes of a receive, up to the first gap
    uint64_t beyond = 0;            // parts behind that gap that are here too, a bit each
    std::vector<size_t> followers;  // slots of the sends that wait for this one
    std::optional<size_t> source;   // the slot that this one follows
  };
  struct Part {
    size_t slot = 0, offset = 0;  // in posted_; bytes before it
  };
  using Line = std::tuple<bool, size_t, uint32_t>;  // incoming, peer, tag: matched in order

  std::shared_ptr<Flight> post(bool incoming, std::byte* data, size_t size, size_t peer,
                               uint32_t tag, const Flight* before) {
    WEFT_ASSERT(size > 0);
    auto flight = std::make_shared<MpiFlight>(incoming, peer);
    {
      const std::scoped_lock lock(mutex_);
      if (before != nullptr && before->landed() && before->error()) {
        flight->fail(*before->error());
        return flight;
      }
      if (silent_) {
        flight->fail(lost_before());
        return flight;
      }
      const size_t slot = flight->slot = free_slot();
      Posted& posted = posted_[slot];
      posted = {.flight = flight,
                .data = data,
                .size = size,
                .ready = size,
                .tag = tag,
                .behind = {},
                .followers = {},
                .source = {}};
      if (before != nullptr && !before->landed()) {
        posted.source = static_cast<const MpiFlight*>(before)->slot;
        Posted& source = posted_[*posted.source];
        source.followers.push_back(slot);
        posted.ready = passes_on(source, posted) ? source.arrived : 0;
      }
      if (const auto [line, first] = lines_.try_emplace({incoming, peer, tag}, slot); !first) {
        posted_[line->second].behind = slot;
        line->second = slot;
      } else {
        posted.is_first = true;
        begin_parts(slot);
      }
    }
    wake_.notify_one();
    return flight;
  }

  static Error lost_before() {
    return Error(ErrorKind::kPeerLost,
                 "a message of this rank was lost before: it sends and receives no more");
  }

  size_t part_bytes(const Posted& posted) const {
    return hosts_[posted.flight->peer()] != hosts_[rank_] ? kFrame : kHostPart;
  }

  // Whether what has come of `source` may go out by `send` at once.
  static bool passes_on(const Posted& source, const Posted& send) {
    return source.flight->incoming() && source.data == send.data && source.size == send.size;
  }

  // Starts as many parts of a message as may be under way, if it is the first of its line, and when all
  // have begun, the next.
  void begin_parts(size_t first) {
    if (silent_) return;
    for (std::optional<size_t> slot = first; slot;) {
      Posted& posted = posted_[*slot];
      if (!posted.is_first) return;
      const bool incoming = posted.flight->incoming();
      const size_t peer = posted.flight->peer(), part = part_bytes(posted);
      const int to = static_cast<int>(peer), tag = static_cast<int>(posted.tag);
      while (posted.begun < posted.size) {
        const size_t ahead = incoming ? (posted.begun - posted.arrived) / part : posted.parts;
        const size_t count = std::min(posted.size - posted.begun, part);
        if (ahead == kPartsUnderWay || posted.begun + count > posted.ready) return;
        std::byte* const at = posted.data + posted.begun;
        const auto bytes = static_cast<int>(count);
        MPI_Request request = MPI_REQUEST_NULL;
        const int status = incoming
                               ? MPI_Irecv(at, bytes, MPI_BYTE, to, tag, data_, &request)
                               : MPI_Isend(at, bytes, MPI_BYTE, to, tag, data_, &request);
        if (status != MPI_SUCCESS) {
          fail_flight(posted, status);
          break;
        }
        if (!incoming) count_sent(peer, count);
        requests_.push_back(request);
        under_way_.push_back({*slot, posted.begun});
        ++posted.parts;
        posted.begun += count;
      }
      posted.is_first = false;
      const std::optional<size_t> next = std::exchange(posted.behind, std::nullopt);
      if (next)
        posted_[*next].is_first = true;
      else
        lines_.erase({incoming, peer, posted.tag});
      if (posted.parts == 0) end(*slot);
      slot = next;
    }
  }

  // A part of a receive is here: those who pass it on may go on.
  void arrive(size_t slot, size_t offset) {
    Posted& posted = posted_[slot];
    const size_t part = part_bytes(posted);
    posted.beyond |= uint64_t{1} << (offset - posted.arrived) / part;
    for (; posted.beyond & 1; posted.beyond >>= 1)
      posted.arrived = std::min(posted.size, posted.arrived + part);
    if (posted.arrived == posted.size) return;  // end() does the rest
    for (size_t i = 0; i < posted.followers.size(); ++i) {  // one that fails goes from the list
      const size_t follower = posted.followers[i];
      if (!passes_on(posted, posted_[follower])) continue;
      posted_[follower].ready = posted.arrived;
      begin_parts(follower);
    }
  }

  // Lands a message of which nothing is under way, and lets those go that waited for it.
  void end(size_t slot) {
    const auto flight = std::exchange(posted_[slot].flight, nullptr);
    if (!flight->landed()) flight->land();
    free_slots_.push_back(slot);
    if (posted_[slot].source) std::erase(posted_[*posted_[slot].source].followers, slot);
    for (const size_t follower : std::exchange(posted_[slot].followers, {})) {
      Posted& send = posted_[follower];
      send.source.reset();
      send.ready = send.size;
      if (flight->error()) {
        send.flight->fail(*flight->error());
        send.size = send.begun;
      }
      begin_parts(follower);
    }
  }

  size_t free_slot() {
    if (free_slots_.empty()) {
      posted_.emplace_back();
      return posted_.size() - 1;
    }
    const size_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }

  // It begins no more parts.
  void fail_flight(Posted& posted, int status) const {
    Flight& flight = *posted.flight;
    posted.size = posted.begun;
    if (flight.landed()) return;
    flight.fail(Error(
        ErrorKind::kPeerLost,
        fmt::format("a message {} rank {} on {} failed: {}", flight.incoming() ? "from" : "to",
                    flight.peer(), hosts_[flight.peer()], words_of(status))));
  }

  // Lands what has come. Under the lock.
  void test_all() {
    last_poll_ = Clock::now();
    if (requests_.empty() || silent_) return;
    done_.resize(requests_.size());
    statuses_.resize(requests_.size());
    int count = 0;
    const int status = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                    done_.data(), statuses_.data());
    if (count == MPI_UNDEFINED || count == 0) return;
    for (int i = 0; i < count; ++i) {
      const auto [slot, offset] = under_way_[static_cast<size_t>(done_[static_cast<size_t>(i)])];
      Posted& posted = posted_[slot];
      const int error =
          status == MPI_ERR_IN_STATUS ? statuses_[static_cast<size_t>(i)].MPI_ERROR : MPI_SUCCESS;
      --posted.parts;
      if (error != MPI_SUCCESS) {
        fail_flight(posted, error);
      } else if (posted.flight->incoming()) {
        // A sign of life itself, which others wait behind.
        peers_[posted.flight->peer()].last_heard = last_poll_;
        arrive(slot, offset);
      }
      if (posted.is_first)  // it has more parts, or failed before it had begun them
        going_on_.push_back(slot);
      else if (posted.parts == 0)
        ended_.push_back(slot);
    }
    size_t kept = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      requests_[kept] = requests_[i];
      under_way_[kept++] = under_way_[i];
    }
    requests_.resize(kept);
    under_way_.resize(kept);
    for (const size_t slot : going_on_) begin_parts(slot);  // it may be there twice
    going_on_.clear();
    for (const size_t slot : ended_) end(slot);
    ended_.clear();
    last_landing_ = last_poll_;
  }

  // ---- signs of life

  void listen(size_t peer) {
    MPI_Irecv(&peers_[peer].heard, 1, MPI_BYTE, static_cast<int>(peer), kBeatTag, beats_,
              &peers_[peer].hearing);
  }

  // A receiver that is stopped leaves the last sign unread: no more are sent before it takes that.
  void tell(size_t peer, Beat beat) {
    Peer& p = peers_[peer];
    int sent = 1;
    if (p.telling != MPI_REQUEST_NULL) MPI_Test(&p.telling, &sent, MPI_STATUS_IGNORE);
    if (!sent) return;
    p.told = beat;
    MPI_Isend(&p.told, 1, MPI_BYTE, static_cast<int>(peer), kBeatTag, beats_, &p.telling);
  }

  void hear_all(Clock::time_point now) {
    if (silent_) return;
    for (size_t r = 0; r < size(); ++r) {
      Peer& p = peers_[r];
      while (p.hearing != MPI_REQUEST_NULL) {
        int heard = 0;
        MPI_Test(&p.hearing, &heard, MPI_STATUS_IGNORE);
        if (!heard) break;
        p.last_heard = now;
        if (p.heard == Beat::kLeaving) {
          p.left = true;
          break;
        }
        listen(r);
      }
    }
  }

  // Under the lock, by whoever has it: a caller that polls without a pause leaves the thread none.
  void keep_alive(Clock::time_point now) {
    // This process itself was stopped for a while: the others' signs have still to be read.
    if (now - last_round_ > kPause)
      for (Peer& p : peers_) p.last_heard = now;
    last_round_ = now;
    if (now - last_beat_ < kBeat) return;
    last_beat_ = now;
    if (silent_) return;
    hear_all(now);
    for (size_t r = 0; r < size(); ++r)
      if (r != rank_ && !peers_[r].left) tell(r, Beat::kAlive);
  }

  void look() {
    {
      const std::unique_lock lock(mutex_, std::try_to_lock);
      if (lock) {
        test_all();
        keep_alive(last_poll_);
      }
    }
    move_ongoing();
  }

  void run() {
    std::unique_lock lock(mutex_);
    std::chrono::nanoseconds nap = kShortNap;
    last_round_ = Clock::now();
    while (!stopping_) {
      const auto now = Clock::now();
      keep_alive(now);
      if (requests_.empty()) {
        wake_.wait_until(lock, last_beat_ + kBeat,
                         [this] { return stopping_ || !requests_.empty(); });
        last_landing_ = Clock::now();
        continue;
      }
      // Every look takes the core from somebody who computes. Where the last one found nothing, or others
      // have looked meanwhile, the next comes later.
      const bool others_look = now - last_poll_ < nap;
      if (!others_look) test_all();
      nap = !others_look && last_landing_ == last_poll_ ? kShortNap
                                                        : std::min(nap * 3 / 2, kLongNap);
      // Long quiet (a worker that waits for its next request) need not be answered at once either.
      const auto quiet = std::clamp<std::chrono::nanoseconds>((Clock::now() - last_landing_) / 50,
                                                              nap, milliseconds(2));
      lock.unlock();
      move_ongoing();
      std::this_thread::sleep_for(quiet);
      lock.lock();
    }
  }

  void exchange_hosts() {
    std::vector<char> names(size() * MPI_MAX_PROCESSOR_NAME);
    char mine[MPI_MAX_PROCESSOR_NAME] = {};
    int length = 0;
    MPI_Get_processor_name(mine, &length);
    check(MPI_Allgather(mine, MPI_MAX_PROCESSOR_NAME, MPI_CHAR, names.data(),
                        MPI_MAX_PROCESSOR_NAME, MPI_CHAR, data_),
          "gather the names of the hosts");
    for (size_t r = 0; r < size(); ++r) {
      const char* const name = names.data() + r * MPI_MAX_PROCESSOR_NAME;
      hosts_[r].assign(name, strnlen(name, MPI_MAX_PROCESSOR_NAME));
    }
  }

  const size_t rank_;
  const MpiOptions options_;
  std::vector<std::string> hosts_;
  MPI_Comm data_ = MPI_COMM_NULL, beats_ = MPI_COMM_NULL;

  std::mutex mutex_;  // guards MPI and the rest
  std::condition_variable wake_;
  std::vector<Peer> peers_;
  std::vector<MPI_Request> requests_;  // under way
  std::vector<Part> under_way_;        // of each of them
  std::vector<Posted> posted_;
  std::vector<size_t> free_slots_;
  std::map<Line, size_t> lines_;  // the last message of each line that has parts to begin
  std::vector<size_t> ended_, going_on_;  // of test_all()
  std::vector<int> done_;
  std::vector<MPI_Status> statuses_;
  Clock::time_point last_poll_{}, last_landing_{};
  Clock::time_point last_beat_{}, last_round_{};  // signs of life were sent; were looked for
  bool stopping_ = false;
  bool silent_ = false;  // MPI is not called any more
  std::thread thread_;
};

std::unique_ptr<MpiJob> MpiJob::join(const MpiOptions& options) {
  check_launcher();
  set_defaults();
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "start");
  if (provided < MPI_THREAD_SERIALIZED)
    fail(ErrorKind::kUnsupported,
         "this MPI library was built without threads (MPI_THREAD_SERIALIZED); take another one");
  int rank = 0, size = 0, found = 0;
  int* largest_tag = nullptr;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &largest_tag, &found);
  if (!found || *largest_tag < INT32_MAX)
    fail(ErrorKind::kUnsupported,
         "this MPI library has tags up to {} only; Weft needs 31 bits of them, as Open MPI has",
         found ? *largest_tag : 0);
  std::unique_ptr<MpiJob> job(new MpiJob);
  job->transport_ =
      std::make_shared<Transport>(static_cast<size_t>(rank), static_cast<size_t>(size), options);
  job->ranks_.emplace(job->transport_, options.communicator);
  return job;
}

MpiJob::~MpiJob() {
  if (!transport_) return;
  transport_->leave();
  transport_->stop();
  transport_->free_communicators();
  MPI_Finalize();
}

std::string MpiJob::library() const {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string all(text, static_cast<size_t>(length));
  return all.substr(0, all.find(','));
}

void MpiJob::end_job(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

#else  // without MPI

class MpiJob::Transport {};

std::unique_ptr<MpiJob> MpiJob::join(const MpiOptions&) {
  fail(ErrorKind::kUnsupported,
       "this weft was built without MPI, so it cannot be one of several ranks. Install "
       "libopenmpi-dev "
       "and openmpi-bin and build it again.");
}
MpiJob::~MpiJob() = default;
std::string MpiJob::library() const { return {}; }
void MpiJob::end_job(int exit_code) { std::_Exit(exit_code); }

#endif

}  // namespace weft::comm
