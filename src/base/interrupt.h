// Ctrl-C and SIGTERM: the first asks the running work to stop at its next safe point, the second
// ends the process at once.
#pragma once

#include <atomic>

namespace weft {

// Looked at between tokens, tensors and files. A default-made token never stops.
class StopToken {
 public:
  StopToken() = default;
  explicit StopToken(const std::atomic<bool>* flag) : flag_(flag) {}
  bool stop_requested() const { return flag_ != nullptr && flag_->load(std::memory_order_relaxed); }
  void throw_if_stopped() const;  // kCancelled

 private:
  const std::atomic<bool>* flag_ = nullptr;
};

// Installs the handlers (once per process, by the program, never by the library).
StopToken install_interrupt_handlers();
void reset_interrupt();  // a chat that was stopped mid-answer goes on with the next question

}  // namespace weft
