// --vocab-profile and --vocab-mode of generate, chat and serve.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "text/text_model.h"

namespace weft::cli {

struct VocabOptions {
  std::vector<std::string> profiles;  // FILE or FILE@NAME
  std::string mode;                   // empty: screen with a profile, else off

  bool tailors() const { return !profiles.empty() || (!mode.empty() && mode != "off"); }
  // The whole head waits in the file where requests do without it.
  models::HeadLoading head_loading() const;
};

enum class Profiles : uint8_t { kOne, kSeveral };
// `options` must live until the command has run.
void add_vocab_options(CLI::App& command, VocabOptions& options, Profiles how_many);

// Before a model is loaded. kNotFound, kInvalidInput as load_profile.
std::vector<text::VocabProfile> load_profiles(const VocabOptions& options);

// What the vocabulary will take in memory, from the model's metadata: printed before it is loaded.
void print_vocab_plan(const std::filesystem::path& model, const VocabOptions& options,
                      const std::vector<text::VocabProfile>& profiles);

// Gives the loaded model its packed heads and its default mode. Profiles made for another model are an
// error, as is none that fits.
void tailor(text::TextModel& model, const VocabOptions& options,
            const std::vector<text::VocabProfile>& profiles, const CoreSet& cores);

}  // namespace weft::cli
