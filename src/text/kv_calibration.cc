#include "text/kv_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>

#include "base/error.h"
#include "base/file.h"

namespace weft::text {

using nlohmann::ordered_json;

namespace {

constexpr int kSchema = 2;  // 2: with smoothing
constexpr std::array<uint8_t, 3> kNarrow = {8, 4, 2};
constexpr size_t kMaxLayers = 4096;
constexpr size_t kMethodsAtATime = 16;  // caches in memory

class Fnv1a {
 public:
  void add(const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    for (size_t i = 0; i < size; ++i) hash_ = (hash_ ^ bytes[i]) * 0x100000001b3u;
  }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

double cost(const KvSensitivity& s, KvWidths w) {
  const auto side = [](const std::array<double, 3>& costs, size_t bits) {
    return bits == 16 ? 0.0 : costs[bits == 8 ? 0 : bits == 4 ? 1 : 2];
  };
  return side(s.k, w.k) + side(s.v, w.v);
}

}  // namespace

uint64_t kv_model_hash(const formats::Checkpoint& checkpoint) {
  Fnv1a hash;
  const models::LanguageModelConfig c = models::read_config(checkpoint);
  for (const size_t n :
       {c.num_layers, c.hidden_size, c.num_heads, c.num_kv_heads, c.head_dim, c.vocab_size}) {
    const uint64_t value = n;
    hash.add(&value, sizeof value);
  }
  const TensorView keys = checkpoint.require("blk.0.attn_k.weight");
  hash.add(keys.data, keys.bytes());
  return hash.value();
}

uint64_t kv_text_hash(std::string_view text) {
  Fnv1a hash;
  hash.add(text.data(), text.size());
  return hash.value();
}

KvCalibration calibrate_kv(const models::LanguageModel& model,
                           std::span<const models::Token> tokens, const CoreSet& cores,
                           StopToken stop, const ProgressFn& progress) {
  constexpr size_t kLeast = 2 * KvPolicy::kCutTokens + 2;
  if (tokens.size() < kLeast)
    fail(ErrorKind::kInvalidInput,
         "the text has {} tokens; calibration needs {} at least, and some thousand for figures to "
         "rely on",
         tokens.size(), kLeast);
  const size_t layers = model.config().num_layers;
  KvCalibration result;
  result.num_kv_heads = model.kv_shape().num_kv_heads;
  result.head_dim = model.kv_shape().head_dim;
  result.group = model.kv_shape().group_size();
  result.text_tokens = tokens.size();
  result.layers.resize(layers);
  std::vector<ReplayMethod> methods;
  std::vector<double*> places;
  size_t done = 0;
  const auto flush = [&] {
    const auto results = replay_kv(model, tokens, methods, {}, cores, stop);
    for (size_t i = 0; i < results.size(); ++i) *places[i] = results[i].total().mean_kl();
    done += methods.size();
    methods.clear();
    places.clear();
    if (progress) progress(done, layers * 2 * kNarrow.size());
  };
  for (size_t layer = 0; layer < layers; ++layer) {
    for (const bool is_key : {true, false}) {
      for (size_t i = 0; i < kNarrow.size(); ++i) {
        ReplayMethod method{.name = "one side", .policy = {.mode = KvMode::kDirect}};
        method.policy.layer_widths.resize(layers);
        KvWidths& widths = method.policy.layer_widths[layer];
        (is_key ? widths.k : widths.v) = kNarrow[i];
        methods.push_back(std::move(method));
        places.push_back(is_key ? &result.layers[layer].k[i] : &result.layers[layer].v[i]);
        if (methods.size() == kMethodsAtATime) flush();
      }
    }
  }
  if (!methods.empty()) flush();
  return result;
}

std::vector<KvWidths> allocate_kv(std::span<const KvSensitivity> layers, size_t total_bits,
                                      size_t least) {
  WEFT_ASSERT(least == 2 || least == 4 || least == 8 || least == 16);
  if (total_bits < layers.size() * 2 * least)
    fail(ErrorKind::kInvalidInput, "{} bits for {} layers are fewer than {} of each side",
         total_bits, layers.size(), least);
  std::vector<KvWidths> choices;  // more bits first: they win ties
  for (const uint8_t k : {16, 8, 4, 2})
    for (const uint8_t v : {16, 8, 4, 2})
      if (k >= least && v >= least) choices.push_back({k, v});
  std::stable_sort(choices.begin(), choices.end(),
                   [](KvWidths a, KvWidths b) { return a.k + a.v > b.k + b.v; });
  // best[i][u]: the least cost of layers i ... with u units of 2 bits; all layers' widths are even.
  const size_t units = std::min(total_bits, layers.size() * 32) / 2;
  constexpr double kImpossible = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> best(layers.size() + 1, std::vector<double>(units + 1, 0.0));
  for (size_t i = layers.size(); i-- > 0;) {
    for (size_t u = 0; u <= units; ++u) {
      best[i][u] = kImpossible;
      for (const KvWidths w : choices) {
        const size_t takes = (w.k + w.v) / 2u;
        if (takes <= u)
          best[i][u] = std::min(best[i][u], cost(layers[i], w) + best[i + 1][u - takes]);
      }
    }
  }
  std::vector<KvWidths> widths;
  size_t u = units;
  for (size_t i = 0; i < layers.size(); ++i) {
    for (const KvWidths w : choices) {
      const size_t takes = (w.k + w.v) / 2u;
      if (takes > u || cost(layers[i], w) + best[i + 1][u - takes] != best[i][u]) continue;
      widths.push_back(w);
      u -= takes;
      break;
    }
  }
  return widths;
}

std::vector<KvPolicyOptions::Sensitivity> sensitivities(const KvCalibration& calibration) {
  std::vector<KvPolicyOptions::Sensitivity> out;
  for (const KvSensitivity& layer : calibration.layers) {
    auto& s = out.emplace_back();
    std::copy(layer.k.begin(), layer.k.end(), s.k);
    std::copy(layer.v.begin(), layer.v.end(), s.v);
  }
  return out;
}

std::vector<std::vector<float>> factors(const KvCalibration& calibration) {
  std::vector<std::vector<float>> out;
  for (const KvSmoothing& layer : calibration.smoothing) out.push_back(layer.factors);
  return out;
}

void save_kv_calibration(const KvCalibration& c, const std::filesystem::path& path) {
  ordered_json layers = ordered_json::array();
  for (const KvSensitivity& s : c.layers) layers.push_back({{"k", s.k}, {"v", s.v}});
  ordered_json smoothing = ordered_json::array();
  for (const KvSmoothing& s : c.smoothing)
    smoothing.push_back({{"alpha", s.alpha},
                         {"error", s.error},
                         {"plain_error", s.plain_error},
                         {"factors", s.factors}});
  const ordered_json json = {{"schema", kSchema},
                             {"model", c.model},
                             {"model_hash", fmt::format("{:016x}", c.model_hash)},
                             {"num_layers", c.layers.size()},
                             {"num_kv_heads", c.num_kv_heads},
                             {"head_dim", c.head_dim},
                             {"group", c.group},
                             {"text_hash", fmt::format("{:016x}", c.text_hash)},
                             {"text_tokens", c.text_tokens},
                             {"widths", {8, 4, 2}},
                             {"sensitivities", layers},
                             {"smoothing", smoothing}};
  AtomicFile file(path);
  file.write(json.dump(2) + "\n");
  file.commit();
}

KvCalibration parse_kv_calibration(std::string_view text, const std::string& name) {
  const ordered_json json = ordered_json::parse(text, nullptr, false);
  const auto wrong = [&](const std::string& what) {
    fail(ErrorKind::kInvalidInput, "{}: {}. 'weft calibrate kv' writes a new one for your model.",
         name, what);
  };
  if (!json.is_object()) wrong("not a JSON object; the file is cut off or something else");
  const auto field = [&](const ordered_json& object, const char* key) -> const ordered_json& {
    if (!object.is_object() || !object.contains(key)) wrong(fmt::format("'{}' is missing", key));
    return object[key];
  };
  const auto whole = [&](const char* key, size_t most) {
    const ordered_json& value = field(json, key);
    if (!value.is_number_unsigned() || value.get<size_t>() == 0 || value.get<size_t>() > most)
      wrong(fmt::format("'{}' is {}, expected 1 to {}", key, value.dump(), most));
    return value.get<size_t>();
  };
  const auto hash = [&](const char* key) {
    const ordered_json& value = field(json, key);
    const std::string digits = value.is_string() ? value.get<std::string>() : "";
    if (digits.size() != 16 || digits.find_first_not_of("0123456789abcdef") != std::string::npos)
      wrong(fmt::format("'{}' is {}, expected 16 hexadecimal digits", key, value.dump()));
    return std::stoull(digits, nullptr, 16);
  };
  if (field(json, "schema") != kSchema)
    wrong(fmt::format("'schema' is {}, this version reads {}", json["schema"].dump(), kSchema));
  KvCalibration c;
  const ordered_json& model = field(json, "model");
  if (!model.is_string()) wrong(fmt::format("'model' is {}, expected a name", model.dump()));
  c.model = model.get<std::string>();
  c.model_hash = hash("model_hash");
  c.text_hash = hash("text_hash");
  const size_t num_layers = whole("num_layers", kMaxLayers);
  c.num_kv_heads = whole("num_kv_heads", kMaxLayers);
  c.head_dim = whole("head_dim", 512);
  c.group = whole("group", 512);
  c.text_tokens = whole("text_tokens", size_t{1} << 40);
  const ordered_json& layers = field(json, "sensitivities");
  if (!layers.is_array() || layers.size() != num_layers)
    wrong(fmt::format("'sensitivities' has {} entries, 'num_layers' is {}",
                      layers.is_array() ? layers.size() : 0, num_layers));
  for (size_t i = 0; i < num_layers; ++i) {
    KvSensitivity& s = c.layers.emplace_back();
    for (const auto& [key, costs] : {std::pair{"k", &s.k}, {"v", &s.v}}) {
      const ordered_json& values = field(layers[i], key);
      bool good = values.is_array() && values.size() == 3;
      for (size_t j = 0; good && j < 3; ++j) {
        good = values[j].is_number() && values[j].get<double>() >= 0 &&
               std::isfinite(values[j].get<double>());
        if (good) (*costs)[j] = values[j].get<double>();
      }
      if (!good)
        wrong(fmt::format("'sensitivities' of layer {}, '{}': {}, expected three numbers from 0 on",
                          i, key, values.dump()));
    }
  }
  const ordered_json& smoothing = field(json, "smoothing");
  if (!smoothing.is_array() || smoothing.size() != num_layers)
    wrong(fmt::format("'smoothing' has {} entries, 'num_layers' is {}",
                      smoothing.is_array() ? smoothing.size() : 0, num_layers));
  for (size_t i = 0; i < num_layers; ++i) {
    KvSmoothing& s = c.smoothing.emplace_back();
    for (const auto& [key, to, most] : {std::tuple{"alpha", &s.alpha, 1.0},
                                        {"error", &s.error, 1e300},
                                        {"plain_error", &s.plain_error, 1e300}}) {
      const ordered_json& value = field(smoothing[i], key);
      if (!value.is_number() || !(value.get<double>() >= 0 && value.get<double>() <= most))
        wrong(fmt::format("'smoothing' of layer {}, '{}': {}, expected a number from 0 on", i, key,
                          value.dump()));
      *to = value.get<double>();
    }
    const ordered_json& factors = field(smoothing[i], "factors");
    const size_t wanted = c.num_kv_heads * c.head_dim;
    if (!factors.is_array() || factors.size() != wanted)
      wrong(fmt::format("'smoothing' of layer {}: {} factors, expected {}", i,
                        factors.is_array() ? factors.size() : 0, wanted));
    for (const ordered_json& factor : factors) {
      const bool good = factor.is_number() && factor.get<float>() > 0 &&
                        std::isfinite(factor.get<float>());
      if (!good)
        wrong(fmt::format("'smoothing' of layer {}: a factor of {}, expected a number above 0", i,
                          factor.dump()));
      s.factors.push_back(factor.get<float>());
    }
  }
  return c;
}

KvCalibration load_kv_calibration(const std::filesystem::path& path,
                                  const formats::Checkpoint& checkpoint) {
  constexpr size_t kLimit = size_t{16} << 20;
  KvCalibration c = parse_kv_calibration(read_file(path, kLimit), path.string());
  const models::LanguageModelConfig config = models::read_config(checkpoint);
  const auto compare = [&](const char* key, size_t found, size_t wanted) {
    if (found != wanted)
      fail(ErrorKind::kInvalidInput,
           "{}: '{}' is {}, but {} has {}. The file was made for '{}'; 'weft calibrate kv' makes "
           "one "
           "for this model.",
           path.string(), key, found, checkpoint.name(), wanted, c.model);
  };
  compare("num_layers", c.layers.size(), config.num_layers);
  compare("num_kv_heads", c.num_kv_heads, config.num_kv_heads);
  compare("head_dim", c.head_dim, config.head_dim);
  const uint64_t hash = kv_model_hash(checkpoint);
  if (c.model_hash != hash)
    fail(ErrorKind::kInvalidInput,
         "{}: 'model_hash' is {:016x}, but {} has {:016x}. The file was made for '{}', a model of "
         "the "
         "same shape; 'weft calibrate kv' makes one for this model.",
         path.string(), c.model_hash, checkpoint.name(), hash, c.model);
  return c;
}

}  // namespace weft::text
