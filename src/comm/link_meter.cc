#include "comm/link_meter.h"
#include "base/seconds.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

namespace weft::comm {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint32_t kTag = 3;
constexpr size_t kLargest = size_t{64} << 20;

template <typename T>
void share(const Communicator& ranks, T& value, size_t root) {
  ranks.broadcast(std::as_writable_bytes(std::span<T>(&value, 1)), root);
}

// `bytes` from one rank to another, and a byte back: seconds, at the sender.
double there_and_back(const Communicator& ranks, size_t from, size_t to,
                      std::span<std::byte> bytes) {
  std::byte ack{};
  const auto begin = Clock::now();
  if (ranks.rank() == from) {
    ranks.send(bytes, to, kTag);
    ranks.receive({&ack, 1}, to, kTag);
  } else if (ranks.rank() == to) {
    ranks.receive(bytes, from, kTag);
    ranks.send({&ack, 1}, from, kTag);
  }
  return seconds_since(begin);
}

// A pair alone; the other ranks wait. `message` becomes as long as fills the time.
PairSpeed measure_pair(const Communicator& ranks, size_t from, size_t to, double seconds,
                       std::vector<std::byte>& buffer, size_t& message) {
  PairSpeed speed;
  std::byte byte{};
  ranks.barrier();
  std::vector<double> trips;
  for (int i = 0; i < 9; ++i) trips.push_back(there_and_back(ranks, from, to, {&byte, 1}));
  std::nth_element(trips.begin(), trips.begin() + 4, trips.end());
  speed.latency_s = trips[4] / 2;
  share(ranks, speed.latency_s, from);
  for (message = 64 << 10;; message *= 4) {
    buffer.resize(std::max(buffer.size(), message));
    double took = there_and_back(ranks, from, to, std::span(buffer).first(message));
    share(ranks, took, from);
    if (took < seconds && message < kLargest) continue;
    // A link's buffers swallow the beginning: what two messages take more than one.
    double twice = 0;
    const auto begin = Clock::now();
    for (int i = 0; i < 2; ++i) there_and_back(ranks, from, to, std::span(buffer).first(message));
    twice = seconds_since(begin);
    share(ranks, twice, from);
    const double one = std::max(twice / 2 - 2 * speed.latency_s, 1e-9);
    speed.bytes_per_s = static_cast<double>(message) / one;
    return speed;
  }
}

}  // namespace

std::vector<PairSpeed> measure_links(const Communicator& ranks, double seconds) {
  const size_t n = ranks.size(), me = ranks.rank();
  std::vector<PairSpeed> out(n * n);
  std::vector<std::byte> buffer;
  size_t longest = 0;
  for (size_t from = 0; from < n; ++from)
    for (size_t to = 0; to < n; ++to) {
      if (from == to) continue;
      size_t message = 0;
      out[from * n + to] = measure_pair(ranks, from, to, seconds, buffer, message);
      longest = std::max(longest, message);
    }

  // All at once: what arrives, at the receiver. Each rank sends as much in all as one pair did alone:
  // where ranks share cores or a port, n - 1 times as much would keep them at it for many seconds.
  longest = std::max<size_t>(1, longest / std::max<size_t>(1, n - 1));
  std::vector<std::vector<std::byte>> in(n, std::vector<std::byte>(longest));
  buffer.resize(std::max(buffer.size(), longest));
  ranks.barrier();
  const auto begin = Clock::now();
  std::vector<Request> arriving(n), leaving(n);
  for (size_t i = 1; i < n; ++i) {
    const size_t from = (me + n - i) % n;
    arriving[from] = ranks.ireceive(in[from], from, kTag);
  }
  for (size_t i = 1; i < n; ++i) {
    const size_t to = (me + i) % n;
    leaving[to] = ranks.isend(std::span(buffer).first(longest), to, kTag);
  }
  std::vector<double> rates(n * n);
  size_t missing = n - 1;
  std::vector<bool> here(n);
  while (missing != 0)
    for (size_t from = 0; from < n; ++from) {
      if (from == me || here[from] || !arriving[from].test()) continue;
      here[from] = true;
      --missing;
      rates[me * n + from] = static_cast<double>(longest) / seconds_since(begin);
    }
  for (Request& request : leaving) request.wait();
  std::vector<size_t> begins(n + 1);
  for (size_t r = 0; r <= n; ++r) begins[r] = r * n * sizeof(double);
  ranks.all_gather(writable_bytes_of(std::span(rates)), begins);
  for (size_t to = 0; to < n; ++to)
    for (size_t from = 0; from < n; ++from)
      out[from * n + to].together_bytes_per_s = from == to ? 0 : rates[to * n + from];
  return out;
}

namespace {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::string topology_json(const std::vector<PairSpeed>& pairs, size_t num_ranks) {
  std::vector<double> latencies, rates, shares;
  for (size_t from = 0; from < num_ranks; ++from)
    for (size_t to = 0; to < num_ranks; ++to) {
      if (from == to) continue;
      const PairSpeed& pair = pairs[from * num_ranks + to];
      latencies.push_back(pair.latency_s);
      rates.push_back(pair.bytes_per_s);
      shares.push_back(pair.together_bytes_per_s / pair.bytes_per_s);
    }
  // Links of their own keep all of their rate; a port that n - 1 messages share, 1 / (n - 1) of it.
  // Whichever is nearer, by ratio.
  if (num_ranks > 2 && median(shares) < 1 / std::sqrt(static_cast<double>(num_ranks - 1)))
    return nlohmann::ordered_json{{"weft_topology", 1},
                                  {"kind", "switch"},
                                  {"ranks", num_ranks},
                                  {"link",
                                   {{"latency_us", median(latencies) * 1e6},
                                    {"gbit_per_s", median(rates) * 8e-9}}}}
               .dump(1) +
           "\n";
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (size_t from = 0; from < num_ranks; ++from)
    for (size_t to = 0; to < num_ranks; ++to) {
      if (from == to) continue;
      const PairSpeed& pair = pairs[from * num_ranks + to];
      list.push_back({{"from", from},
                      {"to", to},
                      {"latency_us", pair.latency_s * 1e6},
                      {"gbit_per_s", pair.bytes_per_s * 8e-9}});
    }
  return nlohmann::ordered_json{
             {"weft_topology", 1}, {"kind", "measured"}, {"ranks", num_ranks}, {"pairs", list}}
             .dump(1) +
         "\n";
}

}  // namespace weft::comm
