// What a server counts, for Prometheus and the machine room. Thread-safe: counters only grow,
// readers see a value of a moment ago.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

namespace weft::serve {

// Durations in buckets, from 1 ms to 2 minutes in steps of about 1.6.
class Histogram {
 public:
  static constexpr std::array<double, 24> kBounds = {
      0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063, 0.1, 0.16,
      0.25,  0.4,    0.63,   1,     1.6,    2.5,  4,     6.3,   10,   25,    63,  120};

  void add(double seconds);
  uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  double sum() const { return static_cast<double>(sum_us_.load(std::memory_order_relaxed)) * 1e-6; }
  uint64_t bucket(size_t i) const { return buckets_[i].load(std::memory_order_relaxed); }
  // Linear inside a bucket; 0 when empty.
  double quantile(double q) const;

 private:
  std::array<std::atomic<uint64_t>, kBounds.size() + 1> buckets_{};  // the last: above all bounds
  std::atomic<uint64_t> count_{0}, sum_us_{0};
};

// Events per second, over the last few whole seconds.
class Rate {
 public:
  void add(uint64_t count);
  double per_second() const;

 private:
  static constexpr size_t kSeconds = 4;
  struct Slot {
    int64_t second = -1;
    uint64_t count = 0;
  };
  mutable std::mutex mutex_;  // guards slots_
  std::array<Slot, kSeconds + 1> slots_;
};

struct Metrics {
  using Counter = std::atomic<uint64_t>;
  Counter requests{0}, refused{0}, finished{0}, cancelled{0}, failed{0}, preemptions{0};
  Counter prompt_tokens{0};  // computed, not those found in the cache
  Counter reused_tokens{0};  // of prompts, found in the cache
  Counter generated_tokens{0};
  Counter steps{0};
  Counter vocab_steps{0};    // tokens that requests with a tailored vocabulary sampled
  Counter vocab_escapes{0};  // of these steps, those that looked beyond the set
  Counter vocab_misses{0};   // of those, those whose token was not in the set
  Rate prompt_rate, generated_rate;  // tokens
  Histogram queue;   // arrival to the first step that works on it
  Histogram ttft;    // arrival to first token
  Histogram tpot;    // mean gap of a request's later tokens, once it has ended
  Histogram gap;     // every gap between two tokens of a request
  Histogram e2e;     // arrival to end
};

// One metric in Prometheus' text format, with `labels` such as `model="smollm2"` or none.
void print_counter(std::string& out, std::string_view name, std::string_view help,
                   std::string_view labels, double value);
void print_gauge(std::string& out, std::string_view name, std::string_view help,
                 std::string_view labels, double value);
void print_histogram(std::string& out, std::string_view name, std::string_view help,
                     std::string_view labels, const Histogram& histogram);

}  // namespace weft::serve
