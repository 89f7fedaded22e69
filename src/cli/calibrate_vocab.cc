#include "text/vocabtailor/calibrate_vocab.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "cli/calibrate.h"
#include "cli/model_options.h"
#include "formats/bounded_json.h"
#include "formats/plot.h"

namespace weft::cli {
namespace {

using Json = nlohmann::json;

struct Options {
  ModelOptions model;
  std::filesystem::path data, out, svg;
  text::AnswerOptions answers;
  text::CalibrateOptions calibrate;
  bool given_outputs = false;
};

// A line of the data: what is asked, and what a reference answers, if it is there.
struct Example {
  std::vector<text::ChatMessage> messages;
  std::string output;
};

Example parse_line(const std::string& line, const std::string& where) {
  const Json json = formats::parse_bounded_json(line, where);
  const auto wrong = [&](const char* what) {
    fail(ErrorKind::kInvalidInput,
         "{}: {}; a line is {{\"input\": \"...\", \"output\": \"...\"}} or {{\"messages\": "
         "[{{\"role\": \"user\", \"content\": \"...\"}}]}}",
         where, what);
  };
  const auto text_of = [&](const Json& object, const char* key) {
    if (!object[key].is_string()) wrong("a text is not a string");
    return object[key].get<std::string>();
  };
  Example example;
  if (!json.is_object()) wrong("is not an object");
  if (json.contains("input")) {
    example.messages.push_back({.role = "user", .content = text_of(json, "input")});
    if (json.contains("output")) example.output = text_of(json, "output");
  } else if (json.contains("messages") && json["messages"].is_array()) {
    for (const Json& message : json["messages"]) {
      if (!message.is_object() || !message.contains("role") || !message.contains("content"))
        wrong("a message lacks role or content");
      example.messages.push_back(
          {.role = text_of(message, "role"), .content = text_of(message, "content")});
    }
    // The last answer of a transcript is its output; what stands before is the prompt.
    if (!example.messages.empty() && example.messages.back().role == "assistant") {
      example.output = example.messages.back().content;
      example.messages.pop_back();
    }
  } else {
    wrong("has neither 'input' nor 'messages'");
  }
  if (example.messages.empty()) wrong("has no message");
  return example;
}

std::vector<Example> read_data(const std::filesystem::path& path) {
  constexpr size_t kLargest = size_t{256} << 20;  // bytes
  std::istringstream lines(read_file(path, kLargest));
  std::vector<Example> examples;
  size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    examples.push_back(parse_line(line, fmt::format("{}:{}", path.string(), number)));
  }
  return examples;
}

// As generate and serve cut it: in the chat template where the model has one.
std::vector<text::Token> encode(const text::TextModel& model, const Example& example) {
  if (model.has_chat_template()) return model.encode_chat(example.messages);
  return model.encode_prompt(example.messages.back().content);
}

std::vector<text::TaskDocument> given_answers(const text::TextModel& model,
                                              const std::vector<Example>& examples,
                                              const std::vector<std::vector<text::Token>>& prompts) {
  std::vector<text::TaskDocument> documents;
  for (size_t i = 0; i < examples.size(); ++i) {
    if (examples[i].output.empty())
      fail(ErrorKind::kInvalidInput, "--outputs-given: example {} has no output", i + 1);
    documents.push_back({prompts[i], model.tokenizer().encode(
                                         examples[i].output,
                                         {.add_special = false, .parse_special = false})});
  }
  return documents;
}

void draw(const std::filesystem::path& path, const text::Calibration& result) {
  formats::Plot plot{.title = "Vocabulary coverage: " + result.profile.name,
                   .x_title = "tokens of the static set",
                   .y_title = "held out",
                   .lines = {{"steps whose best token is in the set", {}},
                             {"answers without a miss", {}},
                             {"probability of the set, mean", {}}}};
  for (const text::CoveragePoint& point : result.profile.curve) {
    const auto x = static_cast<double>(point.size);
    plot.lines[0].points.emplace_back(x, point.step_coverage);
    plot.lines[1].points.emplace_back(x, point.documents_without_miss);
    plot.lines[2].points.emplace_back(x, point.mass_mean);
  }
  formats::write_plot(path, plot);
}

void print(const text::Calibration& result, const Options& options) {
  const text::VocabProfile& p = result.profile;
  fmt::print("{} documents; prompts bring {:.0f} % of their answers' tokens\n\n"
             "  size  steps covered  answers without a miss  mass mean  mass p1   (held out)\n",
             p.documents, 100 * result.overlap);
  double whole = 0;
  for (const text::CoveragePoint& c : p.curve) {
    const bool written = c.size == p.ids.size();
    if (written) whole = c.documents_without_miss;
    fmt::print("{:6}  {:12.2f}%  {:21.1f}%  {:9.4f}  {:7.4f}{}\n", c.size, 100 * c.step_coverage,
               100 * c.documents_without_miss, c.mass_mean, c.mass_p1,
               written ? "  <- written" : "");
  }
  if (options.calibrate.answers > 0)
    fmt::print(
        "\n{} of {} tokens {} {:.4g} % of new answers whole: answers have needed {} of them "
        "so far.\nOf {} prompts, each held out in turn, {:.1f} % have a whole answer.{}\n",
        p.ids.size(), p.vocab_size,
        result.reached ? "keep" : "are the most that are gathered; they do not keep",
        100 * options.calibrate.answers,
        std::count_if(p.df.begin(), p.df.end(), [](uint32_t df) { return df > 0; }), result.tried,
        100 * whole, result.reached ? "" : " Use --vocab-mode screen or draft, or ask for less.");
  else if (result.reached)
    fmt::print("\nThe smallest set with {:.0f} % of the held-out answers whole has {} tokens "
               "(--size {}).\n",
               100 * options.calibrate.target, result.recommended_size, result.recommended_size);
  else
    fmt::print("\nNo size keeps {:.0f} % of the held-out answers whole: give more data, or more "
               "--samples, and use --vocab-mode screen or draft.\n",
               100 * options.calibrate.target);
  fmt::print("verify: asks the whole head below a best probability of {:.3f} or above {:.2f} nats: "
             "{:.1f} % of the held-out steps, {:.0f} % of the misses\nwritten: {}\n",
             p.verify.least_top_probability, p.verify.most_entropy, 100 * result.escape_share,
             100 * result.miss_recall, options.out.string());
}

void calibrate(Options& options, StopToken stop) {
  const std::vector<Example> examples = read_data(options.data);
  const LoadedModel loaded = load_model(options.model);
  std::vector<std::vector<text::Token>> prompts;
  for (const Example& example : examples) prompts.push_back(encode(loaded.model, example));
  text::check_enough(prompts.size(), std::set(prompts.begin(), prompts.end()).size(),
                     options.calibrate);
  const CoreSet cores = loaded.pool->cores();
  if (options.calibrate.answers > 0) options.answers.runner_ups = text::kRunnerUps;
  std::vector<text::TaskDocument> documents;
  if (options.given_outputs) {
    documents = given_answers(loaded.model, examples, prompts);
  } else {
    Progress progress("Answering", 0, "answers");
    documents = text::answer_prompts(loaded.model, prompts, options.answers, cores, stop,
                                     progress.callback());
  }
  if (options.calibrate.name.empty()) options.calibrate.name = options.data.stem().string();
  options.calibrate.source = fmt::format(
      "{}: {} prompts, {}", options.data.filename().string(), prompts.size(),
      options.given_outputs
          ? "outputs given"
          : fmt::format("answered by {}, greedy and {} samples at temperature {}, seed {}, up to {} "
                        "tokens",
                        std::filesystem::path(loaded.model.name()).filename().string(),
                        options.answers.samples, options.answers.temperature, options.answers.seed,
                        options.answers.max_tokens));
  text::Calibration result;
  {
    Progress progress("Trying sizes", 0, "answers");
    result = text::calibrate_vocab(loaded.model, documents, prompts.size(), options.calibrate, cores,
                                   stop, progress.callback());
  }
  if (options.out.empty()) options.out = options.calibrate.name + ".vocab.json";
  text::save_profile(result.profile, options.out);
  draw(options.svg.empty() ? std::filesystem::path(options.out).replace_extension(".svg")
                           : options.svg,
       result);
  print(result, options);
}

}  // namespace

void add_calibrate_vocab(CLI::App& parent, StopToken stop) {
  auto options = std::make_shared<Options>();
  options->calibrate.name.clear();
  CLI::App* command = parent.add_subcommand(
      "vocab", "Which tokens a task's answers need: a profile for --vocab-profile");
  command->add_option("model", options->model.model, "A .gguf file or Hugging Face folder")
      ->required()
      ->type_name("MODEL");
  command->add_option("data", options->data, "JSON lines: {\"input\": ...} or {\"messages\": [...]}")
      ->required()
      ->type_name("DATA.jsonl");
  command->add_option("-o,--out", options->out, "The profile; the curve is drawn beside it (.svg)")
      ->default_str("NAME.vocab.json")
      ->type_name("FILE");
  command->add_option("--name", options->calibrate.name, "Of the profile")
      ->default_str("the data's file name");
  command->add_option("--svg", options->svg, "The coverage curve")->type_name("FILE");
  command->add_option("--tolerance", options->calibrate.tolerance,
                      "Tokens that an answer may lack, on average")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  command->add_option("--size", options->calibrate.size, "Of the set, instead of a tolerance")
      ->check(CLI::Range(size_t{1}, size_t{1} << 24));
  command
      ->add_option(
          "--answers", options->calibrate.answers,
          "Share of new answers to keep whole, such as 0.99: as many tokens as that takes, "
          "more than were seen, instead of a tolerance or size")
      ->check(CLI::Range(0.5, 0.9999))
      ->excludes("--tolerance")
      ->excludes("--size");
  command->add_option("--target", options->calibrate.target,
                      "Share of held-out answers without a miss, for the recommended size")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--held-out", options->calibrate.held_out_share, "Share of the data")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 0.5));
  command->add_option("--samples", options->answers.samples,
                      "Answers drawn of each prompt, besides the greedy one")
      ->capture_default_str()
      ->check(CLI::Range(size_t{0}, size_t{64}));
  command->add_option("--temp", options->answers.temperature, "Of the samples")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  command->add_option("--seed", options->answers.seed, "Of the samples")->capture_default_str();
  command->add_option("--max-tokens", options->answers.max_tokens, "Longest answer")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--scripts", options->calibrate.scripts,
                      "Keep tokens of these scripts alone: latin, greek, cyrillic, arabic, "
                      "devanagari, thai, hangul, cjk (for noisy data)")
      ->delimiter(',');
  command->add_flag("--outputs-given", options->given_outputs,
                    "Count the data's outputs instead of the model's own answers");
  add_engine_options(*command, options->model, stop);
  command->footer("Example: weft calibrate vocab model.gguf questions.jsonl --answers 0.99");
  command->callback([options, stop] { calibrate(*options, stop); });
}

}  // namespace weft::cli
