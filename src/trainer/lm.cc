#include "trainer/lm.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <chrono>
#include <cmath>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/seconds.h"
#include "base/thread_pool.h"
#include "formats/quant_mix.h"
#include "train/batch.h"
#include "train/export.h"
#include "train/report.h"
#include "train/run_log.h"
#include "train/schedule.h"
#include "train/snapshot.h"
#include "train/task_source.h"
#include "trainer/adamw.h"
#include "trainer/device.h"
#include "trainer/model.h"

namespace weft::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using train::Batch;
using Clock = std::chrono::steady_clock;

constexpr size_t kEvaluationExamples = 1024, kEvaluationPasses = 16;  // at most, of held-out data
constexpr size_t kBadStepsInARow = 3;
constexpr size_t kCheckpointsKept = 2;

// What a model is trained from: files, or nothing.
struct Beginning {
  std::shared_ptr<const formats::Checkpoint> from;  // none: from scratch
  std::string tokenizer_path;
  std::unique_ptr<formats::Tokenizer> tokenizer;
  std::optional<std::string> chat_template;
  train::ModelShape shape;
};

std::optional<std::string> chat_template_beside(const fs::path& tokenizer) {
  if (!fs::is_directory(tokenizer)) return formats::open_checkpoint(tokenizer)->chat_template();
  if (fs::exists(tokenizer / "chat_template.jinja"))
    return read_file(tokenizer / "chat_template.jinja");
  const fs::path config = tokenizer / "tokenizer_config.json";
  if (!fs::exists(config)) return std::nullopt;
  const ordered_json parsed = ordered_json::parse(read_file(config), nullptr, false);
  const auto found = parsed.is_object() ? parsed.find("chat_template") : parsed.end();
  if (found == parsed.end() || !found->is_string()) return std::nullopt;
  return found->get<std::string>();
}

Beginning begin(const train::Config& config) {
  Beginning b;
  if (!config.init.empty()) b.from = formats::open_checkpoint(config.init);
  b.tokenizer_path = config.tokenizer.empty() ? config.init : config.tokenizer;
  b.tokenizer = formats::load_tokenizer(b.tokenizer_path);
  b.chat_template = chat_template_beside(b.tokenizer_path);
  b.shape = b.from ? train::shape_of(*b.from) : train::shape_of(config, b.tokenizer->vocab_size());
  if (b.tokenizer->vocab_size() > b.shape.vocab_size)
    fail(ErrorKind::kInvalidInput, "{}: has {} tokens, but the model's vocabulary is {}",
         b.tokenizer_path, b.tokenizer->vocab_size(), b.shape.vocab_size);
  return b;
}

// A step whose numbers may still be on the device.
struct PendingStep {
  train::StepRecord record;
  at::Tensor loss, report;     // scalar; see AdamW::step
  std::vector<Batch> batches;  // to show if it went wrong
};

class Run {
 public:
  Run(const train::Config& config, const RunOptions& options, StopToken stop);
  void train();

 private:
  void resume();
  void step();
  void read_back();
  void dump(const PendingStep& pending);
  void update_router_bias(const at::Tensor& report);
  void evaluate();
  double evaluation_loss(const train::ExampleSource& source, uint64_t count);
  void write_report();
  void save_checkpoint();
  bool wrote(const char* what, const std::function<void()>& write);
  void export_model();
  std::vector<float> host(const at::Tensor& tensor) const;
  void restore(at::Tensor& tensor, const std::vector<float>& values);
  double seconds() const { return seconds_before_ + seconds_since(start_); }
  double done() const { return train::part_done(config_, step_, seconds()); }

  const train::Config config_;
  const RunOptions options_;
  const StopToken stop_;
  const fs::path folder_;
  Beginning beginning_;
  at::Device device_;
  std::optional<Model> model_;
  std::optional<AdamW> optimizer_;
  at::Tensor gradient_;
  train::Sources data_;
  std::vector<std::pair<std::string, train::Sources>> held_out_;
  std::optional<train::BatchLoader> loader_;
  std::optional<train::RunLog> log_;
  train::Console console_;

  size_t step_ = 0, tokens_ = 0, bad_in_a_row_ = 0;
  size_t last_tried_ = 0;  // to write a checkpoint of
  uint64_t next_example_ = 0;
  std::optional<double> best_loss_;  // of the weights in best.weft
  std::optional<double> last_loss_;  // of those that were evaluated last, where it is a number
  double seconds_before_ = 0;
  Clock::time_point start_;
  std::deque<PendingStep> pending_;
  Clock::time_point last_read_;
  size_t tokens_at_last_read_ = 0;
};

Run::Run(const train::Config& config, const RunOptions& options, StopToken stop)
    : config_(config),
      options_(options),
      stop_(stop),
      folder_(config.out),
      beginning_(begin(config)),
      device_(choose_device(config.device)) {
  // Two runs' checkpoints would be taken for one's.
  if (const auto steps = train::checkpoint_steps(folder_); !options.resume && !steps.empty())
    fail(ErrorKind::kInvalidInput,
         "{}: holds the checkpoints of an earlier run (the last is of step {}). Go on with it by "
         "--resume, name another folder with 'out', or delete this one.",
         folder_.string(), steps.front());
  if (config.gguf != "none") formats::quant_mix(config.gguf);  // refused now rather than at the end
  const size_t cores = config.threads == 0 ? available_cores() : config.threads;
  set_num_threads(cores);

  const train::ExampleFormat format{beginning_.tokenizer.get(), beginning_.chat_template,
                                    config.context};
  data_ = train::open_sources(config.data, format, config.seed, train::open_task);
  for (const std::string& name : config.eval)
    held_out_.emplace_back(name,
                           train::open_sources({name}, format, config.seed, train::open_task));
  if (data_.num_cut != 0)
    console_.say(fmt::format("{} of {} examples are longer than the context of {} and were cut",
                             data_.num_cut, data_.num_file_examples, config.context));

  const train::ParameterTable table = train::parameters_of(beginning_.shape);
  const train::Weights weights =
      beginning_.from ? train::read_weights(*beginning_.from, beginning_.shape, table)
                      : train::random_weights(beginning_.shape, table, config.seed);
  model_.emplace(beginning_.shape, weights, device_,
                 config.dtype == "bf16" ? at::kBFloat16 : at::kFloat);
  optimizer_.emplace(model_->master(),
                     AdamWOptions{.weight_decay = config.weight_decay,
                                  .decayed = static_cast<int64_t>(table.first_vector)});
  gradient_ = at::zeros_like(model_->master());
  fs::create_directories(folder_);
  // What could not be written at the end is refused now.
  train::write_tokenizer(beginning_.tokenizer_path, folder_ / "model");
  train::hf_config(beginning_.shape, beginning_.from.get(), true);
  if (options.resume) resume();
  last_tried_ = step_;
  log_.emplace(folder_ / "log.jsonl", step_);
  loader_.emplace(
      *data_.source,
      train::BatchLoader::Options{
          .rows = config.batch_tokens / config.accumulate,
          .num_threads = device_.is_cpu() ? 1 : std::max<size_t>(1, std::min<size_t>(8, cores / 2)),
          .first_example = next_example_});
  console_.say(fmt::format("{} with {:.2f} M parameters on {} ({} threads), {} products, into {}",
                           beginning_.shape.architecture, static_cast<double>(table.count()) / 1e6,
                           device_.str(), cores, config.dtype, folder_.string()));
}

void Run::train() {
  start_ = last_read_ = Clock::now();
  tokens_at_last_read_ = tokens_;
  while (done() < 1) {
    if (stop_.stop_requested()) {
      read_back();
      save_checkpoint();
      fail(ErrorKind::kCancelled, "stopped after step {}. To go on: {} --resume", step_,
           options_.command);
    }
    step();
    // A CPU has its numbers at once; a GPU is asked now and then, so that it never waits for us.
    if (device_.is_cpu() || pending_.size() >= 16) read_back();
    if (step_ % config_.eval_every == 0) evaluate();
    if (step_ % config_.checkpoint_every == 0) save_checkpoint();
  }
  read_back();
  if (step_ % config_.eval_every != 0) evaluate();
  if (last_tried_ != step_) save_checkpoint();
  export_model();
}

// One optimiser step: the gradient of the mean loss over all targets of its batches.
void Run::step() {
  PendingStep& pending = pending_.emplace_back();
  std::vector<Inputs> inputs;
  int64_t num_targets = 0;
  for (size_t i = 0; i < config_.accumulate; ++i) {
    std::optional<Batch> batch = loader_->next();
    WEFT_ASSERT(batch.has_value());  // sources that are trained on never end
    inputs.push_back(model_->to_device(*batch));
    num_targets += inputs.back().num_targets();
    tokens_ += batch->num_tokens;
    next_example_ = batch->end_example;
    pending.batches.push_back(std::move(*batch));
  }
  const double rate =
      config_.lr * train::rate_at(config_, train::part_done(config_, step_ + 1, seconds()));
  const bool is_mixture = model_->shape().num_experts != 0;
  for (const Inputs& in : inputs) {
    at::Tensor balance;
    const at::Tensor loss =
        model_->loss(in, 1 / static_cast<double>(std::max<int64_t>(1, num_targets)),
                     config_.router_aux_loss > 0 && is_mixture ? &balance : nullptr);
    const double aux = config_.router_aux_loss / static_cast<double>(config_.accumulate);
    torch::autograd::backward({balance.defined() ? loss + balance * aux : loss}, {});
    pending.loss = pending.loss.defined() ? pending.loss + loss.detach() : loss.detach();
    model_->collect_gradients(gradient_);
  }
  pending.report = optimizer_->step(model_->master(), gradient_, rate);
  gradient_.zero_();
  model_->refresh();
  if (is_mixture) update_router_bias(pending.report);
  ++step_;
  pending.record.step = step_;
  pending.record.tokens = tokens_;
  pending.record.lr = rate;
  pending.record.seconds = seconds();
}

// Loss-free balancing (arXiv 2408.15664; DeepSeek-V3): an expert that got less than its share is
// chosen a little more easily from now on. Off in the last tenth, so that routing settles.
void Run::update_router_bias(const at::Tensor& report) {
  const at::NoGradGuard no_grad;
  const at::Tensor loads = model_->take_loads();
  if (config_.router_bias_rate == 0 || done() > 0.9) return;
  const at::Tensor direction = (loads.mean(1, true) - loads).sign_();
  model_->router_bias().add_(direction.mul_(report[1]).mul_(config_.router_bias_rate));
}

void Run::read_back() {
  if (pending_.empty()) return;
  std::vector<at::Tensor> values;
  for (const PendingStep& p : pending_)
    values.push_back(at::cat({p.loss.to(at::kFloat).view({1}), p.report}));
  const at::Tensor on_host = at::stack(values).to(at::kCPU);  // (steps, 3)
  const auto now = Clock::now();
  const double speed = static_cast<double>(tokens_ - tokens_at_last_read_) /
                       std::chrono::duration<double>(now - last_read_).count();
  last_read_ = now;
  tokens_at_last_read_ = tokens_;
  const float* row = on_host.data_ptr<float>();
  for (; !pending_.empty(); pending_.pop_front(), row += 3) {
    PendingStep& p = pending_.front();
    p.record.loss = row[0];
    p.record.grad_norm = row[1];
    p.record.tokens_per_s = speed;
    log_->add(p.record);
    if (row[2] != 0 && std::isfinite(row[0])) {
      bad_in_a_row_ = 0;
      const double part = std::min(1.0, done());
      console_.show(p.record, part, part > 0 ? seconds() * (1 - part) / part : 0);
      continue;
    }
    ++bad_in_a_row_;
    dump(p);
    if (bad_in_a_row_ == kBadStepsInARow) {
      log_->flush();
      fail(ErrorKind::kOutOfResources,
           "{} steps in a row had no finite loss and gradient (the last is step {}). The weights "
           "are "
           "those before them; their batches are in {}. Lower lr, or look at the data.",
           kBadStepsInARow, p.record.step, folder_.string());
    }
  }
}

// The batch of a step that went wrong, to be looked at: bad-step-N.jsonl, a sequence a line.
void Run::dump(const PendingStep& pending) {
  const fs::path path = folder_ / fmt::format("bad-step-{}.jsonl", pending.record.step);
  const bool written = wrote("batch to look at", [&] {
    AtomicFile file(path);
    for (const Batch& batch : pending.batches) {
      size_t row = 0;
      for (const train::Bucket& bucket : batch.buckets)
        for (size_t i = 0; i < bucket.num_sequences; ++i, row += bucket.length) {
          std::vector<formats::Token> tokens;
          for (size_t r = row; r < row + bucket.length && batch.is_token[r] != 0; ++r)
            tokens.push_back(batch.tokens[r]);
          if (tokens.empty()) continue;
          file.write(
              ordered_json{{"tokens", tokens}, {"text", beginning_.tokenizer->decode(tokens, true)}}
                  .dump(-1, ' ', false, ordered_json::error_handler_t::replace) +
              "\n");
        }
    }
    file.commit();
  });
  console_.say(fmt::format("step {}: loss {}, gradient norm {}: skipped{}", pending.record.step,
                           pending.record.loss, pending.record.grad_norm,
                           written ? "; its batch is in " + path.string() : ""));
}

double Run::evaluation_loss(const train::ExampleSource& source, uint64_t count) {
  const at::NoGradGuard no_grad;
  train::BatchLoader loader(
      source, {.rows = config_.batch_tokens / config_.accumulate, .num_examples = count});
  double total = 0;
  int64_t num_targets = 0;
  for (size_t pass = 0; pass < kEvaluationPasses; ++pass) {
    const auto batch = loader.next();
    if (!batch) break;
    const Inputs inputs = model_->to_device(*batch);
    total += model_->loss(inputs, 1).item<double>();
    num_targets += inputs.num_targets();
  }
  return total / static_cast<double>(std::max<int64_t>(1, num_targets));
}

// The first source decides which weights are the best.
void Run::evaluate() {
  read_back();
  for (size_t i = 0; i < held_out_.size(); ++i) {
    const auto& [name, sources] = held_out_[i];
    const uint64_t size = sources.source->size();
    const uint64_t count =
        size == 0 ? kEvaluationExamples : std::min<uint64_t>(size, kEvaluationExamples);
    std::optional<RoutingCounts> routing;
    if (model_->shape().num_experts != 0) routing.emplace(model_->shape(), device_);
    model_->count_routing(routing ? &*routing : nullptr);
    const double loss = evaluation_loss(*sources.source, count);
    model_->count_routing(nullptr);
    log_->add_evaluation(step_, loss, name);
    console_.say(fmt::format("step {}: loss {:.4f} on {}", step_, loss, name));
    if (routing) {
      const auto layers = routing->layers();
      log_->add_routing(step_, name, layers);
      console_.say("  " + train::describe(layers));
    }
    if (i != 0) continue;
    last_loss_ = std::isfinite(loss) ? std::optional(loss) : std::nullopt;
    if (!last_loss_ || (best_loss_ && loss >= *best_loss_)) continue;
    const bool kept = wrote("best weights", [&] {
      train::write_snapshot(
          folder_ / "best.weft", {{"step", step_}, {"loss", loss}},
          {{"weights", host(model_->master())}, {"router_bias", host(model_->router_bias())}});
    });
    if (kept) best_loss_ = loss;
  }
  write_report();
  last_read_ = Clock::now();
}

void Run::write_report() {
  log_->flush();
  wrote("report", [&] { train::write_report(folder_, train::print_config(config_)); });
}

// Where the disk is full the run itself is well: it goes on.
bool Run::wrote(const char* what, const std::function<void()>& write) {
  try {
    write();
    return true;
  } catch (const Error& error) {
    console_.say(fmt::format("no {} at step {}: {}", what, step_, error.what()));
    return false;
  }
}

std::vector<float> Run::host(const at::Tensor& tensor) const {
  const at::Tensor values = tensor.detach().to(at::kCPU).to(at::kFloat).contiguous();
  const float* const data = values.data_ptr<float>();
  return {data, data + values.numel()};
}

void Run::restore(at::Tensor& tensor, const std::vector<float>& values) {
  const at::NoGradGuard no_grad;
  if (values.size() != static_cast<size_t>(tensor.numel()))
    fail(
        ErrorKind::kInvalidInput,
        "{}: its checkpoint is of a model with {} parameters, the config's has {}. Resume with the "
        "config that the run began with, or name another 'out'.",
        folder_.string(), values.size(), tensor.numel());
  tensor.copy_(at::from_blob(const_cast<float*>(values.data()), tensor.sizes(), at::kFloat));
}

void Run::save_checkpoint() {
  last_tried_ = step_;
  const ordered_json state = {
      {"step", step_},
      {"optimizer_steps", optimizer_->steps()},
      {"tokens", tokens_},
      {"next_example", next_example_},
      {"seconds", seconds()},
      {"best_loss", best_loss_ ? ordered_json(*best_loss_) : ordered_json()}};
  read_back();
  log_->flush();
  wrote("checkpoint", [&] {
    train::write_snapshot(train::checkpoint_path(folder_, step_), state,
                          {{"weights", host(model_->master())},
                           {"mean", host(optimizer_->mean())},
                           {"square", host(optimizer_->square())},
                           {"router_bias", host(model_->router_bias())}});
    train::keep_last_checkpoints(folder_, kCheckpointsKept);
  });
}

void Run::resume() {
  std::vector<std::string> refused;
  const auto snapshot = train::last_checkpoint(folder_, refused);
  for (const std::string& why : refused) console_.say(why + ". Taking the one before.");
  if (!snapshot)
    fail(ErrorKind::kNotFound, "{}: there is no checkpoint to resume from. {} without --resume.",
         folder_.string(), refused.empty() ? "Start" : "Delete those that are damaged, and start");
  const auto array = [&](const char* name) -> const std::vector<float>& {
    const auto it = snapshot->arrays.find(name);
    if (it == snapshot->arrays.end())
      fail(ErrorKind::kInvalidInput, "{}: its checkpoint holds no '{}'", folder_.string(), name);
    return it->second;
  };
  restore(model_->master(), array("weights"));
  restore(optimizer_->mean(), array("mean"));
  restore(optimizer_->square(), array("square"));
  restore(model_->router_bias(), array("router_bias"));
  model_->refresh();
  const ordered_json& state = snapshot->state;
  step_ = state.at("step");
  optimizer_->steps() = state.at("optimizer_steps");
  tokens_ = state.at("tokens");
  next_example_ = state.at("next_example");
  seconds_before_ = state.at("seconds");
  if (!state.at("best_loss").is_null()) best_loss_ = state.at("best_loss").get<double>();
  // Newer ones were passed over; they would count as the last two that are kept.
  for (const size_t newer : train::checkpoint_steps(folder_))
    if (newer > step_) fs::remove(train::checkpoint_path(folder_, newer));
  console_.say(fmt::format("going on after step {}", step_));
}

// The best weights by the held-out loss, or the last where they are better and a full disk did not
// take them; without held-out data the last.
void Run::export_model() {
  std::vector<float> weights = host(model_->master()), bias = host(model_->router_bias());
  size_t step = step_;
  const bool last_are_better = last_loss_ && best_loss_ && *last_loss_ < *best_loss_;
  if (best_loss_ && !last_are_better && fs::exists(folder_ / "best.weft")) {
    train::Snapshot best = train::read_snapshot(folder_ / "best.weft");
    weights = std::move(best.arrays["weights"]);
    bias = std::move(best.arrays["router_bias"]);
    step = best.state.at("step");
  }
  train::check_finite(model_->table(), weights);
  const fs::path folder = folder_ / "model";
  train::write_hf_folder(folder, model_->shape(), model_->table(), weights, bias,
                         {.is_bf16 = config_.dtype == "bf16",
                          .tokenizer = beginning_.tokenizer_path,
                          .from = beginning_.from.get()});
  std::string written = folder.string();
  if (config_.gguf != "none") {
    ThreadPool pool(available_cores());
    try {
      train::write_gguf(folder, folder_ / "model.gguf", config_.gguf, pool.cores());
      written += " and " + (folder_ / "model.gguf").string();
    } catch (const Error& error) {  // the folder is there
      console_.say(fmt::format("no model.gguf: {}", error.what()));
    }
  }
  write_report();
  console_.say(fmt::format("wrote {} (weights of step {}); {} steps, {} tokens, {:.0f} s", written,
                           step, step_, tokens_, seconds()));
}

}  // namespace

void train_lm(const train::Config& config, const RunOptions& options, StopToken stop) {
  Run run(config, options, stop);
  run.train();
}

}  // namespace weft::trainer
