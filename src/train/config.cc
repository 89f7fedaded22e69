#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "base/error.h"

namespace weft::train {
namespace {

using nlohmann::ordered_json;

// Letters to change, add or drop to get from one word to the other (Levenshtein).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::string dump(const ordered_json& value) {
  std::string text = value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

// Reads an object's keys one by one, or writes them; those that nobody asked for are unknown.
class Keys {
 public:
  Keys(const ordered_json* from, std::string where) : from_(from), where_(std::move(where)) {}

  // Every kind of value: `about` says what it means, and is printed beside it.
  void text(const char* key, std::string& value, const char* about,
            std::span<const char* const> allowed = {}) {
    note(key, value, about);
    const ordered_json* found = find(key);
    if (found == nullptr) return;
    if (!found->is_string()) wrong(key, *found, "a string");
    const auto& given = found->get_ref<const std::string&>();
    if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), given) == allowed.end()) {
      std::string list;
      for (const char* name : allowed) list += (list.empty() ? "" : ", ") + std::string(name);
      wrong(key, *found, "one of " + list);
    }
    value = given;
  }
  void list(const char* key, std::vector<std::string>& value, const char* about) {
    note(key, value, about);
    const ordered_json* found = find(key);
    if (found == nullptr) return;
    const ordered_json items = found->is_string() ? ordered_json::array({*found}) : *found;
    if (!items.is_array()) wrong(key, *found, "a string or a list of strings");
    value.clear();
    for (const ordered_json& item : items) {
      if (!item.is_string() || item.get_ref<const std::string&>().empty())
        wrong(key, item, "a string or a list of strings");
      value.push_back(item.get<std::string>());
    }
  }
  void count(const char* key, size_t& value, size_t least, size_t most, const char* about) {
    note(key, value, about);
    const ordered_json* found = find(key);
    if (found == nullptr) return;
    if (!found->is_number_unsigned() || found->get<uint64_t>() < least ||
        found->get<uint64_t>() > most)
      wrong(key, *found, fmt::format("a whole number from {} to {}", least, most));
    value = found->get<size_t>();
  }
  void number(const char* key, double& value, double least, double most, const char* about) {
    note(key, value, about);
    const ordered_json* found = find(key);
    if (found == nullptr) return;
    const double given = found->is_number() ? found->get<double>() : std::nan("");
    if (!(given >= least && given <= most))
      wrong(key, *found, fmt::format("a number from {} to {}", least, most));
    value = given;
  }
  void flag(const char* key, bool& value, const char* about) {
    note(key, value, about);
    const ordered_json* found = find(key);
    if (found == nullptr) return;
    if (!found->is_boolean()) wrong(key, *found, "true or false");
    value = found->get<bool>();
  }
  const ordered_json* object(const char* key) {
    known_.emplace_back(key);
    const ordered_json* found = find(key);
    if (found != nullptr && !found->is_object()) wrong(key, *found, "an object");
    return found;
  }

  // `elsewhere`: another object's keys, which may have been meant; `shown` with one put in.
  void refuse_unknown(const Keys& elsewhere, fmt::format_string<const std::string&> shown) const {
    if (from_ == nullptr) return;
    for (const auto& [key, value] : from_->items()) {
      const auto [nearest, distance] = nearest_to(key);
      if (distance == 0) continue;
      const auto [other, other_distance] = elsewhere.nearest_to(key);
      fail(ErrorKind::kInvalidInput,
           "{}: there is no key '{}'. The nearest is {}; "
           "'weft train lm --print-config' lists all.",
           where_, key,
           other_distance < distance ? fmt::format(shown, other) : fmt::format("'{}'", nearest));
    }
  }
  const std::vector<std::pair<std::string, std::string>>& lines() const { return lines_; }

 private:
  template <typename T>
  void note(const char* key, const T& value, const char* about) {
    known_.emplace_back(key);
    lines_.emplace_back(fmt::format("\"{}\": {}", key, ordered_json(value).dump()), about);
  }
  std::pair<std::string, size_t> nearest_to(const std::string& key) const {
    std::pair<std::string, size_t> best{"", SIZE_MAX};
    for (const std::string& known : known_)
      if (const size_t distance = edit_distance(key, known); distance < best.second)
        best = {known, distance};
    return best;
  }
  const ordered_json* find(const char* key) const {
    if (from_ == nullptr) return nullptr;
    const auto it = from_->find(key);
    return it == from_->end() || it->is_null() ? nullptr : &*it;
  }
  [[noreturn]] void wrong(const char* key, const ordered_json& value,
                          const std::string& expected) const {
    fail(ErrorKind::kInvalidInput, "{}: '{}' is {}, expected {}", where_, key, dump(value),
         expected);
  }

  const ordered_json* from_;
  std::string where_;
  std::vector<std::string> known_;
  std::vector<std::pair<std::string, std::string>> lines_;
};

constexpr const char* kArchitectures[] = {"llama", "qwen2", "qwen3", "megrez2"};
constexpr const char* kDevices[] = {"auto", "cpu", "cuda"};
constexpr const char* kDTypes[] = {"bf16", "f32"};
constexpr const char* kSchedules[] = {"cosine", "wsd", "constant"};
constexpr size_t kMany = size_t{1} << 40;

void visit(Keys& keys, ModelSection& m) {
  keys.text("architecture", m.architecture, "llama, qwen2, qwen3 or megrez2", kArchitectures);
  keys.count("num_hidden_layers", m.num_hidden_layers, 1, 512, "layers");
  keys.count("hidden_size", m.hidden_size, 16, 65536, "a multiple of 16");
  keys.count("num_attention_heads", m.num_attention_heads, 1, 512, "query heads");
  keys.count("num_key_value_heads", m.num_key_value_heads, 0, 512, "0: as many");
  keys.count("head_dim", m.head_dim, 0, 512, "0: hidden_size / num_attention_heads");
  keys.count("intermediate_size", m.intermediate_size, 16, 262144, "width of the MLPs");
  keys.flag("tie_word_embeddings", m.tie_word_embeddings, "the head is the embedding");
  keys.number("rope_theta", m.rope_theta, 1.0001, 1e12, "base of the rotary positions");
  keys.count("n_routed_experts", m.n_routed_experts, 0, 4096, "megrez2: of each group of layers");
  keys.count("num_experts_per_tok", m.num_experts_per_tok, 1, 256, "megrez2: that a token goes to");
  keys.count("moe_intermediate_size", m.moe_intermediate_size, 16, 65536, "megrez2: of an expert");
  keys.count("n_shared_experts", m.n_shared_experts, 0, 64, "megrez2: that every token goes to");
  keys.count("first_k_dense_replace", m.first_k_dense_replace, 0, 512,
             "megrez2: layers with a plain MLP before the others");
  keys.count("experts_shared_frequency", m.experts_shared_frequency, 1, 512,
             "megrez2: layers that share their experts");
  keys.flag("pre_gate", m.pre_gate, "megrez2: routers read the layer before");
}

void visit(Keys& keys, Config& c) {
  keys.text("out", c.out, "folder of the run: log, checkpoints, report, the model");
  keys.text("init", c.init, "a model folder or .gguf to go on from; empty: `model`, from scratch");
  keys.text("tokenizer", c.tokenizer, "a folder with tokenizer.json, or a .gguf; empty: of init");
  keys.list("data", c.data, "*.jsonl, text files, task:NAME?OPTIONS");
  keys.list("eval", c.eval, "the same, held out; may be empty");
  keys.count("eval_every", c.eval_every, 1, kMany, "steps");
  keys.count("seed", c.seed, 0, kMany, "of weights and data");
  keys.text("device", c.device, "auto, cpu or cuda", kDevices);
  keys.text("dtype", c.dtype, "of the products: bf16 or f32 (weights are kept in f32)", kDTypes);
  keys.count("context", c.context, 8, size_t{1} << 20, "tokens of an example at most");
  keys.count("batch_tokens", c.batch_tokens, 8, size_t{1} << 30, "of one optimiser step");
  keys.count("accumulate", c.accumulate, 1, 4096, "passes that a step is divided into");
  keys.count("steps", c.steps, 0, kMany, "0: until max_seconds");
  keys.number("max_seconds", c.max_seconds, 0, 1e9, "0: until steps; the schedule follows it");
  std::string schedule = name(c.schedule);
  keys.text("schedule", schedule, "cosine, wsd (the last fifth decays) or constant", kSchedules);
  c.schedule = schedule == "cosine" ? Schedule::kCosine
               : schedule == "wsd"  ? Schedule::kWsd
                                    : Schedule::kConstant;
  keys.number("lr", c.lr, 0, 10, "largest learning rate");
  keys.number("final_lr", c.final_lr, 0, 1, "part of lr that is left at the end");
  keys.number("warmup", c.warmup, 0, 0.9, "part of the run");
  keys.number("weight_decay", c.weight_decay, 0, 10, "AdamW's, on matrices");
  keys.number("router_bias_rate", c.router_bias_rate, 0, 1, "megrez2: step of the balancing bias");
  keys.number("router_aux_loss", c.router_aux_loss, 0, 10,
              "megrez2: weight of the loss that balances each sequence");
  keys.count("checkpoint_every", c.checkpoint_every, 1, kMany, "steps; the last two are kept");
  keys.count("threads", c.threads, 0, 1024, "0: all cores");
  keys.text("gguf", c.gguf, "type of the GGUF: f32, bf16, q8_0, q4_K_M ...; none");
}

void check(const Config& c, const std::string& where) {
  const auto wrong = [&](const char* key, const auto& value, const std::string& expected) {
    fail(ErrorKind::kInvalidInput, "{}: '{}' is {}, expected {}", where, key, value, expected);
  };
  if (c.data.empty()) fail(ErrorKind::kInvalidInput, "{}: 'data' names nothing to train on", where);
  if (c.out.empty()) fail(ErrorKind::kInvalidInput, "{}: 'out' names no folder", where);
  if (c.steps == 0 && c.max_seconds == 0)
    fail(ErrorKind::kInvalidInput, "{}: neither 'steps' nor 'max_seconds' says when to end", where);
  if (c.init.empty() && c.tokenizer.empty())
    fail(ErrorKind::kInvalidInput,
         "{}: a model from scratch needs a 'tokenizer': a folder with tokenizer.json, or a .gguf",
         where);
  if (c.batch_tokens / c.accumulate < c.context)
    wrong("batch_tokens", c.batch_tokens,
          fmt::format("accumulate x context = {} or more, so that an example fits in a pass",
                      c.accumulate * c.context));
  if (!c.init.empty()) return;
  const ModelSection& m = c.model;
  if (m.hidden_size % 16 != 0) wrong("model.hidden_size", m.hidden_size, "a multiple of 16");
  if (m.head_dim == 0 && m.hidden_size % m.num_attention_heads != 0)
    wrong("model.num_attention_heads", m.num_attention_heads,
          fmt::format("a divisor of hidden_size = {}", m.hidden_size));
  const size_t head_dim = m.head_dim == 0 ? m.hidden_size / m.num_attention_heads : m.head_dim;
  if (head_dim % 16 != 0)
    wrong("model.head_dim", head_dim, "a multiple of 16 (hidden_size / num_attention_heads)");
  if (m.num_key_value_heads != 0 && m.num_attention_heads % m.num_key_value_heads != 0)
    wrong("model.num_key_value_heads", m.num_key_value_heads,
          fmt::format("a divisor of num_attention_heads = {}", m.num_attention_heads));
  if (m.intermediate_size % 16 != 0)
    wrong("model.intermediate_size", m.intermediate_size, "a multiple of 16");
  if (m.architecture != "megrez2") {
    if (m.n_routed_experts != 0)
      wrong("model.n_routed_experts", m.n_routed_experts,
            "0: experts are of architecture megrez2 alone");
    return;
  }
  if (m.n_routed_experts == 0) wrong("model.n_routed_experts", 0, "1 or more for megrez2");
  if (m.num_experts_per_tok > m.n_routed_experts)
    wrong("model.num_experts_per_tok", m.num_experts_per_tok,
          fmt::format("at most n_routed_experts = {}", m.n_routed_experts));
  if (m.moe_intermediate_size % 16 != 0)
    wrong("model.moe_intermediate_size", m.moe_intermediate_size, "a multiple of 16");
  if (m.first_k_dense_replace >= m.num_hidden_layers)
    wrong("model.first_k_dense_replace", m.first_k_dense_replace,
          fmt::format("less than num_hidden_layers = {}", m.num_hidden_layers));
  if (m.pre_gate && m.first_k_dense_replace == 0)
    wrong("model.first_k_dense_replace", 0,
          "1 or more: with pre_gate routers read the layer before");
}

// "model.lr=3": a JSON value, or else a string, put where the path says.
void apply(ordered_json& config, const std::string& setting) {
  const size_t equals = setting.find('=');
  if (equals == std::string::npos || equals == 0)
    fail(ErrorKind::kInvalidInput, "--set {}: expected KEY=VALUE", setting);
  const std::string path = setting.substr(0, equals), text = setting.substr(equals + 1);
  ordered_json value = ordered_json::parse(text, nullptr, false);
  if (value.is_discarded()) value = text;
  const size_t dot = path.find('.');
  if (dot == std::string::npos)
    config[path] = value;
  else
    config[path.substr(0, dot)][path.substr(dot + 1)] = value;
}

}  // namespace

const char* name(Schedule schedule) { return kSchedules[static_cast<size_t>(schedule)]; }

Config parse_config(std::string_view json, const std::string& name,
                    const std::vector<std::string>& settings) {
  ordered_json parsed;
  try {
    parsed = ordered_json::parse(json, nullptr, true, true);  // with comments
  } catch (const ordered_json::parse_error& error) {
    const std::string_view before = json.substr(0, std::min(error.byte, json.size()));
    fail(ErrorKind::kInvalidInput, "{}:{}: not JSON: {}", name,
         std::count(before.begin(), before.end(), '\n') + 1, error.what());
  }
  if (!parsed.is_object()) fail(ErrorKind::kInvalidInput, "{}: not a JSON object", name);
  try {
    for (const std::string& setting : settings) apply(parsed, setting);
  } catch (const ordered_json::exception& error) {
    fail(ErrorKind::kInvalidInput, "{}: --set: {}", name, error.what());
  }
  Config config;
  Keys keys(&parsed, name);
  const ordered_json* model = keys.object("model");
  visit(keys, config);
  Keys model_keys(model, name + ": model");
  visit(model_keys, config.model);
  keys.refuse_unknown(model_keys, "'{}' inside \"model\"");
  model_keys.refuse_unknown(keys, "'{}' outside \"model\"");
  check(config, name);
  return config;
}

std::string print_config(const Config& config) {
  Config copy = config;
  Keys keys(nullptr, ""), model_keys(nullptr, "");
  visit(keys, copy);
  visit(model_keys, copy.model);
  std::string text = "{\n";
  for (const auto& [line, about] : keys.lines())
    text += fmt::format("  {:<34} // {}\n", line + ",", about);
  text += "  \"model\": {  // without init\n";
  for (size_t i = 0; i < model_keys.lines().size(); ++i) {
    const auto& [line, about] = model_keys.lines()[i];
    const bool last = i + 1 == model_keys.lines().size();
    text += fmt::format("    {:<32} // {}\n", line + (last ? "" : ","), about);
  }
  return text + "  }\n}\n";
}

}  // namespace weft::train
