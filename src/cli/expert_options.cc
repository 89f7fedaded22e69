#include "cli/expert_options.h"

#include <fmt/format.h>

#include <cstdio>

#include "base/error.h"

namespace weft::cli {

void ExpertOptions::apply(text::TextModelOptions& options) const {
  const text::ExpertIo way = text::parse_expert_io(io);
  const text::ExpertPolicy who_goes = text::parse_expert_policy(policy);
  if (memory.empty()) {
    if (io != "auto" || policy != "expected" || !pack.empty() || on_demand)
      fail(ErrorKind::kInvalidInput,
           "--expert-io, --expert-policy, --expert-pack and --expert-on-demand belong to "
           "--expert-memory SIZE");
    return;
  }
  text::ExpertMemoryOptions& experts = options.experts.emplace();
  experts.budget = text::parse_expert_budget(memory);
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
      "wanted: "
      "bytes (1.5G) or a part of all (50%)")
      ->default_str("all")
      ->type_name("SIZE");
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
