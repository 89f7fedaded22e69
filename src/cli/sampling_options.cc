#include "cli/sampling_options.h"

#include <charconv>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace weft::cli {
namespace {

template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::pair<text::Token, float> parse_bias(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals != std::string_view::npos) {
    const auto token = parse_number<text::Token>(text.substr(0, equals));
    const auto bias = parse_number<float>(text.substr(equals + 1));
    if (token && bias) return {*token, *bias};
  }
  throw CLI::ValidationError(
      "--logit-bias", "'" + std::string(text) + "' is not ID=BIAS, such as 198=-2.5 or 198=-inf");
}

uint64_t random_seed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

void add_sampling_options(CLI::App& command, text::SamplingOptions& options) {
  const std::string group = "Sampling";
  const auto add = [&](const char* flag, auto& value, const char* text) {
    command.add_option(flag, value, text)->capture_default_str()->group(group);
  };
  add("--temp", options.temperature, "Temperature; 0 takes the likeliest token always");
  add("--top-k", options.top_k, "Only the K likeliest tokens; 0: off");
  add("--top-p", options.top_p, "Only the likeliest tokens that make up P together; 1: off");
  add("--min-p", options.min_p, "Only tokens at least P times as likely as the likeliest; 0: off");
  add("--typical-p", options.typical_p, "Only the most typical tokens that make up P; 1: off");
  add("--repeat-penalty", options.repetition_penalty, "Makes recent tokens less likely; 1: off");
  add("--presence-penalty", options.presence_penalty,
      "Taken from the logit of every recent token, -2 to 2");
  add("--frequency-penalty", options.frequency_penalty,
      "Taken from the logit each time that a token occurred, -2 to 2");
  add("--penalty-last-n", options.penalty_last_n,
      "How many tokens the penalties look back on; -1: all");
  command
      .add_option_function<std::vector<std::string>>(
          "--logit-bias",
          [&options](const std::vector<std::string>& biases) {
            for (const std::string& bias : biases) options.logit_bias.push_back(parse_bias(bias));
          },
          "ID=BIAS, added to a token's logit; -inf bans it. May be repeated")
      ->type_name("ID=BIAS")
      ->allow_extra_args(false)
      ->group(group);
}

void add_seed_option(CLI::App& command, text::SamplingOptions& options) {
  options.seed = random_seed();
  command.add_option("--seed", options.seed, "Makes the answer reproducible")
      ->default_str("random")
      ->group("Sampling");
}

}  // namespace weft::cli
