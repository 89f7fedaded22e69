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

bool is_launched_as_rank() {
  // Open MPI; Slurm and MPICH by PMI; PMIx launchers.
  for (const char* const variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"}) {
    const char* const size = std::getenv(variable);
    if (size == nullptr || std::atoi(size) < 2) continue;
    // A shell inside an allocation has SLURM_NTASKS too; a task that srun started has a step as
    // well.
    if (std::string_view(variable) != "SLURM_NTASKS" || std::getenv("SLURM_STEP_ID") != nullptr)
      return true;
  }
  return false;
}

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
constexpr size_t kLargestPart = size_t{1} << 30;  // MPI counts in int
// Between hosts, messages travel in frames that Open MPI sends without asking (its TCP does so up to
// 64 KiB with its header). For a larger one the receiver must say "go ahead", and where both send, that
// waits behind half a megabyte of its own: TASP's transfers at 100 Mbit/s, 4 hosts, took 1.7x their
// bound so. A few frames of a message are under way at a time: they are copied.
constexpr size_t kFrame = 60 << 10;
constexpr size_t kFramesUnderWay = 16;
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

  std::shared_ptr<Flight> receive(std::span<std::byte> bytes, size_t from, uint32_t tag) override {
    return post(true, bytes.data(), bytes.size(), from, tag);
  }

  void pause(std::chrono::nanoseconds waited) override {
    {
      const std::unique_lock lock(mutex_, std::try_to_lock);
      if (lock) test_all();
    }
    move_ongoing();
    // A latency of a few microseconds where answers come at once; else 5 % of what was waited for.
    if (waited < microseconds(100))
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(
          std::clamp<std::chrono::nanoseconds>(waited / 20, microseconds(10), milliseconds(1)));
  }

  void poll() override {
    {
      const std::unique_lock lock(mutex_, std::try_to_lock);
      if (lock) test_all();
    }
    move_ongoing();
  }

  std::optional<Error> complaint_about(size_t peer) override {
    const std::scoped_lock lock(mutex_);
    if (peer == rank_) return std::nullopt;
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

 protected:
  std::shared_ptr<Flight> post_send(std::span<const std::byte> bytes, size_t to,
                                    uint32_t tag) override {
    return post(false, const_cast<std::byte*>(bytes.data()), bytes.size(), to, tag);
  }

 private:
  struct Peer {
    MPI_Request hearing = MPI_REQUEST_NULL, telling = MPI_REQUEST_NULL;
    Beat heard = Beat::kAlive, told = Beat::kAlive;
    Clock::time_point last_heard;
    bool left = false;
  };
  // A message, in parts of which some are under way.
  struct Posted {
    std::shared_ptr<Flight> flight;
    std::byte* data = nullptr;
    size_t size = 0, begun = 0;  // bytes; in parts that were started
    uint32_t tag = 0;
    size_t parts = 0;             // under way
    std::optional<size_t> behind;  // slot of the message that begins when this one's parts have begun
  };
  using Line = std::tuple<bool, size_t, uint32_t>;  // incoming, peer, tag: matched in order

  std::shared_ptr<Flight> post(bool incoming, std::byte* data, size_t size, size_t peer,
                               uint32_t tag) {
    auto flight = std::make_shared<Flight>(incoming, peer);
    {
      const std::scoped_lock lock(mutex_);
      const size_t slot = free_slot();
      posted_[slot] = {.flight = flight, .data = data, .size = size, .tag = tag, .behind = {}};
      if (const auto [line, first] = lines_.try_emplace({incoming, peer, tag}, slot); !first) {
        posted_[line->second].behind = slot;
        line->second = slot;
      } else {
        begin_parts(slot);
      }
    }
    wake_.notify_one();
    return flight;
  }

  // Starts as many parts of a message as may be under way, and when all have begun, the next of its
  // line.
  void begin_parts(size_t first) {
    for (std::optional<size_t> slot = first; slot;) {
      Posted& posted = posted_[*slot];
      const bool incoming = posted.flight->incoming();
      const size_t peer = posted.flight->peer();
      const bool framed = hosts_[peer] != hosts_[rank_];
      const int to = static_cast<int>(peer), tag = static_cast<int>(posted.tag);
      while (posted.parts == 0 || (posted.begun < posted.size &&
                                   (!framed || posted.parts < kFramesUnderWay))) {
        const size_t count = std::min(posted.size - posted.begun, framed ? kFrame : kLargestPart);
        std::byte* const at = posted.data + posted.begun;
        const auto bytes = static_cast<int>(count);
        MPI_Request request = MPI_REQUEST_NULL;
        const int status = incoming
                               ? MPI_Irecv(at, bytes, MPI_BYTE, to, tag, data_, &request)
                               : MPI_Isend(at, bytes, MPI_BYTE, to, tag, data_, &request);
        if (status != MPI_SUCCESS) {
          fail_flight(*posted.flight, status);
          posted.begun = posted.size;
          break;
        }
        requests_.push_back(request);
        slots_.push_back(*slot);
        ++posted.parts;
        posted.begun += count;
      }
      if (posted.begun < posted.size) return;
      slot = std::exchange(posted.behind, std::nullopt);
      if (!slot) lines_.erase({incoming, peer, posted.tag});
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

  void fail_flight(Flight& flight, int status) const {
    if (flight.landed()) return;
    flight.fail(Error(
        ErrorKind::kPeerLost,
        fmt::format("a message {} rank {} on {} failed: {}", flight.incoming() ? "from" : "to",
                    flight.peer(), hosts_[flight.peer()], words_of(status))));
  }

  // Lands what has come. Under the lock.
  void test_all() {
    last_poll_ = Clock::now();
    if (requests_.empty()) return;
    done_.resize(requests_.size());
    statuses_.resize(requests_.size());
    int count = 0;
    const int status = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                    done_.data(), statuses_.data());
    if (count == MPI_UNDEFINED || count == 0) return;
    for (int i = 0; i < count; ++i) {
      const auto index = static_cast<size_t>(done_[static_cast<size_t>(i)]);
      Posted& posted = posted_[slots_[index]];
      const int error =
          status == MPI_ERR_IN_STATUS ? statuses_[static_cast<size_t>(i)].MPI_ERROR : MPI_SUCCESS;
      if (error != MPI_SUCCESS) fail_flight(*posted.flight, error);
      if (error == MPI_SUCCESS && posted.flight->incoming())  // a sign of life itself, which others wait behind
        peers_[posted.flight->peer()].last_heard = last_poll_;
      --posted.parts;
      if (posted.begun < posted.size)
        going_on_.push_back(slots_[index]);
      else if (posted.parts == 0)
        ended_.push_back(slots_[index]);
    }
    size_t kept = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      requests_[kept] = requests_[i];
      slots_[kept++] = slots_[i];
    }
    requests_.resize(kept);
    slots_.resize(kept);
    for (const size_t slot : ended_) {
      if (!posted_[slot].flight->landed()) posted_[slot].flight->land();
      posted_[slot].flight.reset();
      free_slots_.push_back(slot);
    }
    ended_.clear();
    for (const size_t slot : going_on_)  // it may be there twice
      if (posted_[slot].begun < posted_[slot].size) begin_parts(slot);
    going_on_.clear();
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

  void run() {
    std::unique_lock lock(mutex_);
    Clock::time_point last_beat{};
    last_round_ = Clock::now();
    while (!stopping_) {
      const auto now = Clock::now();
      // This process itself was stopped for a while: the others' signs have still to be read.
      if (now - last_round_ > kPause)
        for (Peer& p : peers_) p.last_heard = now;
      last_round_ = now;
      if (now - last_beat >= kBeat) {
        last_beat = now;
        hear_all(now);
        for (size_t r = 0; r < size(); ++r)
          if (r != rank_ && !peers_[r].left) tell(r, Beat::kAlive);
      }
      if (requests_.empty()) {
        wake_.wait_until(lock, last_beat + kBeat,
                         [this] { return stopping_ || !requests_.empty(); });
        last_landing_ = Clock::now();
        continue;
      }
      if (now - last_poll_ > microseconds(50)) test_all();
      // Long quiet (a worker that waits for its next request) need not be answered within 100 us.
      const auto nap = std::clamp<std::chrono::nanoseconds>((Clock::now() - last_landing_) / 50,
                                                            microseconds(80), milliseconds(2));
      lock.unlock();
      move_ongoing();
      std::this_thread::sleep_for(nap);
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
  std::vector<size_t> slots_;          // in posted_, of each of them
  std::vector<Posted> posted_;
  std::vector<size_t> free_slots_;
  std::map<Line, size_t> lines_;  // the last message of each line that has parts to begin
  std::vector<size_t> ended_, going_on_;  // of test_all()
  std::vector<int> done_;
  std::vector<MPI_Status> statuses_;
  Clock::time_point last_poll_{}, last_landing_{};
  Clock::time_point last_round_{};  // of the thread: it looks for signs of life
  bool stopping_ = false;
  std::thread thread_;
};

std::unique_ptr<MpiJob> MpiJob::join(const MpiOptions& options) {
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
