#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace weft {
namespace {
using Clock = std::chrono::steady_clock;
constexpr auto kQuiet = std::chrono::seconds(2);
constexpr auto kRedraw = std::chrono::milliseconds(100);

std::string minutes(double seconds) {
  const auto s = static_cast<long>(seconds + 0.5);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}
}  // namespace

Progress::Progress(std::string label, size_t total, std::string unit)
    : label_(std::move(label)), unit_(std::move(unit)), total_(total),
      terminal_(isatty(STDERR_FILENO) == 1), start_(Clock::now()), last_draw_(start_) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Progress::set(size_t done) {
  done_.store(done);
  if (!terminal_) return;
  const auto now = Clock::now();
  if (now - start_ < kQuiet) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);  // somebody else is drawing: good enough
  if (!lock || now - last_draw_ < kRedraw) return;
  last_draw_ = now;
  drawn_ = true;
  draw(done, std::chrono::duration<double>(now - start_).count());
}

void Progress::draw(size_t done, double seconds) {
  const size_t total = total_.load();
  const double fraction = total == 0 ? 0 : static_cast<double>(done) / static_cast<double>(total);
  const double rate = static_cast<double>(done) / seconds;
  std::string bar;
  constexpr size_t kWidth = 24;
  for (size_t i = 0; i < kWidth; ++i)
    bar += static_cast<double>(i) < fraction * kWidth ? "█" : "░";
  std::string left = rate > 0 && total >= done
                         ? minutes(static_cast<double>(total - done) / rate)
                         : std::string("?");
  fmt::print(stderr, "\r\033[K{} {} {:3.0f}% {}/{} {} · {:.{}f} {}/s · {} left", label_, bar,
             fraction * 100, done, total, unit_, rate, rate < 10 ? 1 : 0, unit_, left);
  std::fflush(stderr);
}

}  // namespace weft
