#include "bench/serve_load.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"

namespace weft::bench {
namespace {

// Draws of request number `request`, one after another.
class Draws {
 public:
  Draws(uint64_t seed, size_t request) : seed_(seed), request_(request) {}

  double uniform() { return weft::uniform(seed_, request_, next_++); }
  double normal() {  // Box and Muller
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }
  double lognormal(double median, double sigma) { return median * std::exp(sigma * normal()); }
  // Mean 1 (Marsaglia and Tsang, 2000).
  double gamma(double cv) {
    const double shape = 1 / (cv * cv);
    const double boost = shape < 1 ? std::pow(1 - uniform(), 1 / shape) : 1;
    const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3, c = 1 / std::sqrt(9 * d);
    while (true) {
      const double x = normal(), v = std::pow(1 + c * x, 3);
      if (v > 0 && std::log(1 - uniform()) < 0.5 * x * x + d - d * v + d * std::log(v))
        return boost * d * v / shape;
    }
  }

 private:
  uint64_t seed_, request_;
  uint32_t next_ = 0;
};

struct Lengths {
  double prompt, answer;
};

Lengths draw_lengths(const std::string& shape, Draws& draws) {
  const auto chat = [&]() -> Lengths {
    return {draws.lognormal(120, 1.2), draws.lognormal(150, 0.9)};
  };
  if (shape == "chat") return chat();
  if (shape == "long") return {draws.lognormal(1500, 0.5), draws.lognormal(60, 0.8)};
  if (shape == "math") return {70, draws.lognormal(400, 0.8)};
  if (shape == "mix") {
    if (draws.uniform() >= 0.05) return chat();
    return {draws.lognormal(4000, 0.1), draws.lognormal(150, 0.9)};
  }
  fail(ErrorKind::kInvalidInput,
       "a load of shape '{}': take chat, long, math or mix; the file of a trace is --trace FILE", shape);
}

std::vector<Lengths> read_trace(const std::filesystem::path& path) {
  constexpr size_t kLargest = size_t{256} << 20;
  std::istringstream lines(read_file(path, kLargest));
  std::vector<Lengths> out;
  size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    Lengths lengths{-1, -1};
    if (line.starts_with("{")) {
      const auto row = nlohmann::json::parse(line, nullptr, false);
      if (row.is_object()) {
        lengths.prompt = row.value("input_length", -1.0);
        lengths.answer = row.value("output_length", -1.0);
      }
    } else if (number > 1) {
      const size_t last = line.rfind(','), first = line.rfind(',', last - 1);
      if (first != std::string::npos && last != first)
        lengths = {std::strtod(line.c_str() + first + 1, nullptr),
                   std::strtod(line.c_str() + last + 1, nullptr)};
    } else {
      continue;  // the column names
    }
    if (!(lengths.prompt >= 0) || !(lengths.answer >= 0))
      fail(ErrorKind::kInvalidInput, "{}: line {} has no lengths of prompt and answer",
           path.string(), number);
    out.push_back(lengths);
  }
  if (out.empty()) fail(ErrorKind::kInvalidInput, "{}: the trace is empty", path.string());
  return out;
}

}  // namespace

std::vector<LoadRequest> make_load(const LoadOptions& o) {
  if (!(o.rate > 0) || !(o.divide_lengths > 0) || !(o.arrival_cv > 0) || !(o.step > 0))
    fail(ErrorKind::kInvalidInput, "a load needs a rate, lengths, an arrival_cv and a step above 0");
  std::vector<Lengths> trace;
  if (!o.trace.empty()) trace = read_trace(o.trace);
  std::vector<LoadRequest> load;
  double time_s = 0;
  for (size_t i = 0; i < o.count; ++i) {
    Draws draws(o.seed, i);
    time_s += draws.gamma(o.arrival_cv) / (o.rate * (i >= o.count / 2 ? o.step : 1));
    const Lengths lengths = trace.empty()
                                ? draw_lengths(o.shape, draws)
                                : trace[(i + o.seed * o.count) % trace.size()];
    const auto tokens = [&](double length, size_t most) {
      return static_cast<size_t>(
          std::clamp(length / o.divide_lengths, 1.0, static_cast<double>(most)));
    };
    LoadRequest& request = load.emplace_back();
    request.arrival_s = time_s;
    request.answer_tokens = tokens(lengths.answer, o.max_tokens / 2);
    request.prompt_tokens = tokens(lengths.prompt, o.max_tokens - request.answer_tokens);
  }
  return load;
}

}  // namespace weft::bench
