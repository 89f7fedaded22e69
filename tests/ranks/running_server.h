// `weft serve` of two ranks, and clients that wait for their answers.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace weft::tests {

class RunningServer {
 public:
  RunningServer();   // until it is ready
  ~RunningServer();  // kills what is left

  pid_t rank_1() const { return rank_1_; }
  void signal_rank_1(int signal) const;
  // Asks, and returns when the header of a stream has come. What it returns is for answer_to().
  enum class Form : uint8_t { kWhole, kStream };
  size_t ask(Form form);
  std::string answer_to(size_t question) const;  // with its header, until the server closes
  int wait();                    // for mpirun; its exit code
  const std::string& said() const { return said_; }  // on stderr, once wait() has returned

 private:
  pid_t mpirun_ = -1, rank_1_ = -1;
  int errors_ = -1, port_ = 0;
  std::string said_;
  struct Client {
    int socket;
    std::string head;
  };
  std::vector<Client> clients_;
};

}  // namespace weft::tests
