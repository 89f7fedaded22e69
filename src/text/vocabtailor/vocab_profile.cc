#include "text/vocabtailor/vocab_profile.h"

#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "formats/bounded_json.h"
#include "text/vocabtailor/vocab_set.h"

namespace weft::text {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kFormat = "weft vocabulary profile";
constexpr size_t kLargestFile = size_t{128} << 20;  // bytes
constexpr size_t kLargestVocabulary = size_t{1} << 24;

[[noreturn]] void wrong(const std::string& name, const std::string& what) {
  fail(ErrorKind::kInvalidInput, "{}: {}. Make it again with 'weft calibrate vocab'.", name, what);
}

const Json& need(const Json& object, const char* key, const std::string& name) {
  const auto it = object.find(key);
  if (it == object.end()) wrong(name, fmt::format("'{}' is missing", key));
  return *it;
}

std::string need_string(const Json& object, const char* key, const std::string& name) {
  const Json& value = need(object, key, name);
  if (!value.is_string()) wrong(name, fmt::format("'{}' must be a string", key));
  return value.get<std::string>();
}

double need_number(const Json& object, const char* key, const std::string& name, double most) {
  const Json& value = need(object, key, name);
  const double number = value.is_number() ? value.get<double>() : -1;
  if (!(number >= 0 && number <= most))
    wrong(name, fmt::format("'{}' must be a number from 0 to {}", key, most));
  return number;
}

std::vector<uint32_t> need_counts(const Json& object, const char* key, const std::string& name,
                                  size_t limit) {
  const Json& list = need(object, key, name);
  if (!list.is_array()) wrong(name, fmt::format("'{}' must be a list", key));
  std::vector<uint32_t> out;
  out.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& value = list[i];
    if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
        static_cast<uint64_t>(value.get<int64_t>()) >= limit)
      wrong(name, fmt::format("'{}' has {} at {}, but whole numbers from 0 to {} are expected", key,
                              value.dump(), i, limit - 1));
    out.push_back(static_cast<uint32_t>(value.get<int64_t>()));
  }
  return out;
}

VerifySignals read_signals(const Json& object, const std::string& name) {
  VerifySignals signals;
  signals.least_top_probability =
      static_cast<float>(need_number(object, "least_top_probability", name, 1));
  signals.most_entropy = static_cast<float>(need_number(object, "most_entropy", name, 100));
  return signals;
}

std::vector<CoveragePoint> read_curve(const Json& list, const std::string& name) {
  if (!list.is_array()) wrong(name, "'curve' must be a list");
  std::vector<CoveragePoint> curve;
  for (const Json& point : list) {
    if (!point.is_object()) wrong(name, "'curve' must be a list of objects");
    curve.push_back(
        {.size = static_cast<size_t>(need_number(point, "size", name, kLargestVocabulary)),
         .step_coverage = need_number(point, "step_coverage", name, 1),
         .documents_without_miss = need_number(point, "documents_without_miss", name, 1),
         .mass_mean = need_number(point, "mass_mean", name, 1.001),
         .mass_p1 = need_number(point, "mass_p1", name, 1.001)});
  }
  return curve;
}

// Six digits: enough to draw, and the same text on every machine.
double rounded(double value) { return std::round(value * 1e6) / 1e6; }

}  // namespace

VocabProfile parse_profile(std::string_view text, const std::string& name) {
  const Json json = formats::parse_bounded_json(text, name);
  if (!json.is_object() || !json.contains("format") || json["format"] != kFormat)
    wrong(name, fmt::format("is no vocabulary profile ('format' is not '{}')", kFormat));
  const double version = need_number(json, "version", name, 1e9);
  if (version != 1)
    fail(ErrorKind::kUnsupported, "{}: is of version {}; this program reads version 1", name,
         version);
  VocabProfile profile;
  profile.name = need_string(json, "name", name);
  profile.tokenizer = need_string(json, "tokenizer", name);
  profile.source = need_string(json, "source", name);
  profile.vocab_size = static_cast<size_t>(need_number(json, "vocab_size", name, kLargestVocabulary));
  profile.documents = static_cast<size_t>(need_number(json, "documents", name, 1e12));
  profile.tolerance = need_number(json, "tolerance", name, 1e9);
  if (json.contains("answers")) profile.answers = need_number(json, "answers", name, 1);
  profile.ids = need_counts(json, "ids", name, profile.vocab_size);
  profile.df = need_counts(json, "df", name, UINT32_MAX);
  for (size_t i = 1; i < profile.ids.size(); ++i)
    if (profile.ids[i] <= profile.ids[i - 1])
      wrong(name, fmt::format("'ids' must ascend, but {} follows {}", profile.ids[i],
                              profile.ids[i - 1]));
  if (profile.df.size() != profile.ids.size())
    wrong(name, fmt::format("'df' has {} entries for {} ids", profile.df.size(),
                            profile.ids.size()));
  if (const auto it = json.find("verify"); it != json.end()) {
    if (!it->is_object()) wrong(name, "'verify' must be an object");
    profile.verify = read_signals(*it, name);
  }
  if (const auto it = json.find("curve"); it != json.end()) profile.curve = read_curve(*it, name);
  return profile;
}

VocabProfile load_profile(const std::filesystem::path& path) {
  return parse_profile(read_file(path, kLargestFile), path.string());
}

std::string to_json(const VocabProfile& p) {
  nlohmann::ordered_json curve = nlohmann::ordered_json::array();
  for (const CoveragePoint& point : p.curve)
    curve.push_back({{"size", point.size},
                     {"step_coverage", rounded(point.step_coverage)},
                     {"documents_without_miss", rounded(point.documents_without_miss)},
                     {"mass_mean", rounded(point.mass_mean)},
                     {"mass_p1", rounded(point.mass_p1)}});
  nlohmann::ordered_json json = {
      {"format", kFormat},
      {"version", 1},
      {"name", p.name},
      {"tokenizer", p.tokenizer},
      {"vocab_size", p.vocab_size},
      {"source", p.source},
      {"documents", p.documents},
      {"tolerance", rounded(p.tolerance)},
      {"verify",
       {{"least_top_probability", rounded(p.verify.least_top_probability)},
        {"most_entropy", rounded(p.verify.most_entropy)}}},
      {"curve", std::move(curve)},
      {"ids", p.ids},
      {"df", p.df}};
  if (p.answers > 0) json["answers"] = rounded(p.answers);
  return json.dump() + "\n";
}

void save_profile(const VocabProfile& profile, const std::filesystem::path& path) {
  AtomicFile file(path);
  file.write(to_json(profile));
  file.commit();
}

void check_profile(const VocabProfile& profile, const formats::Tokenizer& tokenizer,
                   size_t vocab_size, const std::string& model) {
  if (profile.tokenizer == tokenizer_hash(tokenizer) && profile.vocab_size == vocab_size) return;
  fail(ErrorKind::kInvalidInput,
       "vocabulary profile '{}' was made for another tokenizer (its vocabulary has {} tokens) than "
       "{} has ({} tokens). Make one for this model with 'weft calibrate vocab'.",
       profile.name, profile.vocab_size, model, vocab_size);
}

}  // namespace weft::text
