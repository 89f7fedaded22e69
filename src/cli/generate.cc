#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/progress.h"
#include "cli/answer_form_options.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/sampling_options.h"
#include "text/generate.h"

namespace weft::cli {
namespace {

constexpr size_t kPromptLimit = size_t{64} << 20;  // bytes; far beyond any context

struct Options {
  ModelOptions model;
  text::GenerateOptions generate;
  AnswerFormOptions form;
  VocabOptions vocab;
  std::string prompt, system;
  std::filesystem::path file;
  bool from_stdin = false, chat = false, raw = false, json = false;
};

std::string read_stdin() {
  std::string text;
  char buffer[1 << 16];
  while (const size_t count = std::fread(buffer, 1, sizeof buffer, stdin)) {
    text.append(buffer, count);
    if (text.size() > kPromptLimit)
      fail(ErrorKind::kInvalidInput, "standard input is longer than {} bytes", kPromptLimit);
  }
  return text;
}

std::string read_prompt(const Options& options) {
  const int sources = (options.prompt.empty() ? 0 : 1) + (options.file.empty() ? 0 : 1) +
                      (options.from_stdin ? 1 : 0);
  if (sources > 1)
    fail(ErrorKind::kInvalidInput, "give the prompt once: as an argument, with --file or --stdin");
  if (options.from_stdin) return read_stdin();
  if (!options.file.empty()) return read_file(options.file, kPromptLimit);
  if (options.prompt.empty())
    fail(ErrorKind::kInvalidInput,
         "the prompt is empty. Example: weft generate \"Why is the sky blue?\"");
  return options.prompt;
}

std::vector<text::Token> encode(const Options& options, const text::TextModel& model,
                                const std::string& prompt) {
  const bool as_chat = options.chat || (!options.raw && model.has_chat_template());
  if (!as_chat) return model.encode_prompt(prompt);
  std::vector<text::ChatMessage> messages;
  if (!options.system.empty()) messages.push_back({.role = "system", .content = options.system});
  messages.push_back({.role = "user", .content = prompt});
  return model.encode_chat(messages);
}

void print_sampling(const text::SamplingOptions& s) {
  fmt::print(stderr,
             "sampling: temperature {}, top-k {}, top-p {}, min-p {}, typical-p {}, repetition "
             "penalty {}, presence {}, frequency {}, last {} tokens, seed {}\n",
             s.temperature, s.top_k, s.top_p, s.min_p, s.typical_p, s.repetition_penalty,
             s.presence_penalty, s.frequency_penalty, s.penalty_last_n, s.seed);
}

void print_speed(const text::Generation& g) {
  fmt::print(stderr,
             "\nprompt: {} tokens, first token after {:.0f} ms ({:.0f} tokens/s)\n"
             "answer: {} tokens, {:.1f} tokens/s, ended by {}\n",
             g.prompt_tokens, g.prefill_seconds * 1e3, g.prefill_tokens_per_second(), g.num_sampled,
             g.decode_tokens_per_second(), name(g.reason));
}

void print_vocabulary(const text::VocabUse& use) {
  if (use.mode == text::VocabMode::kOff) return;
  const ResidentMemory memory = resident_memory();
  fmt::print(stderr,
             "vocabulary: {} of {} tokens ({} of the task, {} of the prompt and found on the way), "
             "{} steps {}, {} found a missing token{}\n"
             "memory now: {:.0f} MiB of its own, {:.0f} MiB of mapped files\n",
             name(use.mode), use.size, use.static_size, use.dynamic_size, use.escapes,
             use.mode == text::VocabMode::kScreen ? "computed others" : "asked the whole head",
             use.misses,
             use.whole ? "; the whole head since" : "",
             static_cast<double>(memory.anonymous_bytes) / (1 << 20),
             static_cast<double>(memory.file_bytes) / (1 << 20));
}

nlohmann::ordered_json vocabulary_json(const text::VocabUse& use) {
  return {{"mode", name(use.mode)},          {"size", use.size},       {"static", use.static_size},
          {"dynamic", use.dynamic_size},     {"escapes", use.escapes}, {"misses", use.misses},
          {"screened", use.screened},        {"rejected_drafts", use.rejected},
          {"whole_head", use.whole}};
}

void print_rank_memory(const text::TextModel& model) {
  const auto mib = [](uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  const auto ranks = parallel::memory_of_ranks(model.model());
  for (size_t r = 0; r < ranks.size(); ++r)
    fmt::print(stderr, "rank {}: {:.1f} MiB of memory of its own, weights {:.1f} of them\n", r,
               mib(ranks[r].own_bytes), mib(ranks[r].weight_bytes));
}

void print_json(const text::Generation& g, const Options& options, const text::TextModel& model) {
  nlohmann::ordered_json out = {
      {"text", g.text},
      {"finish_reason", name(g.reason)},
      {"model", model.name()},
      {"seed", options.generate.sampling.seed},
      {"prompt_tokens", g.prompt_tokens},
      {"completion_tokens", g.num_sampled},
      {"time_to_first_token_ms", g.prefill_seconds * 1e3},
      {"prefill_tokens_per_second", g.prefill_tokens_per_second()},
      {"decode_tokens_per_second", g.decode_tokens_per_second()},
  };
  if (g.vocab.mode != text::VocabMode::kOff) out["vocabulary"] = vocabulary_json(g.vocab);
  if (const text::ExpertStream* const stream = model.experts()) {
    const text::ExpertCounters c = stream->counters();
    out["experts"] = {{"slots", stream->num_slots()}, {"experts", stream->num_experts()},
                      {"hit_rate", c.hit_rate()},     {"misses", c.misses},
                      {"late", c.late},               {"bytes_read", c.bytes_read},
                      {"stall_seconds", c.stall_s}};
  }
  for (const parallel::RankMemory& rank : parallel::memory_of_ranks(model.model()))
    out["ranks"].push_back({{"weight_bytes", rank.weight_bytes}, {"own_bytes", rank.own_bytes}});
  fmt::print("{}\n", out.dump(2));
}

void generate(const Options& options, StopToken stop) {
  text::validate(options.generate.sampling);
  if (options.chat && options.raw)
    fail(ErrorKind::kInvalidInput, "--chat and --raw exclude each other");
  if (options.raw && !options.system.empty())
    fail(ErrorKind::kInvalidInput, "--raw continues plain text, which has no --system message");
  const std::string prompt = read_prompt(options);
  const LoadedModel loaded = load_model(options.model, options.vocab);
  if (options.model.verbose) print_sampling(options.generate.sampling);
  const std::vector<text::Token> tokens = encode(options, loaded.model, prompt);
  const auto decoder = loaded.model.make_decoder(loaded.pool->cores());
  text::GenerateOptions generating = options.generate;
  generating.chunk_tokens = loaded.chunk_tokens;
  generating.vocab = loaded.model.choose_vocab({}, {});
  generating.filter = load_filter(options.form, loaded.model, generating.leading_space);

  auto progress = std::make_unique<Progress>("Reading the prompt", tokens.size(), "tokens");
  const auto print = [&](std::string_view piece) {
    progress.reset();  // its line is cleared before the first word
    if (options.json) return true;
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    if (std::fflush(stdout) != 0) fail(ErrorKind::kIo, "cannot write the answer to stdout");
    return true;
  };
  const text::Generation result = text::generate(*decoder, loaded.model.tokenizer(), tokens,
                                                 generating, print, stop, progress->callback());
  progress.reset();
  if (options.json) {
    print_json(result, options, loaded.model);
  } else if (!result.text.ends_with('\n')) {
    fmt::print("\n");
  }
  if (options.model.verbose) {
    print_speed(result);
    print_vocabulary(result.vocab);
    print_expert_counters(loaded.model);
    print_rank_memory(loaded.model);
  }
  if (result.reason == text::FinishReason::kCancelled) fail(ErrorKind::kCancelled, "stopped");
}

}  // namespace

void add_generate(CLI::App& program, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand("generate", "Answer one prompt, or continue a text");
  command->add_option("prompt", options->prompt, "What to answer");
  command->add_option("-f,--file", options->file, "Read the prompt from a file")->type_name("FILE");
  command->add_flag("--stdin", options->from_stdin, "Read the prompt from standard input");
  command->add_flag("--chat", options->chat,
                    "Put the prompt into the model's chat template (what happens anyway if it has "
                    "one)");
  command->add_flag("--raw", options->raw, "Continue the prompt as plain text");
  command->add_option("--system", options->system, "A system message before the prompt");
  command->add_option("--max-tokens", options->generate.max_tokens, "Longest answer, in tokens")
      ->default_str("what the context holds");
  command->add_option("--stop", options->generate.stop, "End the answer before this text")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  command->add_flag("--json", options->json, "Print one JSON object with the answer and timings");
  add_model_options(*command, options->model, stop);
  add_rank_options(*command, options->model.ranks);
  add_sampling_options(*command, options->generate.sampling);
  add_answer_form_options(*command, options->form);
  add_vocab_options(*command, options->vocab, Profiles::kOne);
  add_seed_option(*command, options->generate.sampling);
  command->footer(
      "Examples:\n"
      "  weft generate \"Why is the sky blue?\"\n"
      "  weft generate --raw --temp 0 --max-tokens 20 \"The capital of France is\"\n"
      "  weft generate --kv progressive --kv-budget 32MiB --context 8192 \"Tell a long story\"");
  command->callback([options, stop] { generate(*options, stop); });
}

}  // namespace weft::cli
