#include "base/progress.h"

#include <fmt/format.h>

#include "base/terminal_line.h"

namespace weft {
namespace {
using Clock = std::chrono::steady_clock;
constexpr auto kQuiet = std::chrono::seconds(2);
constexpr auto kRedraw = std::chrono::milliseconds(100);
}  // namespace

Progress::Progress(std::string label, size_t total, std::string unit)
    : label_(std::move(label)), unit_(std::move(unit)), total_(total),
      terminal_(stderr_is_terminal()), start_(Clock::now()), last_draw_(start_) {}

Progress::~Progress() {
  if (drawn_) clear_line();
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
  draw_line(fmt::format("{} {} {:3.0f}% {}/{} {} · {:.{}f} {}/s · {} left", label_, bar,
                        fraction * 100, done, total, unit_, rate, rate < 10 ? 1 : 0, unit_, left));
}

}  // namespace weft
