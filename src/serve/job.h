// One answer in the making: what the front (HTTP threads, the bench) and an executor share.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/error.h"
#include "text/decoder.h"
#include "text/generate.h"

namespace weft::serve {

using Clock = std::chrono::steady_clock;

// What an executor says about one choice of a request.
struct AnswerEvent {
  size_t choice = 0;
  std::optional<text::Sampled> token = {};          // a new token, or
  std::optional<text::FinishReason> finished = {};  // the end; nothing follows for this choice
  std::optional<Error> error = {};                  // ... which an error brought about
};

// Tokens on their way from an executor to the thread that writes them out; all choices of one
// request share one. It cannot overflow: a choice has at most max_tokens events and an end, so a
// client that reads slowly never holds up an executor. Thread-safe.
class AnswerQueue {
 public:
  void push(AnswerEvent event);
  // Moves what has come since the last call to `out` (cleared first), waiting up to `patience` for
  // something to come. False: nothing came.
  bool wait(std::vector<AnswerEvent>& out, std::chrono::milliseconds patience);

 private:
  std::mutex mutex_;  // guards events_
  std::condition_variable came_;
  std::vector<AnswerEvent> events_;
};

enum class JobPhase : uint8_t { kQueued, kPrefill, kDecode, kDone };
const char* name(JobPhase phase);  // "queued", "prefill", "decode", "done"

// One choice of a request. The front fills the first part and submits; then the executor alone
// touches `decode`. The atomics are for onlookers.
struct Job {
  text::RequestId id = 0;  // unique in the process
  size_t choice = 0;
  text::DecodeRequest decode;
  bool stop_at_end = true;  // false: end tokens are tokens like others (benches of given lengths)
  std::shared_ptr<AnswerQueue> answers;
  Clock::time_point arrival = Clock::now();

  // Asks the executor to drop the job; it does so before its next step. May be set by anyone, and
  // is followed by a `finished` event with kCancelled unless the job has ended already.
  std::atomic<bool> cancelled{false};

  std::atomic<JobPhase> phase{JobPhase::kQueued};
  size_t prompt_tokens = 0;                  // set by the front
  std::atomic<size_t> prompt_done{0};        // in the cache
  std::atomic<size_t> reused_tokens{0};      // of the prompt, found in the cache
  std::atomic<size_t> generated{0};
  std::atomic<size_t> preemptions{0};
  // Bytes of its keys and values in 16, 8, 4 and 2 bit, and of metadata (text::KvUsage).
  std::array<std::atomic<size_t>, 4> kv_code_bytes{};
  std::atomic<size_t> kv_meta_bytes{0};
  // Of a tailored vocabulary (text::VocabUse); size 0: the whole one, untailored.
  std::atomic<size_t> vocab_size{0}, vocab_static{0}, vocab_dynamic{0};
  std::atomic<size_t> vocab_escapes{0}, vocab_misses{0}, vocab_screened{0}, vocab_rejected{0};
  std::atomic<bool> vocab_whole{false};
  // Seconds since arrival, negative: not yet.
  std::atomic<double> started_s{-1}, first_token_s{-1}, last_token_s{-1};
  std::atomic<double> longest_gap_s{0};  // between two tokens

  double age_s() const { return std::chrono::duration<double>(Clock::now() - arrival).count(); }
};

}  // namespace weft::serve
