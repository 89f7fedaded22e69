#include "train/run_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/terminal_line.h"

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

}  // namespace

std::string describe(std::span<const LayerRouting> layers) {
  if (layers.empty()) return "";
  const auto fullest =
      std::max_element(layers.begin(), layers.end(),
                       [](const auto& a, const auto& b) { return a.fullest < b.fullest; });
  double before = 0, token = 0, followers = 0;
  for (const LayerRouting& layer : layers) {
    if (layer.as_layer_before) before += *layer.as_layer_before, ++followers;
    token += layer.as_token_before / static_cast<double>(layers.size());
  }
  std::string out = fmt::format(
      "experts: the fullest has {:.2f} times its share (layer {}); {:.0f}% of the choices are the "
      "token before's",
      fullest->fullest, fullest->layer, token * 100);
  if (followers > 0)
    out +=
        fmt::format(", {:.0f}% those of the layer before in its group", before / followers * 100);
  return out;
}

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
  std::setvbuf(file_.get(), nullptr, _IONBF, 0);
}

RunLog::~RunLog() { flush(); }

void RunLog::add_line(const std::string& line) {
  constexpr size_t kMuch = 4096;
  waiting_ += line + "\n";
  if (waiting_.size() >= kMuch) flush();
}

void RunLog::add(const StepRecord& r) {
  const ordered_json line = {{"step", r.step},
                             {"tokens", r.tokens},
                             {"seconds", number(r.seconds, 8)},
                             {"loss", number(r.loss, 7)},
                             {"lr", number(r.lr, 6)},
                             {"grad_norm", number(r.grad_norm, 6)},
                             {"tokens_per_s", number(r.tokens_per_s, 6)}};
  add_line(line.dump());
}

void RunLog::add_evaluation(size_t step, double loss, const std::string& name) {
  const ordered_json line = {{"step", step}, {"eval_loss", number(loss, 7)}, {"eval_name", name}};
  add_line(line.dump());
  flush();
}

void RunLog::add_routing(size_t step, const std::string& name,
                         std::span<const LayerRouting> layers) {
  ordered_json list = ordered_json::array();
  for (const LayerRouting& layer : layers) {
    ordered_json entry = {{"layer", layer.layer},
                          {"fullest", number(layer.fullest, 4)},
                          {"emptiest", number(layer.emptiest, 4)}};
    if (layer.as_layer_before) entry["as_layer_before"] = number(*layer.as_layer_before, 4);
    entry["as_token_before"] = number(layer.as_token_before, 4);
    list.push_back(std::move(entry));
  }
  add_line(ordered_json{{"step", step}, {"routing_of", name}, {"layers", list}}.dump());
  flush();
}

void RunLog::flush() {
  waiting_.erase(0, std::fwrite(waiting_.data(), 1, waiting_.size(), file_.get()));
}

Console::Console() : terminal_(stderr_is_terminal()), last_(Clock::now()) {}

Console::~Console() {
  if (drawn_) clear_line();
}

void Console::show(const StepRecord& r, double part_done, double seconds_left) {
  const auto now = Clock::now();
  const auto pause = terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10);
  if (now - last_ < pause) return;
  last_ = now;
  const std::string line =
      fmt::format("step {} ({:.0f}%)  loss {:.4f}  lr {:.2e}  {:.0f} tokens/s  {} left", r.step,
                  part_done * 100, r.loss, r.lr, r.tokens_per_s, minutes(seconds_left));
  drawn_ = terminal_;
  if (terminal_)
    draw_line(line);
  else
    fmt::print(stderr, "{}\n", line);
}

void Console::say(const std::string& line) {
  if (std::exchange(drawn_, false)) clear_line();
  fmt::print(stderr, "{}\n", line);
}

}  // namespace weft::train
