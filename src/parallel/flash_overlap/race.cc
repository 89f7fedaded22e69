#include "parallel/flash_overlap/race.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace weft::parallel::flash_overlap {
namespace {

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

// A way leaves when it was slower than the best in so many of their rounds, and by so much in the middle
// one.
constexpr double kBehindOften = 0.8, kBehindBy = 0.1;

// How much longer a takes than b, round by round, as logarithms.
std::vector<double> differences(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> out(std::min(a.size(), b.size()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = std::log(a[i] / b[i]);
  return out;
}

bool is_behind(const std::vector<double>& a, const std::vector<double>& best) {
  const std::vector<double> by = differences(a, best);
  const auto slower = std::count_if(by.begin(), by.end(), [](double d) { return d > 0; });
  return static_cast<double>(slower) >= kBehindOften * static_cast<double>(by.size()) &&
         median(by) > kBehindBy;
}

// Of a median difference, by its median deviation: 1.48 of them are a standard deviation, of which a
// median of n has 1.25 / sqrt(n).
double standard_error(std::vector<double> values) {
  const double middle = median(values), n = static_cast<double>(values.size());
  for (double& v : values) v = std::abs(v - middle);
  return 1.25 * 1.48 * median(std::move(values)) / std::sqrt(n);
}

// The one that is fastest beside the mean of its rounds, in the middle one.
size_t fastest(const std::vector<size_t>& racing, const std::vector<std::vector<double>>& seconds) {
  const size_t rounds = seconds[racing.front()].size();
  std::vector<double> mean(rounds);
  for (const size_t way : racing)
    for (size_t i = 0; i < rounds; ++i)
      mean[i] += std::log(seconds[way][i]) / static_cast<double>(racing.size());
  const auto score = [&](size_t way) {
    std::vector<double> beside(rounds);
    for (size_t i = 0; i < rounds; ++i) beside[i] = std::log(seconds[way][i]) - mean[i];
    return median(std::move(beside));
  };
  return *std::min_element(racing.begin(), racing.end(),
                           [&](size_t a, size_t b) { return score(a) < score(b); });
}

}  // namespace

RaceResult race(size_t num_ways, const std::function<double(size_t way)>& run, RaceRounds rounds) {
  WEFT_ASSERT(num_ways > 0 && rounds.least > 0 && rounds.most >= rounds.least);
  RaceResult result;
  result.seconds.resize(num_ways);
  std::vector<size_t> racing(num_ways);
  std::iota(racing.begin(), racing.end(), size_t{0});
  size_t best = 0;
  for (int round = 0; round < rounds.most; ++round) {
    for (size_t i = 0; i < racing.size(); ++i) {
      const size_t way = racing[(i + static_cast<size_t>(round)) % racing.size()];
      result.seconds[way].push_back(run(way));
    }
    if (round + 1 < rounds.least) continue;
    best = fastest(racing, result.seconds);
    std::erase_if(racing, [&](size_t way) {
      return way != best && is_behind(result.seconds[way], result.seconds[best]);
    });
    if (racing.size() == 1) break;
  }
  const std::vector<double> gain = differences(result.seconds[0], result.seconds[best]);
  const bool plain_is_out = std::find(racing.begin(), racing.end(), size_t{0}) == racing.end();
  result.winner = plain_is_out || median(gain) > standard_error(gain) / 2 ? best : 0;
  return result;
}

}  // namespace weft::parallel::flash_overlap
