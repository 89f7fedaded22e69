#include "serve/semi_pd/partition.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace weft::serve::semi_pd {
namespace {

using Kind = Partition::Kind;

// Reads a number off the front of `text`.
template <typename T>
std::optional<T> take_number(std::string_view& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

[[noreturn]] void refuse(std::string_view text, const std::string& why) {
  fail(ErrorKind::kInvalidInput,
       "--partition {}: {}. It is auto, unified, P:D (cores of prefill and decode, such as 1:1), "
       "P:D,strict, P/D:DUTY (cores in common, such as 2/2:0.5), P/D:TIME "
       "(longest stall, such as 2/2:20ms) or P/D:free",
       text, why);
}

// Cores that both may use.
size_t common_cores(const Partition& partition, size_t num_cores) {
  const size_t sum = partition.prefill_cores + partition.decode_cores;
  return sum > num_cores ? sum - num_cores : 0;
}

double duty(const Partition& partition) {
  return partition.kind == Kind::kTurns ? partition.prefill_duty : 0.5;
}

}  // namespace

Partition unified(size_t num_cores) {
  return {.kind = Kind::kUnified, .prefill_cores = num_cores, .decode_cores = num_cores};
}

Partition by_steps(size_t num_cores, double max_stall_s) {
  return {.kind = Kind::kSteps,
          .prefill_cores = num_cores,
          .decode_cores = num_cores,
          .max_stall_s = max_stall_s};
}

double prefill_turn_s(double max_stall_s, double step_s) {
  // Steps vary, and a piece of prefill ends before the core changes hands.
  constexpr double kOfBound = 0.9;
  return std::max(kOfBound * max_stall_s - step_s, step_s / 8);
}

std::optional<Partition> parse_partition(std::string_view text, size_t num_cores) {
  if (text == "auto") return std::nullopt;
  if (text == "unified") return unified(num_cores);

  std::string_view rest = text;
  const auto prefill = take_number<size_t>(rest);
  const bool apart = rest.starts_with(':');
  if (!prefill || !(take(rest, ":") || take(rest, "/"))) refuse(text, "not a partition");
  const auto decode = take_number<size_t>(rest);
  if (!decode) refuse(text, "the number of decode cores is missing");
  Partition partition{.kind = Kind::kApart, .prefill_cores = *prefill, .decode_cores = *decode};
  if (*prefill == 0 || *decode == 0) refuse(text, "each phase needs a core");
  if (*prefill > num_cores || *decode > num_cores)
    refuse(text, fmt::format("this process may use {} cores", num_cores));

  if (apart) {
    partition.lend = !take(rest, ",strict");
    if (!rest.empty()) refuse(text, fmt::format("'{}' is left over", rest));
    if (*prefill + *decode != num_cores)
      refuse(text, fmt::format("the sum is {}, but this process may use {} cores",
                               *prefill + *decode, num_cores));
    return partition;
  }
  if (*prefill + *decode <= num_cores)
    refuse(text, fmt::format("no core of the {} is common to both; write {}:{}", num_cores,
                             *prefill, num_cores - *prefill));
  if (!take(rest, ":")) refuse(text, "the duty is missing");
  if (rest == "free") {
    partition.kind = Kind::kFree;
    return partition;
  }
  const auto duty = take_number<double>(rest);
  if (duty && rest == "ms") {
    if (!(*duty >= 1 && *duty <= 1e5)) refuse(text, "the stall is not between 1 and 100000 ms");
    partition.kind = Kind::kSteps;
    partition.max_stall_s = *duty * 1e-3;
    return partition;
  }
  if (!duty || !rest.empty()) refuse(text, "the duty is not a number");
  if (!(*duty >= 0 && *duty <= 1)) refuse(text, "the duty is not between 0 and 1");
  partition.kind = Kind::kTurns;
  partition.prefill_duty = *duty;
  return partition;
}

std::string to_string(const Partition& partition) {
  const size_t p = partition.prefill_cores, d = partition.decode_cores;
  switch (partition.kind) {
    case Kind::kUnified:
      return "unified";
    case Kind::kApart:
      return fmt::format("{}:{}{}", p, d, partition.lend ? "" : ",strict");
    case Kind::kTurns:
      return fmt::format("{}/{}:{}", p, d, partition.prefill_duty);
    case Kind::kSteps:
      return fmt::format("{}/{}:{:.6g}ms", p, d, partition.max_stall_s * 1e3);
    case Kind::kFree:
      return fmt::format("{}/{}:free", p, d);
  }
  return "";
}

std::vector<Partition> all_partitions(size_t num_cores) {
  std::vector<Partition> list{unified(num_cores)};
  for (const bool lend : {true, false})
    for (size_t p = 1; p < num_cores; ++p)
      list.push_back(
          {.kind = Kind::kApart, .prefill_cores = p, .decode_cores = num_cores - p, .lend = lend});
  for (const double duty : {0.2, 0.35, 0.5, 0.65, 0.8})
    list.push_back({.kind = Kind::kTurns,
                    .prefill_cores = num_cores,
                    .decode_cores = num_cores,
                    .prefill_duty = duty});
  list.push_back({.kind = Kind::kFree, .prefill_cores = num_cores, .decode_cores = num_cores});
  return list;
}

std::vector<Partition> automatic_partitions(size_t num_cores, std::optional<double> max_stall_s) {
  if (max_stall_s) {
    if (num_cores == 1) return {unified(num_cores)};
    return {unified(num_cores), by_steps(num_cores, *max_stall_s)};
  }
  std::vector<Partition> list = all_partitions(num_cores);
  std::erase_if(list, [&](const Partition& partition) {
    return !partition.lend || partition.kind == Kind::kFree ||
           (num_cores == 1 && partition.kind != Kind::kUnified);
  });
  return list;
}

double prefill_share(const Partition& partition, size_t num_cores) {
  const size_t common = common_cores(partition, num_cores);
  return static_cast<double>(partition.prefill_cores - common) +
         static_cast<double>(common) * duty(partition);
}

double decode_share(const Partition& partition, size_t num_cores) {
  const size_t common = common_cores(partition, num_cores);
  return static_cast<double>(partition.decode_cores - common) +
         static_cast<double>(common) * (1 - duty(partition));
}

CorePartition core_partition(const Partition& partition) {
  CorePartition cores{.prefill_cores = partition.prefill_cores,
                      .decode_cores = partition.decode_cores,
                      .lend = partition.lend};
  cores.by_steps = partition.kind == Kind::kSteps;
  if (partition.kind == Kind::kTurns) cores.prefill_duty = partition.prefill_duty;
  if (partition.kind == Kind::kFree) cores.prefill_duty = std::nullopt;
  return cores;
}

}  // namespace weft::serve::semi_pd
