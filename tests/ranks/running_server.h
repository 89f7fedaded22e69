// `weft serve` of two ranks, and a client in the middle of a stream.
#pragma once

#include <string>
#include <sys/types.h>

namespace weft::tests {

class RunningServer {
 public:
  RunningServer();   // until it is ready
  ~RunningServer();  // kills what is left

  pid_t rank_1() const { return rank_1_; }
  void signal_rank_1(int signal) const;
  // Asks for a stream, and returns when its header has come.
  void ask();
  std::string rest_of_answer();  // until the server closes
  int wait();                    // for mpirun; its exit code
  const std::string& said() const { return said_; }  // on stderr, once wait() has returned

 private:
  pid_t mpirun_ = -1, rank_1_ = -1;
  int errors_ = -1, client_ = -1, port_ = 0;
  std::string said_;
};

}  // namespace weft::tests
