#include "parallel/exchange_trial.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/error.h"

namespace weft::parallel {
namespace {

using Clock = std::chrono::steady_clock;

// Of a rank's keys and values; large enough that what is in sockets' buffers does not count.
constexpr size_t kTrialBytes = 512 << 10;

}  // namespace

double transfer_s(const comm::Communicator& ranks, const Exchange& exchange, size_t block_bytes) {
  const size_t piece = block_bytes / exchange.num_pieces;
  size_t most = 1;  // pieces that come to this rank in a step
  for (const auto& step : exchange.steps)
    most = std::max<size_t>(most, static_cast<size_t>(std::count_if(
                                      step.begin(), step.end(),
                                      [&](const Transfer& t) { return t.to == ranks.rank(); })));
  std::vector<std::byte> out(piece), in(most * piece);
  ranks.barrier();
  const auto begin = Clock::now();
  std::vector<comm::Request> requests;
  for (size_t s = 0; s < exchange.steps.size(); ++s) {
    size_t arriving = 0;
    const auto& step = exchange.steps[s];
    const auto tag = [&](size_t i) { return static_cast<uint32_t>(s << 14 | i); };
    for (size_t i = 0; i < step.size(); ++i)
      if (step[i].to == ranks.rank())
        requests.push_back(ranks.ireceive(std::span(in).subspan(arriving++ * piece, piece),
                                          step[i].from, tag(i)));
    for (size_t i = 0; i < step.size(); ++i)
      if (step[i].from == ranks.rank()) requests.push_back(ranks.isend(out, step[i].to, tag(i)));
    for (comm::Request& request : requests) request.wait();
    requests.clear();
  }
  std::vector<double> seconds(ranks.size());
  seconds[ranks.rank()] = std::chrono::duration<double>(Clock::now() - begin).count();
  std::vector<size_t> begins(ranks.size() + 1);
  for (size_t r = 0; r < begins.size(); ++r) begins[r] = r * sizeof(double);
  ranks.all_gather(comm::writable_bytes_of(std::span(seconds)), begins);
  return *std::max_element(seconds.begin(), seconds.end());
}

size_t quickest(const comm::Communicator& ranks, std::span<const Exchange> exchanges) {
  WEFT_ASSERT(!exchanges.empty());
  std::vector<double> seconds;
  for (const Exchange& exchange : exchanges)
    seconds.push_back(std::min(transfer_s(ranks, exchange, kTrialBytes),
                               transfer_s(ranks, exchange, kTrialBytes)));
  const double least = *std::min_element(seconds.begin(), seconds.end());
  const auto good = std::find_if(seconds.begin(), seconds.end(),
                                 [&](double s) { return s <= 1.05 * least; });
  return static_cast<size_t>(good - seconds.begin());
}

}  // namespace weft::parallel
