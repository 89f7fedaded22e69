#include "trainer/bench.h"

#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/file.h"
#include "base/random.h"
#include "base/seconds.h"
#include "base/thread_pool.h"
#include "train/batch.h"
#include "trainer/adamw.h"
#include "trainer/device.h"
#include "trainer/model.h"

namespace weft::trainer {
namespace {

using Clock = std::chrono::steady_clock;

// Waits for a GPU: a value must come back.
void finish(const Tensor& result) { result.reshape(-1).narrow(0, 0, 1).to(at::kCPU); }

double seconds_of(const std::function<Tensor()>& work) {
  const auto start = Clock::now();
  finish(work());
  return seconds_since(start);
}

// Median of `rounds` after one that warms up.
double median_of(size_t rounds, const std::function<Tensor()>& work) {
  seconds_of(work);
  std::vector<double> times;
  for (size_t i = 0; i < rounds; ++i) times.push_back(seconds_of(work));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

struct Product {
  const char* name;
  int64_t out, in, count;  // of the model's layers
};

// Forward, and the gradients of input and weight, as training computes them.
struct ProductTime {
  double seconds = 0, flops = 0;
};
ProductTime time_product(const Product& p, int64_t rows, size_t rounds,
                         const at::TensorOptions& o) {
  const Tensor x = at::randn({rows, p.in}, o), w = at::randn({p.out, p.in}, o);
  const Tensor g = at::randn({rows, p.out}, o);
  const double seconds = median_of(rounds, [&] { return x.mm(w.t()); }) +
                         median_of(rounds, [&] { return g.mm(w); }) +
                         median_of(rounds, [&] { return g.t().mm(x); });
  return {seconds * static_cast<double>(p.count),
          6.0 * static_cast<double>(rows * p.in * p.out * p.count)};
}

train::Batch make_sequences(const BenchOptions& options, size_t vocab_size) {
  std::vector<train::Example> examples(
      std::max<size_t>(1, options.batch_tokens / options.sequence));
  for (size_t i = 0; i < examples.size(); ++i) {
    for (size_t t = 0; t <= options.sequence; ++t)
      examples[i].tokens.push_back(static_cast<int32_t>(uniform(1, i, static_cast<uint32_t>(t)) *
                                                        static_cast<double>(vocab_size)));
    examples[i].learn.assign(options.sequence + 1, 1);
  }
  return train::make_batch(examples, 8);
}

}  // namespace

void bench(const BenchOptions& options) {
  const size_t threads = options.threads == 0 ? available_cores() : options.threads;
  set_num_threads(threads);
  const at::Device device = choose_device(options.device);
  const at::ScalarType type = options.dtype == "bf16" ? at::kBFloat16 : at::kFloat;
  const at::TensorOptions o = at::TensorOptions(device).dtype(type);
  constexpr size_t kVocab = 512;

  train::Config config;
  config.context = options.sequence;
  config.model.num_hidden_layers = 6;
  config.model.hidden_size = 256;
  config.model.num_attention_heads = 8;
  config.model.num_key_value_heads = 4;
  config.model.intermediate_size = 704;
  const train::ModelShape shape = train::shape_of(config, kVocab);
  const train::ParameterTable table = train::parameters_of(shape);
  Model model(shape, train::random_weights(shape, table, 1), device, type);
  AdamW optimizer(model.master(), {.decayed = static_cast<int64_t>(table.first_vector)});
  Tensor gradient = at::zeros_like(model.master());
  const Inputs inputs = model.to_device(make_sequences(options, kVocab));
  const auto rows = inputs.tokens.size(0);
  const double step = median_of(options.steps, [&] {
    const Tensor loss = model.loss(inputs, 1 / static_cast<double>(inputs.num_targets()));
    torch::autograd::backward({loss}, {});
    model.collect_gradients(gradient);
    optimizer.step(model.master(), gradient, 1e-3);
    gradient.zero_();
    model.refresh();
    return loss.detach();
  });

  const at::NoGradGuard no_grad;
  const int64_t large = 2048;
  const Tensor a = at::randn({2 * large, large}, o), b = at::randn({large, large}, o);
  const double peak = 4.0 * static_cast<double>(large * large * large) /
                      median_of(options.steps, [&] { return a.mm(b.t()); });
  const Product products[] = {{"qkv", 512, 256, 6},
                              {"attention output", 256, 256, 6},
                              {"gate and up", 1408, 256, 6},
                              {"down", 256, 704, 6},
                              {"head", static_cast<int64_t>(kVocab), 256, 1}};
  double seconds = 0, flops = 0;
  nlohmann::ordered_json report = {{"device", device.str()}, {"threads", threads},
                                   {"dtype", options.dtype}, {"parameters", table.count()},
                                   {"rows", rows},           {"sequence", options.sequence}};
  fmt::print("{} with {:.1f} M parameters, {} rows in sequences of {}, {}, {} threads\n",
             device.str(), static_cast<double>(table.count()) / 1e6, rows, options.sequence,
             options.dtype, threads);
  fmt::print("{:<26} {:>10} {:>10} {:>8}\n", "", "ms a step", "GFLOP/s", "of peak");
  for (const Product& p : products) {
    const ProductTime t = time_product(p, rows, options.steps, o);
    seconds += t.seconds;
    flops += t.flops;
    fmt::print("{:<26} {:>10.1f} {:>10.1f} {:>7.0f}%\n", p.name, t.seconds * 1e3,
               t.flops / t.seconds * 1e-9, t.flops / t.seconds / peak * 100);
  }
  const double tokens_per_s = static_cast<double>(rows) / step;
  fmt::print("{:<26} {:>10.1f} {:>10.1f} {:>7.0f}%\n", "all products", seconds * 1e3,
             flops / seconds * 1e-9, flops / seconds / peak * 100);
  fmt::print("{:<26} {:>10} {:>10.1f} {:>7.0f}%\n", "large product (the peak)", "", peak * 1e-9,
             100.0);
  fmt::print("{:<26} {:>10.1f} {:>10.1f} {:>7.0f}%\n", "whole step", step * 1e3,
             flops / step * 1e-9, flops / step / peak * 100);
  fmt::print("{:.0f} tokens/s; products take {:.0f} % of a step\n", tokens_per_s,
             seconds / step * 100);
  if (options.json_file.empty()) return;
  report.update({{"tokens_per_s", tokens_per_s},
                 {"step_ms", step * 1e3},
                 {"products_ms", seconds * 1e3},
                 {"products_gflops", flops / seconds * 1e-9},
                 {"peak_gflops", peak * 1e-9},
                 {"products_of_peak", flops / seconds / peak},
                 {"step_of_peak", flops / step / peak}});
  AtomicFile file(options.json_file);
  file.write(report.dump(2) + "\n");
  file.commit();
}

}  // namespace weft::trainer
