#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iterator>

namespace weft::serve {
namespace {

void print_head(std::string& out, std::string_view name, std::string_view help, const char* type) {
  // A metric of several models is announced once.
  const std::string head = fmt::format("# TYPE {} {}\n", name, type);
  if (out.find(head) != std::string::npos) return;
  fmt::format_to(std::back_inserter(out), "# HELP {} {}\n{}", name, help, head);
}

void print_value(std::string& out, std::string_view name, std::string_view labels, double value) {
  if (labels.empty())
    fmt::format_to(std::back_inserter(out), "{} {}\n", name, value);
  else
    fmt::format_to(std::back_inserter(out), "{}{{{}}} {}\n", name, labels, value);
}

}  // namespace

void Histogram::add(double seconds) {
  if (!(seconds >= 0)) seconds = 0;  // NaN too
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  buckets_[static_cast<size_t>(bound - kBounds.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_us_.fetch_add(static_cast<uint64_t>(std::min(seconds, 1e9) * 1e6), std::memory_order_relaxed);
  count_.fetch_add(1, std::memory_order_relaxed);
}

double Histogram::quantile(double q) const {
  std::array<uint64_t, kBounds.size() + 1> counts;
  uint64_t total = 0;
  for (size_t i = 0; i < counts.size(); ++i) total += counts[i] = bucket(i);
  if (total == 0) return 0;
  const double wanted = q * static_cast<double>(total);
  double below = 0;
  for (size_t i = 0; i < kBounds.size(); ++i) {
    const auto here = static_cast<double>(counts[i]);
    if (here > 0 && below + here >= wanted) {
      const double low = i == 0 ? 0 : kBounds[i - 1];
      return low + (kBounds[i] - low) * std::clamp((wanted - below) / here, 0.0, 1.0);
    }
    below += here;
  }
  return kBounds.back();
}

namespace {

int64_t this_second() {
  using namespace std::chrono;
  return duration_cast<seconds>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

void Rate::add(uint64_t count) {
  if (count == 0) return;
  const int64_t now = this_second();
  const std::lock_guard lock(mutex_);
  Slot& slot = slots_[static_cast<size_t>(now) % slots_.size()];
  if (slot.second != now) slot = {now, 0};
  slot.count += count;
}

double Rate::per_second() const {
  const int64_t now = this_second();
  const std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (const Slot& slot : slots_)
    if (slot.second < now && slot.second + static_cast<int64_t>(kSeconds) >= now) sum += slot.count;
  return static_cast<double>(sum) / kSeconds;
}

void print_counter(std::string& out, std::string_view name, std::string_view help,
                   std::string_view labels, double value) {
  print_head(out, name, help, "counter");
  print_value(out, name, labels, value);
}

void print_gauge(std::string& out, std::string_view name, std::string_view help,
                 std::string_view labels, double value) {
  print_head(out, name, help, "gauge");
  print_value(out, name, labels, value);
}

void print_histogram(std::string& out, std::string_view name, std::string_view help,
                     std::string_view labels, const Histogram& histogram) {
  print_head(out, name, help, "histogram");
  const std::string comma = labels.empty() ? "" : ",";
  uint64_t below = 0;
  for (size_t i = 0; i <= Histogram::kBounds.size(); ++i) {
    below += histogram.bucket(i);
    const std::string bound =
        i < Histogram::kBounds.size() ? fmt::format("{}", Histogram::kBounds[i]) : "+Inf";
    print_value(out, fmt::format("{}_bucket", name),
                fmt::format("{}{}le=\"{}\"", labels, comma, bound), static_cast<double>(below));
  }
  print_value(out, fmt::format("{}_sum", name), labels, histogram.sum());
  print_value(out, fmt::format("{}_count", name), labels, static_cast<double>(below));
}

}  // namespace weft::serve
