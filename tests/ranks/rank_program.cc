// One rank of a job that ranks_test.cc starts under mpirun: what it does is its first argument. Or a
// server that only listens, for bench_test.cc: listen -H 127.0.0.1 -p PORT.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "comm/handshake.h"
#include "comm/mpi_transport.h"

namespace {

using namespace weft;
using comm::Communicator;

std::vector<float> values_of(size_t rank, size_t count) {
  std::vector<float> out(count);
  for (size_t i = 0; i < count; ++i)
    out[i] = 1.0f / static_cast<float>(1 + (i * 31 + rank * 17) % 1013);
  return out;
}

void expect(bool holds, const char* what) {
  if (!holds) fail(ErrorKind::kInvalidInput, "wrong: {}", what);
}

// Sums of all lengths, and messages from everybody to everybody at once, larger than any eager
// limit.
void exchange(const Communicator& ranks) {
  const size_t n = ranks.size(), me = ranks.rank();
  for (const size_t count : {size_t{1}, size_t{576}, size_t{100'003}}) {
    std::vector<float> mine = values_of(me, count), sum = values_of(0, count);
    for (size_t r = 1; r < n; ++r) {
      const std::vector<float> other = values_of(r, count);
      for (size_t i = 0; i < count; ++i) sum[i] += other[i];
    }
    ranks.all_reduce(mine);
    expect(mine == sum, "all-reduce");
  }
  // Several of one tag, of which the first is in many frames where the ranks are on several hosts.
  std::vector<float> first(300'000), second(3), third(100'000);
  const size_t to = (me + 1) % n, from = (me + n - 1) % n;
  {
    const std::vector<float> a = values_of(me, 300'000), b = values_of(me + 50, 3),
                             c = values_of(me + 90, 100'000);
    std::vector<comm::Request> several;
    for (std::vector<float>* const into : {&first, &second, &third})
      several.push_back(ranks.ireceive(comm::writable_bytes_of(std::span(*into)), from, 5));
    for (const std::vector<float>* const values : {&a, &b, &c})
      several.push_back(ranks.isend(comm::bytes_of(std::span(*values)), to, 5));
    for (comm::Request& request : several) request.wait();
  }
  expect(first == values_of(from, 300'000) && second == values_of(from + 50, 3) &&
             third == values_of(from + 90, 100'000),
         "messages of one tag in their order");

  // One message that goes round: each rank passes on what it receives, while it waits for the end; a
  // second one follows it, and a third is given up before it can go.
  std::vector<float> passed(300'000), tail(3);
  const std::vector<float> brought = values_of(7, 300'000), after = values_of(9, 3);
  {
    const size_t origin = n - 1;
    if (me == origin) {
      comm::Request out = ranks.isend(comm::bytes_of(std::span(brought)), to, 8);
      ranks.isend_after(out, comm::bytes_of(std::span(after)), to, 9).wait();
    } else {
      comm::Request in = ranks.ireceive(comm::writable_bytes_of(std::span(passed)), from, 8);
      comm::Request on, end;
      if (to != origin) {
        on = ranks.isend_after(in, comm::bytes_of(std::span<const float>(passed)), to, 8);
        end = ranks.isend_after(on, comm::bytes_of(std::span(after)), to, 9);
        auto memory = std::make_shared<std::vector<std::byte>>(100);
        ranks.isend_after(end, *memory, to, 10).abandon(memory);
      }
      ranks.receive(comm::writable_bytes_of(std::span(tail)), from, 9);
      in.wait();
      end.wait();
      on.wait();
      expect(passed == brought && tail == after, "what was passed on");
    }
  }

  constexpr size_t kCount = 300'000;
  std::vector<std::vector<float>> in(n, std::vector<float>(kCount)), out(n);
  std::vector<comm::Request> requests;
  for (size_t r = 0; r < n; ++r)
    if (r != me)
      requests.push_back(ranks.ireceive(comm::writable_bytes_of(std::span(in[r])), r, 7));
  for (size_t r = 0; r < n; ++r) {
    if (r == me) continue;
    out[r] = values_of(me * n + r, kCount);
    requests.push_back(ranks.isend(comm::bytes_of(std::span<const float>(out[r])), r, 7));
  }
  for (comm::Request& request : requests) request.wait();
  for (size_t r = 0; r < n; ++r)
    expect(r == me || in[r] == values_of(r * n + me, kCount), "all-to-all of messages");
  ranks.barrier();
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Rank 1 dies, stops or throws; the others wait for it.
void lose_rank_1(const Communicator& ranks, int signal) {
  ranks.barrier();
  if (ranks.rank() == 1) {
    if (signal == 0) fail(ErrorKind::kIo, "its disk is full");
    raise(signal);
  }
  std::vector<float> values(10);
  ranks.all_reduce(values);
}

// Sums over all links, one after the other, for some seconds by rank 0's clock.
void rounds(const Communicator& ranks) {
  const std::vector<float> values = values_of(ranks.rank(), 100'000);
  std::vector<float> expected(values.size(), 0.0f);
  for (size_t r = 0; r < ranks.size(); ++r) {
    const std::vector<float> theirs = values_of(r, values.size());
    for (size_t i = 0; i < values.size(); ++i) expected[i] += theirs[i];
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(4);
  for (std::byte more{1}; more != std::byte{0};) {
    std::vector<float> sum = values;
    ranks.all_reduce(sum);
    expect(sum == expected, "all-reduce");
    if (std::chrono::steady_clock::now() > end) more = std::byte{0};
    ranks.broadcast({&more, 1}, 0);
  }
}

void run(const std::string& what, const Communicator& ranks) {
  if (what == "long") rounds(ranks);
  if (what == "exchange") exchange(ranks);
  if (what == "killed") lose_rank_1(ranks, SIGKILL);
  if (what == "stopped") lose_rank_1(ranks, SIGSTOP);
  if (what == "throws") lose_rank_1(ranks, 0);
  if (what == "handshake")
    comm::shake_hands(ranks, {"1", ranks.rank() == 1 ? "b.gguf" : "a.gguf", "tensor"});
  if (what == "idle") {  // two seconds of waiting for a message that comes at last
    const double before = cpu_seconds();
    std::byte byte{};
    comm::Request request;
    if (ranks.rank() == 1) request = ranks.ireceive({&byte, 1}, 0, 1);
    sleep(2);
    const double used = cpu_seconds() - before;
    if (ranks.rank() == 0) ranks.send({&byte, 1}, 1, 1);
    request.wait();
    std::printf("rank %zu used %.3f s\n", ranks.rank(), used);
    ranks.barrier();
  }
}

// Until it is ended.
int listen_for_ever(int argc, char** argv) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "-H") address.sin_addr.s_addr = inet_addr(argv[i + 1]);
    if (flag == "-p") address.sin_port = htons(static_cast<uint16_t>(std::stoi(argv[i + 1])));
  }
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(fd, 1) != 0)
    return 1;
  for (;;) close(accept(fd, nullptr, nullptr));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "listen") return listen_for_ever(argc, argv);
  std::unique_ptr<comm::MpiJob> job;
  try {
    job = comm::MpiJob::join({.silence = std::chrono::seconds(3)});
    run(argc > 1 ? argv[1] : "", job->ranks());
    std::printf("rank %zu is done\n", job->ranks().rank());
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "rank %zu: %s\n", job ? job->ranks().rank() : 0, error.what());
    std::fflush(stderr);
    if (job) job->end_job(exit_code(error.kind()));
    return exit_code(error.kind());
  }
}
