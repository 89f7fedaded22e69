#include "train/run_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"

namespace weft::train {
namespace {

using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

// Lines of steps up to `steps`; a last line that a crash cut short goes too.
std::string records_until(const std::filesystem::path& path, size_t steps) {
  std::string kept;
  if (steps == 0 || !std::filesystem::exists(path)) return kept;
  std::string text = read_file(path, size_t{1} << 32);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string line = text.substr(begin, end + 1 - begin);
    begin = end + 1;
    const ordered_json record = ordered_json::parse(line, nullptr, false);
    if (record.is_object() && record.contains("step") && record["step"].is_number_unsigned() &&
        record["step"].get<size_t>() <= steps)
      kept += line;
  }
  return kept;
}

// JSON has no NaN.
ordered_json number(double value, int digits) {
  if (!std::isfinite(value)) return nullptr;
  return std::stod(fmt::format("{:.{}g}", value, digits));
}

std::string minutes(double seconds) {
  const auto s = static_cast<long>(seconds + 0.5);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

RunLog::RunLog(const std::filesystem::path& path, size_t steps) : path_(path) {
  const std::string kept = records_until(path, steps);
  {
    AtomicFile file(path);
    file.write(kept);
    file.commit();
  }
  file_.reset(std::fopen(path.c_str(), "a"));
  if (!file_)
    fail(ErrorKind::kIo, "{}: cannot open for writing: {}", path.string(), std::strerror(errno));
}

void RunLog::add(const StepRecord& r) {
  const ordered_json line = {{"step", r.step},
                             {"tokens", r.tokens},
                             {"seconds", number(r.seconds, 8)},
                             {"loss", number(r.loss, 7)},
                             {"lr", number(r.lr, 6)},
                             {"grad_norm", number(r.grad_norm, 6)},
                             {"tokens_per_s", number(r.tokens_per_s, 6)}};
  fmt::print(file_.get(), "{}\n", line.dump());
}

void RunLog::add_evaluation(size_t step, double loss, const std::string& name) {
  const ordered_json line = {{"step", step}, {"eval_loss", number(loss, 7)}, {"eval_name", name}};
  fmt::print(file_.get(), "{}\n", line.dump());
  flush();
}

void RunLog::flush() { std::fflush(file_.get()); }

Console::Console() : terminal_(isatty(STDERR_FILENO) == 1), last_(Clock::now()) {}

Console::~Console() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Console::show(const StepRecord& r, double part_done, double seconds_left) {
  const auto now = Clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10);
  if (now - last_ < pause) return;
  last_ = now;
  const std::string line =
      fmt::format("step {} ({:.0f}%)  loss {:.4f}  lr {:.2e}  {:.0f} tokens/s  {} left", r.step,
                  part_done * 100, r.loss, r.lr, r.tokens_per_s, minutes(seconds_left));
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ ? "" : "\n");
  std::fflush(stderr);
  drawn_ = terminal_;
}

void Console::say(const std::string& line) {
  fmt::print(stderr, "{}{}\n", drawn_ ? "\r\033[K" : "", line);
  drawn_ = false;
}

}  // namespace weft::train
