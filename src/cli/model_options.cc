#include "cli/model_options.h"

#include <fmt/ranges.h>

#include <cstdio>
#include <system_error>

#include "base/error.h"
#include "base/progress.h"
#include "bench/machine.h"
#include "cli/default_model.h"

namespace weft::cli {
namespace {

void print_model(const text::TextModel& model, size_t threads) {
  const models::LanguageModelConfig& c = model.model().config();
  fmt::print(stderr,
             "{}: {}, {} layers of {}, {} heads ({} of keys and values), vocabulary {}\n"
             "threads: {}\n",
             model.name(), c.architecture, c.num_layers, c.hidden_size, c.num_heads, c.num_kv_heads,
             c.vocab_size, threads);
}

}  // namespace

void print_plan(const text::TextMemoryPlan& plan) {
  const auto mib = [](size_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  fmt::print(
      stderr,
      "memory: {:.0f} MiB of weights + {:.1f} MiB of KV cache for {} tokens ({}) + {:.0f} MiB "
      "to work in\n",
      mib(plan.weight_bytes), mib(plan.kv_bytes), plan.context_length, plan.kv,
      mib(plan.scratch_bytes));
}

void add_model_flag(CLI::App& command, std::filesystem::path& model) {
  command
      .add_option("--model", model,
                  "A .gguf file or Hugging Face folder, or the name of a model that comes with weft")
      ->default_str("$WEFT_MODEL, or the one that ./run fetches")
      ->type_name("FILE");
}

void add_model_options(CLI::App& command, ModelOptions& options, StopToken stop) {
  add_model_flag(command, options.model);
  add_engine_options(command, options, stop);
}

void add_engine_options(CLI::App& command, ModelOptions& options, StopToken stop) {
  options.stop = stop;
  command.add_option("--threads", options.threads, "Cores to work on")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1024}));
  command
      .add_option("--context", options.context,
                  "Most tokens of a conversation, prompts and answers together")
      ->default_str(fmt::format("the model's, up to {}", text::kDefaultContext))
      ->check(CLI::Range(size_t{2}, size_t{1} << 24));
  add_kv_options(command, options.kv);
  add_expert_options(command, options.experts);
  command.add_flag("--verbose", options.verbose, "Print the memory plan and the sampling values");
}

std::filesystem::path model_path(const std::filesystem::path& asked) {
  const std::filesystem::path path = asked.empty() ? default_model() : asked;
  std::error_code none;
  if (std::filesystem::exists(path, none)) return path;
  if (asked.empty())
    fail(ErrorKind::kNotFound,
         "{}: no such file. Run ./run once to fetch the default model, or pass --model FILE.",
         path.string());
  if (const auto own = own_model(asked.string())) return *own;
  fail(ErrorKind::kNotFound, "{}: no such file. Name a .gguf file or a Hugging Face folder{}.",
       path.string(),
       own_models().empty() ? "" : fmt::format(", or {}", fmt::join(own_models(), ", ")));
}

LoadedModel load_model(const ModelOptions& options, const VocabOptions& vocab) {
  const std::filesystem::path path = model_path(options.model);
  const std::vector<text::VocabProfile> profiles = load_profiles(vocab);
  if (options.verbose && vocab.tailors()) print_vocab_plan(path, vocab, profiles);
  auto pool = std::make_unique<ThreadPool>(options.threads);
  text::TextModelOptions how;
  how.context = options.context;
  how.available_bytes = bench::read_machine().available_bytes;
  how.head = vocab.head_loading();
  options.kv.apply(how, path);
  options.experts.apply(how);
  how.crew = meet_ranks(options.ranks, path, options.threads, how.head);
  if (how.crew) how.step_tokens = std::max(how.step_tokens, prompt_chunk(*how.crew));
  if (options.verbose || how.kv.mode != text::KvMode::kPlain) how.on_plan = print_plan;
  std::unique_ptr<Progress> progress;
  text::TextModel model =
      text::TextModel::load(path, how, pool->cores(), [&](size_t done, size_t total) {
        options.stop.throw_if_stopped();
        if (!progress) progress = std::make_unique<Progress>("Loading", 0, "bytes");
        progress->callback()(done, total);
      });
  progress.reset();
  tailor(model, vocab, profiles, pool->cores());
  if (options.verbose) print_model(model, options.threads);
  if (options.verbose && how.crew)
    fmt::print(stderr, "ranks: {}, {}\n", how.crew->ranks.size(), how.crew->plan.describe());
  return {std::move(pool), std::move(model), how.crew ? prompt_chunk(*how.crew) : 512};
}

}  // namespace weft::cli
