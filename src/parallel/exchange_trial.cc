#include "parallel/exchange_trial.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/seconds.h"
#include "parallel/transfers.h"

namespace weft::parallel {
namespace {

using Clock = std::chrono::steady_clock;

// Of a rank's keys and values; large enough that what is in sockets' buffers does not count.
constexpr size_t kTrialBytes = 512 << 10;

}  // namespace

double transfer_s(const comm::Communicator& ranks, const Exchange& exchange, size_t block_bytes) {
  std::shared_ptr<Buffer> room;
  Transfers transfers(
      ranks, exchange, [&](size_t, size_t) { return block_bytes / exchange.num_pieces; }, room);
  std::fill_n(room->data(), room->bytes(), uint8_t{0});  // page faults are not the links'
  ranks.barrier();
  const auto begin = Clock::now();
  transfers.begin();
  for (size_t step = 0; step < exchange.steps.size(); ++step) transfers.wait(step);
  transfers.finish();
  std::vector<double> seconds(ranks.size());
  seconds[ranks.rank()] = seconds_since(begin);
  std::vector<size_t> begins(ranks.size() + 1);
  for (size_t r = 0; r < begins.size(); ++r) begins[r] = r * sizeof(double);
  ranks.all_gather(comm::writable_bytes_of(std::span(seconds)), begins);
  return *std::max_element(seconds.begin(), seconds.end());
}

size_t quickest(const comm::Communicator& ranks, std::span<const NamedExchange> exchanges) {
  WEFT_ASSERT(!exchanges.empty());
  std::vector<double> seconds;
  for (const auto& [name, exchange] : exchanges)
    seconds.push_back(std::min(transfer_s(ranks, exchange, kTrialBytes),
                               transfer_s(ranks, exchange, kTrialBytes)));
  const double least = *std::min_element(seconds.begin(), seconds.end());
  const auto good = std::find_if(seconds.begin(), seconds.end(),
                                 [&](double s) { return s <= 1.05 * least; });
  return static_cast<size_t>(good - seconds.begin());
}

}  // namespace weft::parallel
