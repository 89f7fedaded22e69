#include "cli/expert_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "base/error.h"

namespace weft::cli {

std::vector<std::optional<text::ExpertBudget>> divide_expert_memory(
    std::span<const std::string> sizes, std::span<const ExpertShare> models) {
  std::vector<std::optional<text::ExpertBudget>> budgets(models.size());
  std::optional<text::ExpertBudget> rest;
  for (const std::string& size : sizes) {
    const size_t equals = size.rfind('=');
    if (equals == std::string::npos) {
      if (rest)
        fail(ErrorKind::kInvalidInput,
             "--expert-memory is given twice: with several models, say whose, NAME=SIZE");
      rest = text::parse_expert_budget(size);
      continue;
    }
    const std::string name = size.substr(0, equals);
    const auto it = std::find_if(models.begin(), models.end(),
                                 [&](const ExpertShare& model) { return model.name == name; });
    if (it == models.end()) {
      std::string known;
      for (const ExpertShare& model : models) known += (known.empty() ? "" : ", ") + model.name;
      fail(ErrorKind::kInvalidInput, "--expert-memory {}: no model is called '{}'. There are: {}.",
           size, name, known);
    }
    auto& budget = budgets[static_cast<size_t>(it - models.begin())];
    if (budget)
      fail(ErrorKind::kInvalidInput, "--expert-memory is given twice for model '{}'", name);
    if (it->expert_bytes == 0)
      fail(ErrorKind::kInvalidInput,
           "--expert-memory is for mixtures of experts, and model '{}' is none", name);
    budget = text::parse_expert_budget(size.substr(equals + 1));
  }
  if (!rest) return budgets;
  size_t together = 0;
  for (size_t i = 0; i < models.size(); ++i)
    if (!budgets[i]) together += models[i].expert_bytes;
  if (together == 0)
    fail(ErrorKind::kInvalidInput,
         "--expert-memory is for mixtures of experts, and no {}model is one: leave it out",
         sizes.size() > 1 ? "other " : "");
  for (size_t i = 0; i < models.size(); ++i) {
    if (budgets[i] || models[i].expert_bytes == 0) continue;
    budgets[i] = *rest;
    if (rest->bytes != 0)  // rounded down: together no more than was given
      budgets[i]->bytes = static_cast<size_t>(
          static_cast<double>(rest->bytes) *
          (static_cast<double>(models[i].expert_bytes) / static_cast<double>(together)));
  }
  return budgets;
}

void ExpertOptions::apply(text::TextModelOptions& options) const {
  if (memory.size() > 1)
    fail(ErrorKind::kInvalidInput, "--expert-memory is given twice, and there is one model");
  apply(options,
        memory.empty() ? std::nullopt : std::optional(text::parse_expert_budget(memory.front())));
}

void ExpertOptions::apply(text::TextModelOptions& options,
                          std::optional<text::ExpertBudget> budget) const {
  const text::ExpertIo way = text::parse_expert_io(io);
  const text::ExpertPolicy who_goes = text::parse_expert_policy(policy);
  if (memory.empty() && (io != "auto" || policy != "expected" || !pack.empty() || on_demand))
    fail(ErrorKind::kInvalidInput,
         "--expert-io, --expert-policy, --expert-pack and --expert-on-demand belong to "
         "--expert-memory SIZE");
  if (!budget) return;
  text::ExpertMemoryOptions& experts = options.experts.emplace();
  experts.budget = *budget;
  experts.io = way;
  experts.policy = who_goes;
  experts.prefetch = !on_demand;
  experts.pack = pack;
  experts.log = [](const std::string& line) { fmt::print(stderr, "{}\n", line); };
}

void add_expert_options(CLI::App& command, ExpertOptions& options) {
  const std::string group = "Experts that do not fit into memory (Megrez2)";
  const auto add = [&](const char* flag, auto& value, const char* text) {
    return command.add_option(flag, value, text)->group(group);
  };
  add("--expert-memory", options.memory,
      "Keep so much of a mixture's routed experts in memory, and read the others as they are "
      "wanted: bytes (1.5G) or a part of all (50%). A server's mixtures share it; NAME=SIZE is one "
      "model's own, and may be repeated")
      ->allow_extra_args(false)
      ->default_str("all")
      ->type_name("[NAME=]SIZE");
  add("--expert-io", options.io, "How they are read: auto, direct, cached, mmap")
      ->capture_default_str();
  add("--expert-policy", options.policy, "Which leave first: expected, lru, lfu, least-stale")
      ->capture_default_str();
  add("--expert-pack", options.pack,
      "File of experts as the kernels want them, made once; none: read the model's own file")
      ->default_str("MODEL.experts, where it can be written")
      ->type_name("FILE");
  command
      .add_flag("--expert-on-demand", options.on_demand,
                "Read an expert when its layer asks, not when the layer before tells")
      ->group(group);
}

void print_expert_counters(const text::TextModel& model) {
  const text::ExpertStream* const stream = model.experts();
  if (stream == nullptr) return;
  const text::ExpertCounters c = stream->counters();
  fmt::print(
      stderr,
      "experts: {:.1f} % were in memory ({} read, {} of them late), {:.1f} MiB read, {:.2f} s "
      "waited\n",
      c.hit_rate() * 100, c.misses, c.late, static_cast<double>(c.bytes_read) / (1 << 20),
      c.stall_s);
}

}  // namespace weft::cli
