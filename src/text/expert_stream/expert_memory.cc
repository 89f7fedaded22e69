#include "text/expert_stream/expert_memory.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/size_text.h"

namespace weft::text {
namespace {

namespace fs = std::filesystem;

double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// The pack beside the model, made if there is none; null if there can be none, and why.
std::unique_ptr<RecordSource> open_pack(const fs::path& path, bool asked_for,
                                        const models::ExpertTable& table,
                                        const formats::Checkpoint& checkpoint,
                                        const RecordTable& records, ExpertIo io,
                                        const CoreSet& cores, const ProgressFn& progress,
                                        std::string& why) {
  std::error_code none;
  if (!fs::exists(path, none)) {
    try {
      write_pack(path, table, checkpoint, cores, {}, progress);
    } catch (const Error& error) {
      if (asked_for || (error.kind() != ErrorKind::kIo && error.kind() != ErrorKind::kNotFound))
        throw;
      why = error.what();
      return nullptr;
    }
  }
  return open_pack_source(path, records, model_identity(checkpoint, table), io);
}

}  // namespace

ExpertBudget parse_expert_budget(std::string_view text) {
  double percent = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), percent);
  if (error == std::errc() && std::string_view(end, text.data() + text.size()) == "%" &&
      percent > 0 && percent <= 100)
    return {.bytes = 0, .fraction = percent / 100};
  if (const auto bytes = parse_size(text)) return {.bytes = *bytes};
  fail(ErrorKind::kInvalidInput,
       "'{}' is no amount of memory: give bytes with K, M or G (1.5G), or a part of what all "
       "experts take (50%)",
       text);
}

ExpertIo parse_expert_io(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, ExpertIo>, 4> kWays = {
      {{"auto", ExpertIo::kAuto},
       {"direct", ExpertIo::kDirect},
       {"cached", ExpertIo::kCached},
       {"mmap", ExpertIo::kMmap}}};
  for (const auto& [known, io] : kWays)
    if (known == name) return io;
  fail(ErrorKind::kInvalidInput,
       "'{}' is no way to read experts. Known are auto, direct, cached, mmap.", name);
}

size_t expert_slot_bytes(const models::MemoryPlan& plan) {
  constexpr size_t kPadding = 2 * 64;  // between an expert's matrices
  return (plan.largest_expert_bytes + kPadding + kRecordAlignment - 1) / kRecordAlignment *
         kRecordAlignment;
}

size_t plan_expert_slots(const ExpertBudget& budget, const models::MemoryPlan& plan,
                         size_t kv_bytes, const std::string& model) {
  if (plan.num_experts == 0)
    fail(ErrorKind::kInvalidInput,
         "{}: --expert-memory is for mixtures of experts, and this model is none: leave it out",
         model);
  const size_t slot = expert_slot_bytes(plan);
  size_t slots = budget.bytes / slot;
  if (budget.bytes == 0)
    slots =
        static_cast<size_t>(std::lround(budget.fraction * static_cast<double>(plan.num_experts)));
  if (slots == 0) {
    const size_t others = plan.weight_bytes - plan.expert_bytes;
    fail(ErrorKind::kOutOfResources,
         "{}: --expert-memory has no room for one expert, which takes {:.2f} MiB. At least {:.0f} "
         "MiB "
         "are needed in all: {:.0f} of other weights, {:.2f} of an expert, {:.0f} of KV cache, "
         "{:.0f} "
         "to work in.",
         model, mib(slot), mib(others + slot + kv_bytes + plan.scratch_bytes), mib(others),
         mib(slot), mib(kv_bytes), mib(plan.scratch_bytes));
  }
  return std::min(slots, plan.num_experts);
}

models::OpenExperts open_expert_stream(const ExpertMemoryOptions& options, size_t num_slots,
                                       const fs::path& model, ExpertStream** stream) {
  return [=](const models::ExpertTable& table, const formats::Checkpoint& checkpoint,
             const CoreSet& cores, const ProgressFn& progress) {
    const RecordTable records(table);
    std::unique_ptr<RecordSource> source;
    std::string why;
    if (options.pack != "none") {
      fs::path path = options.pack;
      if (path.empty()) {
        path = model.has_filename() ? model : model.parent_path();
        path += ".experts";
      }
      source = open_pack(path, !options.pack.empty(), table, checkpoint, records, options.io, cores,
                         progress, why);
    }
    if (source == nullptr) source = open_slice_source(table, checkpoint, records, options.io);
    auto made = std::make_unique<ExpertStream>(table, records, std::move(source),
                                               ExpertStreamOptions{.num_slots = num_slots,
                                                                   .policy = options.policy,
                                                                   .prefetch = options.prefetch,
                                                                   .on_visit = options.on_visit});
    if (options.log)
      options.log("experts: " + made->describe() +
                  (why.empty() ? "" : " (no pack could be made: " + why + ")"));
    if (stream != nullptr) *stream = made.get();
    return made;
  };
}

}  // namespace weft::text
