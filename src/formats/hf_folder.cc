#include "formats/hf_folder.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/bounded_json.h"
#include "formats/safetensors.h"
#include "formats/tokenizer.h"

namespace weft::formats {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = 16 << 20;

std::string read_if_there(const fs::path& path) {
  return fs::exists(path) ? read_file(path) : std::string();
}

// Buffers that old checkpoints carry and no model reads.
bool is_obsolete(std::string_view tensor) { return tensor.ends_with(".rotary_emb.inv_freq"); }

// chat_template of tokenizer_config.json: a string, or a list of named ones.
std::optional<std::string> template_in(const json& config, const std::string& name) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const json& entry : *found)
      if (entry.is_object() && entry.value("name", json()) == "default" &&
          entry.value("template", json()).is_string())
        return entry["template"].get<std::string>();
  }
  fail(ErrorKind::kInvalidInput,
       "{}: chat_template is neither a string nor a list with a 'default'", name);
}

class HfFolder final : public Checkpoint {
 public:
  HfFolder(fs::path folder, HfConfig config, SafetensorsFolder weights)
      : folder_(std::move(folder)),
        name_(folder_.string()),
        config_(std::move(config)),
        files_(std::move(weights.files)) {
    for (const auto& [hf_name, view] : weights.tensors) add_tensor(hf_name, view);
    if (!config_.rope_freqs.empty())
      tensors_["rope_freqs.weight"] = {
          DType::kF32, {config_.rope_freqs.size()}, config_.rope_freqs.data()};
  }

  const std::string& name() const override { return name_; }
  std::string architecture() const override { return config_.architecture; }
  bool rope_interleaved() const override { return false; }

  std::optional<int64_t> get_int(std::string_view key) const override {
    const Hyperparameter* value = get(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* number = std::get_if<int64_t>(value)) return *number;
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is not an integer", name_, key);
  }

  std::optional<double> get_float(std::string_view key) const override {
    const Hyperparameter* value = get(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* number = std::get_if<int64_t>(value)) return static_cast<double>(*number);
    if (const auto* number = std::get_if<double>(value)) return *number;
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is not a number", name_, key);
  }

  std::optional<std::string> get_string(std::string_view key) const override {
    const Hyperparameter* value = get(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* text = std::get_if<std::string>(value)) return *text;
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is not a string", name_, key);
  }

  std::optional<bool> get_bool(std::string_view key) const override {
    const Hyperparameter* value = get(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* flag = std::get_if<bool>(value)) return *flag;
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is neither true nor false", name_, key);
  }

  Hyperparameters hyperparameters() const override { return config_.hyperparameters; }

  std::optional<TensorView> find(std::string_view tensor) const override {
    const auto it = tensors_.find(tensor);
    return it == tensors_.end() ? std::nullopt : std::optional(it->second);
  }

  std::vector<std::string> tensor_names() const override {
    std::vector<std::string> names;
    for (const auto& [name, view] : tensors_) names.push_back(name);
    return names;
  }

  Location locate(const void* data) const override {
    const MappedFile* file = file_of(data);
    WEFT_ASSERT(file != nullptr);
    return {file->path(),
            static_cast<size_t>(static_cast<const uint8_t*>(data) - file->bytes().data())};
  }

  void release(const TensorView& tensor) const override {
    if (const MappedFile* file = file_of(tensor.data)) file->release(tensor.data, tensor.bytes());
  }

  std::unique_ptr<Tokenizer> load_tokenizer() const override {
    const fs::path path = folder_ / "tokenizer.json";
    if (!fs::exists(path))
      fail(ErrorKind::kInvalidInput,
           "{}: has no tokenizer.json. Save the tokenizer with a current "
           "transformers (a lone tokenizer.model is not read), or use a GGUF file.",
           name_);
    return load_json_tokenizer(read_file(path), read_if_there(folder_ / "tokenizer_config.json"),
                               path.string());
  }

  std::optional<std::string> chat_template() const override {
    if (fs::exists(folder_ / "chat_template.jinja"))
      return read_file(folder_ / "chat_template.jinja");
    for (const char* file : {"tokenizer_config.json", "chat_template.json"}) {
      const fs::path path = folder_ / file;
      if (!fs::exists(path)) continue;
      if (auto found =
              template_in(parse_bounded_json(read_file(path), path.string()), path.string()))
        return found;
    }
    return std::nullopt;
  }

 private:
  const MappedFile* file_of(const void* data) const {  // nullptr: a tensor that is in no file
    for (const auto& file : files_) {
      const auto bytes = file->bytes();
      if (data >= bytes.data() && data < bytes.data() + bytes.size()) return file.get();
    }
    return nullptr;
  }

  void add_tensor(const std::string& hf_name, const TensorView& view) {
    if (is_obsolete(hf_name) || (config_.tied_embeddings && hf_name == "lm_head.weight")) return;
    const auto name = gguf_tensor_name(hf_name);
    if (!name)
      fail(ErrorKind::kUnsupported,
           "{}: tensor '{}' is none that architecture '{}' has. The model is a "
           "variant that this version does not know.",
           name_, hf_name, config_.architecture);
    tensors_.emplace(*name, view);
  }

  const Hyperparameter* get(std::string_view key) const {
    const auto it = config_.hyperparameters.find(key);
    return it == config_.hyperparameters.end() ? nullptr : &it->second;
  }

  fs::path folder_;
  std::string name_;
  HfConfig config_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

}  // namespace

std::unique_ptr<Checkpoint> open_hf_folder(const fs::path& folder) {
  const fs::path config_path = folder / "config.json";
  if (!fs::exists(config_path))
    fail(ErrorKind::kNotFound,
         "{}: a folder without config.json. Name a .gguf file, or a Hugging Face "
         "checkpoint folder.",
         folder.string());
  const json config =
      parse_bounded_json(read_file(config_path, kMaxConfigBytes), config_path.string());
  return std::make_unique<HfFolder>(folder, translate_hf_config(config, config_path.string()),
                                    open_safetensors_folder(folder));
}

}  // namespace weft::formats
