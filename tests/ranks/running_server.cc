#include "tests/ranks/running_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "tests/ranks/launch.h"

namespace weft::tests {
namespace {

std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return (std::stringstream() << in.rdbuf()).str();
}

// The process with this parent whose environment says that it is rank 1.
pid_t find_rank_1(pid_t parent) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid == 0) continue;
    const std::string status = contents(entry.path() / "status");
    if (status.find(fmt::format("PPid:\t{}\n", parent)) == std::string::npos) continue;
    if (contents(entry.path() / "environ").find("OMPI_COMM_WORLD_RANK=1") != std::string::npos)
      return pid;
  }
  fail(ErrorKind::kNotFound, "mpirun has no rank 1");
}

}  // namespace

RunningServer::RunningServer() {
  const std::string& model = tiny_model(1);  // before the fork: it is written by threads
  int pipe_ends[2];
  WEFT_ASSERT(pipe(pipe_ends) == 0);
  mpirun_ = fork();
  WEFT_ASSERT(mpirun_ >= 0);
  if (mpirun_ == 0) {
    dup2(pipe_ends[1], STDERR_FILENO);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    dup2(open("/dev/null", O_RDWR), STDIN_FILENO);
    for (const std::string& line : mpi_environment()) putenv(strdup(line.c_str()));
    execl(WEFT_MPIRUN, WEFT_MPIRUN, "-n", "2", WEFT_PROGRAM, "serve", "--model", model.c_str(),
          "--port", "0", "--overlap-tunings", "none", nullptr);
    _exit(127);
  }
  close(pipe_ends[1]);
  errors_ = pipe_ends[0];
  const std::string ready = "is ready: http://127.0.0.1:";
  char byte = 0;
  while (said_.find(ready) == std::string::npos || byte != '\n') {
    if (read(errors_, &byte, 1) != 1)
      fail(ErrorKind::kIo, "the server did not start: {}", said_);
    said_ += byte;
  }
  port_ = std::atoi(said_.c_str() + said_.find(ready) + ready.size());
  rank_1_ = find_rank_1(mpirun_);
}

RunningServer::~RunningServer() {
  for (const Client& client : clients_) close(client.socket);
  if (mpirun_ > 0) {
    kill(rank_1_, SIGCONT);
    kill(mpirun_, SIGTERM);
    wait();
  }
  close(errors_);
}

void RunningServer::signal_rank_1(int signal) const { kill(rank_1_, signal); }

size_t RunningServer::ask(Form form) {
  const bool stream = form == Form::kStream;
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  clients_.push_back({client, ""});
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port_));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  timeval patience{.tv_sec = 30, .tv_usec = 0};  // turns a hang into a failure
  setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  WEFT_ASSERT(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  const std::string body =
      fmt::format(R"({{"prompt": "all ranks", "max_tokens": 100, "stream": {}}})", stream);
  const std::string request = fmt::format(
      "POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\nConnection: close\r\n\r\n{}",
      body.size(), body);
  WEFT_ASSERT(write(client, request.data(), request.size()) ==
              static_cast<ssize_t>(request.size()));
  std::string& head = clients_.back().head;
  char byte = 0;
  while (stream && head.find("\r\n\r\n") == std::string::npos && read(client, &byte, 1) == 1)
    head += byte;
  if (stream && !head.starts_with("HTTP/1.1 200")) fail(ErrorKind::kIo, "no stream: {}", head);
  return clients_.size() - 1;
}

std::string RunningServer::answer_to(size_t question) const {
  std::string answer = clients_[question].head;
  char bytes[4096];
  for (ssize_t n = 0; (n = read(clients_[question].socket, bytes, sizeof bytes)) > 0;)
    answer.append(bytes, static_cast<size_t>(n));
  return answer;
}

int RunningServer::wait() {
  char bytes[4096];
  for (ssize_t n = 0; (n = read(errors_, bytes, sizeof bytes)) > 0;)
    said_.append(bytes, static_cast<size_t>(n));
  int status = 0;
  WEFT_ASSERT(waitpid(mpirun_, &status, 0) == mpirun_);
  mpirun_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace weft::tests
