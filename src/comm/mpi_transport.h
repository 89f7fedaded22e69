// The ranks of a job that mpirun or srun has started, over MPI.
//
// MPI moves messages only while it is called (Open MPI 4). Whoever waits calls it; while messages
// are under way and everybody computes, one thread of this transport does, every 100 us or so, and
// sleeps when there are none. All calls are made under one lock (MPI_THREAD_SERIALIZED).
//
// Every quarter of a second (kBeat) that thread tells all other ranks that it lives. A rank that was
// not heard of for MpiOptions::silence has died, hangs, or its link is cut.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "comm/launch.h"

namespace weft::comm {

inline constexpr std::chrono::milliseconds kBeat{250};  // from one sign of life to the next

struct MpiOptions {
  // Twenty signs of life missed. Measured: a job of which a rank is stopped ends 2 s later, within which
  // mpirun gives its processes time to end by themselves.
  std::chrono::milliseconds silence{5'000};
  CommunicatorOptions communicator = {};
};

// How long this process has left once its launcher has sent it SIGTERM (mpirun does when a rank has
// died, and when it is stopped itself), if it kills soon after; none for other launchers.
std::optional<std::chrono::milliseconds> time_from_sigterm_to_sigkill();

// Membership in the job, once per process. Leaves it in order when it goes (all ranks do so
// together), or after an Error at once: end_job().
class MpiJob {
 public:
  // kUnsupported: this program was built without MPI. kIo: MPI does not start.
  static std::unique_ptr<MpiJob> join(const MpiOptions& options = {});
  ~MpiJob();
  MpiJob(const MpiJob&) = delete;
  MpiJob& operator=(const MpiJob&) = delete;

  const Communicator& ranks() const { return *ranks_; }
  std::string library() const;  // "Open MPI v4.1.4"
  // Ends this process and has the launcher end all others. After what went wrong was said.
  [[noreturn]] void end_job(int exit_code);

 private:
  class Transport;
  MpiJob() = default;
  std::shared_ptr<Transport> transport_;
  std::optional<Communicator> ranks_;
};

}  // namespace weft::comm
