#include "base/interrupt.h"

#include <csignal>
#include <cstdlib>

#include "base/error.h"

namespace weft {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int signal) {
  if (interrupted.exchange(true)) std::_Exit(128 + signal);
}

}  // namespace

void StopToken::throw_if_stopped() const {
  if (stop_requested()) fail(ErrorKind::kCancelled, "stopped");
}

StopToken install_interrupt_handlers() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);  // no SA_RESTART: a blocked read of the prompt ends too
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return StopToken(&interrupted);
}

void reset_interrupt() { interrupted.store(false); }

}  // namespace weft
