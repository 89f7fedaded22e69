#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/commands.h"
#include "cli/model_options.h"
#include "formats/inspect.h"

namespace weft::cli {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string file;
  size_t context = 0;
  bool tensors = false, json = false;
};

std::string size_text(const ordered_json& bytes) {
  const auto value = bytes.get<double>();
  if (value >= 1 << 30) return fmt::format("{:.2f} GiB", value / (1 << 30));
  if (value >= 1 << 20) return fmt::format("{:.1f} MiB", value / (1 << 20));
  if (value >= 1 << 10) return fmt::format("{:.1f} KiB", value / (1 << 10));
  return fmt::format("{} bytes", value);
}

std::string count_text(const ordered_json& count) {
  const auto value = count.get<double>();
  if (value >= 1e9) return fmt::format("{:.2f} billion", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} million", value / 1e6);
  return count.dump();
}

// Text from the file: control characters must not reach the terminal, and a chat template has
// lines.
std::string one_line(const ordered_json& value) {
  constexpr size_t kWidth = 72;
  std::string text = value.dump(-1, ' ', true, ordered_json::error_handler_t::replace);
  if (text.size() > kWidth) text = text.substr(0, kWidth) + "...";
  return text;
}

std::string value_text(const ordered_json& value) {
  if (!value.is_object()) return one_line(value);
  return fmt::format("{} {}s {}", value["length"].get<size_t>(), value["array"].get<std::string>(),
                     one_line(value["first"]));
}

void print_table(const char* title, const ordered_json& values) {
  if (values.empty()) return;
  fmt::print("\n{}\n", title);
  for (const auto& [key, value] : values.items())
    fmt::print("  {:<44} {}\n", key, value_text(value));
}

void print_experts(const ordered_json& experts) {
  if (experts.is_null()) return;
  fmt::print("\nmixture of experts\n");
  const auto line = [](const char* name, const std::string& value) {
    fmt::print("  {:<44} {}\n", name, value);
  };
  const auto number = [&](const char* key) { return experts[key].get<size_t>(); };
  line("stored parameters", count_text(experts["stored_parameters"]));
  line("computed for a token (active)", count_text(experts["active_parameters"]));
  line("experts",
       fmt::format("{} in each of {} groups of layers; {} for a token in each of {} layers",
                   number("experts_per_group"), number("groups_that_share"),
                   number("experts_per_token"), number("layers_with_experts")));
  line("one expert", size_text(experts["one_expert_bytes"]));
  line("all routed experts", size_text(experts["expert_bytes"]));
  line("everything else (always in memory)", size_text(experts["resident_bytes"]));
}

void print_memory(const ordered_json& memory) {
  if (memory.is_null()) return;
  fmt::print("\nmemory to run it\n");
  fmt::print("  {:<44} {}\n", "weights", size_text(memory["weight_bytes"]));
  fmt::print("  {:<44} {}\n", "KV cache per token (16 bit)",
             size_text(memory["kv_bytes_per_token"]));
  fmt::print("  {:<44} {}\n", fmt::format("KV cache at {} tokens", memory["context"].get<size_t>()),
             size_text(memory["kv_bytes"]));
}

void print_tensors(const ordered_json& tensors) {
  fmt::print("\ntensors\n");
  for (const ordered_json& tensor : tensors)
    fmt::print("  {:<44} {:<6} {:<18} {}\n", one_line(tensor["name"]),
               tensor["type"].get<std::string>(), tensor["shape"].dump(),
               size_text(tensor["bytes"]));
}

void print(const ordered_json& model, const Options& options) {
  fmt::print("{}: {}, {}\n", model["file"].get<std::string>(),
             model["container"].get<std::string>(), size_text(model["file_bytes"]));
  fmt::print("  {:<44} {}\n", "architecture",
             model["architecture"].is_null() ? "none" : one_line(model["architecture"]));
  fmt::print("  {:<44} {}\n", "parameters", count_text(model["parameters"]));
  for (const ordered_json& type : model["tensor_types"])
    fmt::print("  {:<44} {} tensors, {}\n", type["type"].get<std::string>(),
               type["tensors"].get<size_t>(), size_text(type["bytes"]));
  const ordered_json& tokenizer = model["tokenizer"];
  fmt::print("  {:<44} {}\n", "tokenizer",
             tokenizer.is_null() ? "none"
                                 : fmt::format("{} ({} tokens)", one_line(tokenizer["kind"]),
                                               tokenizer["tokens"].get<size_t>()));
  fmt::print("  {:<44} {}\n", "chat template", model["chat_template"].get<bool>() ? "yes" : "none");
  print_experts(model["experts"]);
  print_memory(model["memory"]);
  print_table("hyper-parameters", model["hyperparameters"]);
  if (model.contains("metadata")) print_table("metadata", model["metadata"]);
  if (options.tensors) print_tensors(model["tensors"]);
}

}  // namespace

void add_inspect(CLI::App& program, StopToken) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand("inspect", "Show what a model file holds and needs");
  command
      ->add_option("file", options->file,
                   "A .gguf file (also a vocabulary alone) or a Hugging Face folder")
      ->required();
  command->add_option(
      "--context", options->context,
      "Tokens of context to plan memory for (default: what the model was trained for)");
  command->add_flag("--tensors", options->tensors, "List every tensor");
  command->add_flag("--json", options->json, "Print everything as one JSON object");
  command->footer("Example: weft inspect model.gguf --context 4096");
  command->callback([options] {
    const ordered_json model = formats::inspect(model_path(options->file), options->context);
    if (options->json)
      fmt::print("{}\n", model.dump(2, ' ', false, ordered_json::error_handler_t::replace));
    else
      print(model, *options);
  });
}

}  // namespace weft::cli
