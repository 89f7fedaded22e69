#include "formats/inspect.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"

namespace weft::formats {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr size_t kShownValues = 4;  // of an array

template <typename T>
ordered_json shorten(const std::vector<T>& values, const char* type) {
  ordered_json first = ordered_json::array();
  for (size_t i = 0; i < std::min(values.size(), kShownValues); ++i) first.push_back(values[i]);
  return {{"array", type}, {"length", values.size()}, {"first", first}};
}

struct ValueToJson {
  ordered_json operator()(const GgufArray& array) const {
    if (const auto v = array.as<std::string_view>()) return shorten(*v, "string");
    if (const auto v = array.as<double>()) return shorten(*v, "float");
    if (const auto v = array.as<int64_t>()) return shorten(*v, "integer");
    return shorten(array.as<uint8_t>().value(), "byte");
  }
  template <typename Scalar>
  ordered_json operator()(const Scalar& v) const {
    return v;
  }
};

ordered_json metadata_of(const GgufFile& file) {
  ordered_json out = ordered_json::object();
  for (const auto& [key, value] : file.metadata()) {
    const std::variant<bool, int64_t, uint64_t, double, std::string, GgufArray>& base = value;
    out[key] = std::visit(ValueToJson{}, base);
  }
  return out;
}

ordered_json hyperparameters_of(const Checkpoint& model) {
  ordered_json out = ordered_json::object();
  for (const auto& [key, value] : model.hyperparameters())
    out[key] = std::visit([](const auto& v) { return ordered_json(v); }, value);
  return out;
}

void add_tensors(const Checkpoint& model, ordered_json& out) {
  struct Sum {
    size_t tensors = 0, bytes = 0;
  };
  std::map<DType, Sum> sums;
  size_t parameters = 0;
  ordered_json list = ordered_json::array();
  for (const std::string& name : model.tensor_names()) {
    const TensorView view = model.require(name);
    ordered_json shape = ordered_json::array();
    for (size_t i = 0; i < view.shape.rank(); ++i) shape.push_back(view.shape[i]);
    list.push_back({{"name", name},
                    {"type", weft::name(view.dtype)},
                    {"shape", shape},
                    {"bytes", view.bytes()}});
    parameters += view.shape.elements();
    ++sums[view.dtype].tensors;
    sums[view.dtype].bytes += view.bytes();
  }
  out["parameters"] = parameters;
  ordered_json types = ordered_json::array();
  for (const auto& [type, sum] : sums)
    types.push_back({{"type", weft::name(type)}, {"tensors", sum.tensors}, {"bytes", sum.bytes}});
  out["tensor_types"] = types;
  out["tensors"] = list;
}

// What runs text through a model keeps: all weights and, per token, keys and values of 16 bit.
ordered_json memory_of(const Checkpoint& model, size_t context) {
  const auto layers = model.get_int("block_count"), heads = model.get_int("attention.head_count"),
             hidden = model.get_int("embedding_length");
  if (!layers || !heads || !hidden || *heads <= 0 || model.tensor_names().empty()) return nullptr;
  const int64_t kv_heads = model.get_int("attention.head_count_kv").value_or(*heads);
  const int64_t key = model.get_int("attention.key_length").value_or(*hidden / *heads);
  const int64_t value = model.get_int("attention.value_length").value_or(key);
  if (key < 0 || value < 0 || key > (1 << 30) || value > (1 << 30)) return nullptr;
  size_t weights = 0;
  for (const std::string& name : model.tensor_names()) weights += model.require(name).bytes();
  size_t per_token = 2, planned = 0;  // 16 bit; numbers of a lying file may be of any size
  for (const int64_t factor : {*layers, kv_heads, key + value})
    if (factor < 0 || __builtin_mul_overflow(per_token, static_cast<size_t>(factor), &per_token))
      return nullptr;
  if (context == 0) context = static_cast<size_t>(model.get_int("context_length").value_or(0));
  if (__builtin_mul_overflow(per_token, context, &planned)) return nullptr;
  return {{"weight_bytes", weights},
          {"kv_bytes_per_token", per_token},
          {"context", context},
          {"kv_bytes", planned}};
}

// Of a mixture of experts: what is stored, what a token computes, and what must be in memory
// however few experts are.
ordered_json experts_of(const Checkpoint& model) {
  const auto count = model.get_int("expert_count"), used = model.get_int("expert_used_count"),
             layers = model.get_int("block_count");
  if (!count || !used || !layers || *count <= 0 || *used <= 0 || *used > *count) return nullptr;
  const int64_t dense = model.get_int("leading_dense_block_count").value_or(0);
  size_t stored = 0, expert_parameters = 0, expert_bytes = 0, other_bytes = 0;
  std::set<std::string> leaders;  // layers that hold experts
  for (const std::string& name : model.tensor_names()) {
    const TensorView view = model.require(name);
    stored += view.shape.elements();
    if (name.find("_exps.") == name.npos) {
      other_bytes += view.bytes();
      continue;
    }
    expert_parameters += view.shape.elements();
    expert_bytes += view.bytes();
    leaders.insert(name.substr(0, name.find('.', 4)));
  }
  const auto groups = static_cast<int64_t>(leaders.size());
  if (groups == 0 || *layers <= dense) return nullptr;
  const size_t one = expert_parameters / static_cast<size_t>(groups * *count);
  const auto embedding = model.find("token_embd.weight");  // a row of it is looked up
  const bool tied = !embedding || !model.find("output.weight");
  const size_t computed = static_cast<size_t>((*layers - dense) * *used) * one + stored -
                          expert_parameters - (tied ? 0 : embedding->shape.elements());
  return {{"stored_parameters", stored},
          {"active_parameters", computed},
          {"layers_with_experts", *layers - dense},
          {"groups_that_share", groups},
          {"experts_per_group", *count},
          {"experts_per_token", *used},
          {"expert_bytes", expert_bytes},
          {"one_expert_bytes", expert_bytes / static_cast<size_t>(groups * *count)},
          {"resident_bytes", other_bytes}};
}

ordered_json gguf_tokenizer(const GgufFile& file) {
  const auto tokens = file.get_array<std::string_view>("tokenizer.ggml.tokens");
  if (!tokens) return nullptr;
  std::string kind = file.get_string("tokenizer.ggml.model").value_or("(unnamed)");
  if (const auto pre = file.get_string("tokenizer.ggml.pre")) kind += ", " + *pre;
  return {{"kind", kind}, {"tokens", tokens->size()}};
}

ordered_json folder_tokenizer(const fs::path& folder, const Checkpoint& model) {
  if (!fs::exists(folder / "tokenizer.json")) return nullptr;
  return {{"kind", "tokenizer.json"}, {"tokens", model.get_int("vocab_size").value_or(0)}};
}

size_t file_bytes(const fs::path& path) {
  if (!fs::is_directory(path)) return fs::file_size(path);
  size_t sum = 0;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.is_regular_file() && entry.path().extension() == ".safetensors")
      sum += entry.file_size();
  return sum;
}

}  // namespace

ordered_json inspect(const fs::path& path, size_t context) {
  const auto model = open_checkpoint(path);
  const GgufFile* gguf = model->gguf();
  const bool is_model = gguf == nullptr || gguf->metadata().contains("general.architecture");
  ordered_json out;
  out["file"] = path.string();
  out["container"] =
      gguf == nullptr ? "Hugging Face folder" : fmt::format("GGUF v{}", gguf->version());
  out["file_bytes"] = file_bytes(path);
  out["architecture"] = is_model ? ordered_json(model->architecture()) : ordered_json();
  out["hyperparameters"] = is_model ? hyperparameters_of(*model) : ordered_json::object();
  if (gguf != nullptr) out["metadata"] = metadata_of(*gguf);
  add_tensors(*model, out);
  out["tokenizer"] = gguf != nullptr ? gguf_tokenizer(*gguf) : folder_tokenizer(path, *model);
  out["chat_template"] = model->chat_template().has_value();
  out["experts"] = is_model ? experts_of(*model) : ordered_json();
  out["memory"] = is_model ? memory_of(*model, context) : ordered_json();
  return out;
}

}  // namespace weft::formats
