#include "serve/job.h"

#include <utility>

namespace weft::serve {

void AnswerQueue::push(AnswerEvent event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  came_.notify_one();
}

bool AnswerQueue::wait(std::vector<AnswerEvent>& out, std::chrono::milliseconds patience) {
  out.clear();
  std::unique_lock lock(mutex_);
  came_.wait_for(lock, patience, [this] { return !events_.empty(); });
  out.swap(events_);
  return !out.empty();
}

const char* name(JobPhase phase) {
  switch (phase) {
    case JobPhase::kQueued:
      return "queued";
    case JobPhase::kPrefill:
      return "prefill";
    case JobPhase::kDecode:
      return "decode";
    case JobPhase::kDone:
      return "done";
  }
  return "";
}

}  // namespace weft::serve
