// What a run tells: log.jsonl (one JSON object a line, which train/report.h draws), and a line on
// the terminal.
//   {"step": 12, "tokens": 196608, "seconds": 3.1, "loss": 2.31, "lr": 0.001, "grad_norm": 0.8,
//    "tokens_per_s": 63000}
//   {"step": 200, "eval_loss": 1.93, "eval_name": "held-out.jsonl"}
//   {"step": 200, "routing_of": "held-out.jsonl", "layers": [{"layer": 2, "fullest": 1.4,
//    "emptiest": 0.7, "as_layer_before": 0.31, "as_token_before": 0.45}, ...]}     (mixtures)
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace weft::train {

struct StepRecord {
  size_t step = 0;    // counted from 1
  size_t tokens = 0;  // of all steps so far
  double seconds = 0, loss = 0, lr = 0, grad_norm = 0, tokens_per_s = 0;
};

// What a mixture layer's router chose on held-out data.
struct LayerRouting {
  size_t layer = 0;
  // The tokens of its fullest and its emptiest expert, over the mean of all.
  double fullest = 0, emptiest = 0;
  // Part of its choices that the layer before, of the same group of layers, made too (the first of
  // a group has none); part that the token before made.
  std::optional<double> as_layer_before{};
  double as_token_before = 0;
};
std::string describe(std::span<const LayerRouting> layers);  // in a line

class RunLog {
 public:
  // Goes on behind the records of the first `steps` steps; those that come after are forgotten.
  // kIo.
  RunLog(const std::filesystem::path& path, size_t steps);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;
  void add(const StepRecord& record);
  void add_evaluation(size_t step, double loss, const std::string& name);
  void add_routing(size_t step, const std::string& name, std::span<const LayerRouting> layers);
  void flush();  // what a full disk does not take is tried again the next time

 private:
  void add_line(const std::string& line);
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
  std::string waiting_;  // to be written
};

// Loss, tokens per second and time left: a line that is drawn over on a terminal, else one line
// every ten seconds. On stderr.
class Console {
 public:
  Console();
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  void show(const StepRecord& record, double part_done, double seconds_left);
  void say(const std::string& line);  // a line that stays

 private:
  const bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace weft::train
