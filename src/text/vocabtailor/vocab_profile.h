// A task's static set of tokens, with what it was made from: a JSON file.
//
//   {"format": "weft vocabulary profile", "version": 1, "name": "extraction",
//    "tokenizer": "<hash>", "vocab_size": 49152, "source": "...", "documents": 400, "tolerance":
//    0.01, "ids": [ascending], "df": [of each id: documents whose answer needs it, prompt lacking
//    it], "verify": {"least_top_probability": 0.4, "most_entropy": 3.0}, "curve": [{"size",
//    "step_coverage", "documents_without_miss", "mass_mean", "mass_p1"}], "answers": 0.99 (where
//    the set was made for that share of whole answers)}
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "formats/tokenizer.h"

namespace weft::text {

// When a step of mode `verify` asks the whole head, from what the packed one says (§3.7).
struct VerifySignals {
  float least_top_probability = 0.3f;  // of the best token, within the set
  float most_entropy = 4.0f;           // nats, within the set
  size_t audit_every = 64;             // positions; 0: no audits
};

// A size of the static set, and how it does on answers that were held out.
struct CoveragePoint {
  size_t size = 0;                    // of the static set; required and prompt tokens come on top
  double step_coverage = 0;           // share of steps whose best token is in the set
  double documents_without_miss = 0;  // share of answers where that holds at every step
  double mass_mean = 0, mass_p1 = 0;  // probability of the whole set: mean, first percentile
};

struct VocabProfile {
  std::string name, tokenizer, source;
  size_t vocab_size = 0, documents = 0;
  double tolerance = 0;
  double answers = 0;  // share of new answers that the set was to hold whole; 0: made by tolerance
  std::vector<uint32_t> ids, df;
  VerifySignals verify;
  std::vector<CoveragePoint> curve;
};

// kNotFound, kIo; kInvalidInput names the file and what is wrong: not JSON, not this format, ids out
// of range, not ascending, df of another length.
VocabProfile load_profile(const std::filesystem::path& path);
VocabProfile parse_profile(std::string_view json, const std::string& name);
std::string to_json(const VocabProfile& profile);  // the same bytes for the same profile
void save_profile(const VocabProfile& profile, const std::filesystem::path& path);

// kInvalidInput: made for another tokenizer or vocabulary (says which model it is wanted for).
void check_profile(const VocabProfile& profile, const formats::Tokenizer& tokenizer,
                   size_t vocab_size, const std::string& model);

}  // namespace weft::text
