#include "bench/rpc_peer.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>

#include "base/error.h"
#include "bench/child.h"
#include "bench/host_addresses.h"
#include "bench/peer.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;
using comm::Communicator;

constexpr uint32_t kDoneTag = 9;       // rank 0 needs the servers no more
constexpr size_t kMostAddresses = 32;  // of a host that are told to others
constexpr uint32_t kLoopback = 0x7f000001;

sockaddr_in socket_address(uint32_t address, uint16_t port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  out.sin_addr.s_addr = htonl(address);
  return out;
}

// A port of the address that nobody has; somebody may take it before the server does.
uint16_t free_port(uint32_t address) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in bound = socket_address(address, 0);
  socklen_t size = sizeof bound;
  const bool done = fd >= 0 &&
                    bind(fd, reinterpret_cast<const sockaddr*>(&bound), sizeof bound) == 0 &&
                    getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!done)
    fail(ErrorKind::kIo, "no port of {} for ggml-rpc-server: {}", dotted(address),
         std::strerror(error));
  return ntohs(bound.sin_port);
}

bool listens(uint32_t address, uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const sockaddr_in to = socket_address(address, port);
  const bool connected = connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
  close(fd);
  return connected;
}

struct RpcServer {
  std::unique_ptr<RunningChild> child;
  uint16_t port = 0;
};

// One that listens.
RpcServer start_server(const std::filesystem::path& program, uint32_t address, size_t threads,
                       StopToken stop) {
  constexpr int kTries = 3;  // of ports
  constexpr std::chrono::seconds kToListen{20};
  constexpr std::chrono::milliseconds kLook{20};
  for (int t = 1;; ++t) {
    RpcServer server{nullptr, free_port(address)};
    server.child = std::make_unique<RunningChild>(
        std::vector<std::string>{program.string(), "-H", dotted(address), "-p",
                                 std::to_string(server.port), "-t", std::to_string(threads)});
    const auto begin = Clock::now();
    while (Clock::now() - begin < kToListen) {
      stop.throw_if_stopped();
      if (server.child->ends_within(kLook)) break;
      if (listens(address, server.port)) return server;
    }
    if (!server.child->ends_within({}))
      fail(ErrorKind::kTimeout, "{} did not listen at {}:{} within {} s", program.string(),
           dotted(address), server.port, kToListen.count());
    if (t == kTries)
      fail(ErrorKind::kInvalidInput, "{} ended at once: {}", program.string(),
           server.child->last_words());
  }
}

// Every rank's `mine`, in the order of the ranks.
template <typename T>
std::vector<T> gather(const Communicator& ranks, const T& mine) {
  std::vector<T> all(ranks.size());
  all[ranks.rank()] = mine;
  std::vector<size_t> begins(ranks.size() + 1);
  for (size_t r = 0; r < begins.size(); ++r) begins[r] = r * sizeof(T);
  ranks.all_gather(comm::writable_bytes_of(std::span(all)), begins);
  return all;
}

// Where rank 0 reaches the others, by rank.
std::vector<uint32_t> choose_addresses(const Communicator& ranks) {
  std::array<HostAddress, kMostAddresses> told{};
  const std::vector<HostAddress> own = own_addresses();
  std::copy_n(own.begin(), std::min(own.size(), told.size()), told.begin());
  const auto all = gather(ranks, told);
  std::vector<uint32_t> chosen(ranks.size());
  if (ranks.rank() == 0) {
    for (size_t r = 1; r < ranks.size(); ++r) {
      const auto end = std::find_if(all[r].begin(), all[r].end(),
                                    [](const HostAddress& a) { return a.address == 0; });
      const std::span theirs(all[r].begin(), end);
      std::optional<uint32_t> found = kLoopback;
      if (ranks.host(r) != ranks.host(0)) {
        found = reachable(own, theirs);
        if (!found) found = routed(own, theirs);
      }
      if (!found)
        fail(ErrorKind::kNotFound,
             "--peer: rank 0 on {} is in no IPv4 network with rank {} on {}, which llama.cpp would "
             "need: leave --peer out",
             ranks.host(0), r, ranks.host(r));
      chosen[r] = *found;
    }
  }
  ranks.broadcast(comm::writable_bytes_of(std::span(chosen)), 0);
  return chosen;
}

std::filesystem::path server_program(const std::filesystem::path& llama_bench) {
  std::filesystem::path program = llama_bench.parent_path() / "ggml-rpc-server";
  if (access(program.c_str(), X_OK) != 0)
    fail(ErrorKind::kNotFound,
         "--peer {}: over several ranks llama.cpp needs its {}, which is not there. "
         "tools/build_peer.sh builds both (llama.cpp with -DGGML_RPC=ON).",
         llama_bench.string(), program.string());
  return program;
}

RpcRun run_llama_bench(const RpcTest& test, const std::string& servers, size_t num_servers,
                       size_t offloaded, std::string layers, StopToken stop) {
  const ChildResult child =
      run_child(llama_bench_over_rpc(test, servers, num_servers, offloaded), stop);
  if (child.exit_code != 0)
    fail(ErrorKind::kInvalidInput, "{} --rpc {} ended with {}: {}", test.llama_bench.string(),
         servers, child.exit_code, child.error_tail);
  const auto samples = [&](size_t prompt, size_t answer) {
    return spread_of(parse_llama_bench(child.out, {.model = test.model,
                                                   .threads = test.threads,
                                                   .prompt_tokens = prompt,
                                                   .generated_tokens = answer}));
  };
  return {std::move(layers), samples(test.prompt_tokens, 0), samples(0, test.answer_tokens)};
}

}  // namespace

size_t equal_offload(size_t num_layers, size_t num_ranks) {
  return num_layers - num_layers / num_ranks + 1;
}

std::vector<std::string> llama_bench_over_rpc(const RpcTest& test, const std::string& servers,
                                              size_t num_servers, size_t offloaded) {
  std::string split = "1";
  for (size_t i = 1; i < num_servers; ++i) split += "/1";
  return {test.llama_bench.string(),
          "-m",
          test.model.string(),
          "-t",
          std::to_string(test.threads),
          "-p",
          std::to_string(test.prompt_tokens),
          "-n",
          std::to_string(test.answer_tokens),
          "-r",
          std::to_string(test.repetitions),
          "-ngl",
          std::to_string(offloaded),
          "-ts",
          split,
          "--rpc",
          servers,
          "-o",
          "json"};
}

std::vector<RpcRun> measure_rpc_peer(const Communicator& ranks, const RpcTest& test,
                                     StopToken stop) {
  const bool leads = ranks.rank() == 0;
  if (leads) {  // before the others look: one error, not as many as there are ranks
    const Peer exists(test.llama_bench, stop);
    server_program(test.llama_bench);
  }
  const std::vector<uint32_t> addresses = choose_addresses(ranks);
  RpcServer server;
  if (!leads)
    server =
        start_server(server_program(test.llama_bench), addresses[ranks.rank()], test.threads, stop);
  const std::vector<uint16_t> ports = gather(ranks, server.port);
  if (!leads) {
    std::byte done{};
    ranks.ireceive({&done, 1}, 0, kDoneTag).wait(comm::Patience::kEndless);
    return {};
  }
  std::string servers;
  for (size_t r = 1; r < ranks.size(); ++r)
    servers += fmt::format("{}{}:{}", r == 1 ? "" : ",", dotted(addresses[r]), ports[r]);
  const auto run = [&](size_t offloaded, const char* layers) {
    return run_llama_bench(test, servers, ranks.size() - 1, offloaded, layers, stop);
  };
  std::vector<RpcRun> runs = {
      run(equal_offload(test.num_layers, ranks.size()), "in equal shares on all hosts")};
  if (test.all_divisions) runs.push_back(run(test.num_layers + 1, "on the other hosts"));
  const std::byte done{};
  for (size_t r = 1; r < ranks.size(); ++r) ranks.send({&done, 1}, r, kDoneTag);
  return runs;
}

}  // namespace weft::bench
