#include "cli/vocab_options.h"

#include <cstdio>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "kernels/panel_layout.h"

namespace weft::cli {
namespace {

text::VocabMode mode_of(const VocabOptions& options) {
  if (options.mode.empty())
    return options.profiles.empty() ? text::VocabMode::kOff : text::VocabMode::kScreen;
  return *text::parse_vocab_mode(options.mode);
}

double mib(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

models::HeadLoading VocabOptions::head_loading() const {
  const text::VocabMode chosen = mode_of(*this);
  const bool waits = chosen == text::VocabMode::kHybrid || chosen == text::VocabMode::kStatic ||
                     chosen == text::VocabMode::kVerify || chosen == text::VocabMode::kScreen;
  return waits ? models::HeadLoading::kWhenNeeded : models::HeadLoading::kNow;
}

void add_vocab_options(CLI::App& command, VocabOptions& options, Profiles how_many) {
  const std::string group = "Vocabulary (VocabTailor)";
  CLI::Option* const profiles =
      command
          .add_option("--vocab-profile", options.profiles,
                      how_many == Profiles::kOne
                          ? "Tokens of the task, as 'weft calibrate vocab' writes them"
                          : "Tokens of a task, as 'weft calibrate vocab' writes them, and the name "
                            "that requests give (vocab_profile); may be repeated, the first is the "
                            "default")
          ->allow_extra_args(false)
          ->type_name("FILE[@NAME]")
          ->group(group);
  if (how_many == Profiles::kOne) profiles->expected(1);
  command
      .add_option("--vocab-mode", options.mode,
                  "off: the whole head. hybrid: tokens of task and prompt. static: of the task. "
                  "screen: hybrid, and those others that a sketch of the head finds promising. "
                  "verify: hybrid, and the whole head where it is in doubt. draft: hybrid proposes, "
                  "the whole head decides")
      ->default_str("screen with a profile, else off")
      ->check(CLI::IsMember({"off", "screen", "verify", "hybrid", "static", "draft"}))
      ->group(group);
}

std::vector<text::VocabProfile> load_profiles(const VocabOptions& options) {
  std::vector<text::VocabProfile> profiles;
  for (const std::string& asked : options.profiles) {
    const size_t at = asked.rfind('@');
    const bool named = at != std::string::npos && !std::filesystem::exists(asked);
    profiles.push_back(text::load_profile(named ? asked.substr(0, at) : asked));
    if (named) profiles.back().name = asked.substr(at + 1);
    if (profiles.back().name.empty())
      fail(ErrorKind::kInvalidInput, "--vocab-profile {}: the name after @ is empty", asked);
  }
  if (profiles.empty() && options.mode == "static")
    fail(ErrorKind::kInvalidInput,
         "--vocab-mode static needs the tokens of a task: give --vocab-profile FILE");
  if (profiles.empty() && options.tailors() && mode_of(options) != text::VocabMode::kScreen)
    std::fprintf(stderr,
                 "weft: --vocab-mode %s without a profile: answers consist of their prompt's tokens, "
                 "bytes and digits alone, which suits extraction\n",
                 options.mode.c_str());
  return profiles;
}

void print_vocab_plan(const std::filesystem::path& model, const VocabOptions& options,
                      const std::vector<text::VocabProfile>& profiles) {
  const auto checkpoint = formats::open_checkpoint(model);
  const auto tokenizer = checkpoint->load_tokenizer();
  const TensorView embedding = checkpoint->require("token_embd.weight");
  const auto output = checkpoint->find("output.weight");
  const TensorView& head = output ? *output : embedding;
  const size_t full = embedding.bytes() + (output ? output->bytes() : 0);
  const size_t panel = kernels::panel_bytes(head.dtype, head.shape.columns());
  const std::vector<uint32_t> required =
      text::required_tokens(*tokenizer, checkpoint->chat_template().value_or(""));
  size_t packed = 0, size = 0;
  const auto add = [&](std::vector<uint32_t> ids) {
    ids.insert(ids.end(), required.begin(), required.end());
    std::erase_if(ids, [&](uint32_t id) { return id >= head.shape.rows(); });
    const text::VocabSet set(head.shape.rows(), std::move(ids));
    size = set.size();
    packed += (size + kernels::kPanelOutputs - 1) / kernels::kPanelOutputs * panel +
              set.ids().size_bytes() + set.mask().words().size_bytes();
  };
  for (const text::VocabProfile& profile : profiles) add(profile.ids);
  if (profiles.empty()) add({});
  const bool screens = mode_of(options) == text::VocabMode::kScreen;
  if (screens) packed += kernels::RowSketch::bytes(head.shape.rows(), head.shape.columns());
  fmt::print(stderr,
             "vocabulary: {} tokens, {:.1f} MiB in the file ({}); kept in memory: {} rows of the "
             "head{}{}, {:.1f} MiB ({:.0f} % less), and those of each prompt\n",
             head.shape.rows(), mib(full), output ? "embedding and head" : "one matrix", size,
             profiles.size() > 1 ? " (the last profile)" : "",
             screens ? " and a sketch of all" : "", mib(packed),
             100 * (1 - static_cast<double>(packed) / static_cast<double>(full)));
}

void tailor(text::TextModel& model, const VocabOptions& options,
            const std::vector<text::VocabProfile>& profiles, const CoreSet& cores) {
  if (!options.tailors()) return;
  for (const text::VocabProfile& profile : profiles) model.add_vocab_head(&profile, cores);
  if (profiles.empty()) model.add_vocab_head(nullptr, cores);
  model.set_vocab_default(mode_of(options), cores);
}

}  // namespace weft::cli
