#include "formats/checkpoint.h"

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/hf_folder.h"
#include "formats/tokenizer.h"

namespace weft::formats {
namespace {

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(GgufFile file) : file_(std::move(file)) {}

  const std::string& name() const override { return file_.name(); }

  std::string architecture() const override {
    if (auto architecture = file_.get_string("general.architecture")) return *architecture;
    fail(ErrorKind::kInvalidInput, "{}: metadata 'general.architecture' is missing: not a model",
         name());
  }

  bool rope_interleaved() const override { return architecture() == "llama"; }

  std::optional<int64_t> get_int(std::string_view key) const override {
    return file_.get_int(full(key));
  }
  std::optional<double> get_float(std::string_view key) const override {
    return file_.get_float(full(key));
  }
  std::optional<std::string> get_string(std::string_view key) const override {
    return file_.get_string(full(key));
  }

  std::optional<bool> get_bool(std::string_view key) const override {
    return file_.get_bool(full(key));
  }

  Hyperparameters hyperparameters() const override {
    Hyperparameters out;
    const std::string prefix = full("");
    const auto& metadata = file_.metadata();
    for (auto it = metadata.lower_bound(prefix); it != metadata.end(); ++it) {
      if (it->first.compare(0, prefix.size(), prefix) != 0) break;
      const std::string key = it->first.substr(prefix.size());
      if (std::holds_alternative<uint64_t>(it->second) ||
          std::holds_alternative<int64_t>(it->second))
        out.emplace(key, *file_.get_int(it->first));
      else if (const auto* number = std::get_if<double>(&it->second))
        out.emplace(key, *number);
      else if (const auto* flag = std::get_if<bool>(&it->second))
        out.emplace(key, *flag);
      else if (const auto* text = std::get_if<std::string>(&it->second))
        out.emplace(key, *text);
    }
    return out;
  }

  std::optional<TensorView> find(std::string_view tensor) const override {
    const GgufTensor* found = file_.find(tensor);
    return found == nullptr ? std::nullopt : std::optional(found->view);
  }

  std::vector<std::string> tensor_names() const override {
    std::vector<std::string> names;
    for (const GgufTensor& tensor : file_.tensors()) names.push_back(tensor.name);
    return names;
  }

  Location locate(const void* data) const override {
    return {file_.file()->path(),
            static_cast<size_t>(static_cast<const uint8_t*>(data) - file_.file()->bytes().data())};
  }

  void release(const TensorView& tensor) const override {
    file_.file()->release(tensor.data, tensor.bytes());
  }

  std::unique_ptr<Tokenizer> load_tokenizer() const override { return load_gguf_tokenizer(file_); }

  std::optional<std::string> chat_template() const override {
    return file_.get_string("tokenizer.chat_template");
  }

  const GgufFile* gguf() const override { return &file_; }

 private:
  std::string full(std::string_view key) const { return architecture() + "." + std::string(key); }
  GgufFile file_;
};

}  // namespace

int64_t Checkpoint::require_int(std::string_view key) const {
  if (const auto value = get_int(key)) return *value;
  fail(ErrorKind::kInvalidInput,
       "{}: hyper-parameter '{}.{}' is missing. The file was converted "
       "wrongly or is not a language model.",
       name(), architecture(), key);
}

double Checkpoint::require_float(std::string_view key) const {
  if (const auto value = get_float(key)) return *value;
  fail(ErrorKind::kInvalidInput,
       "{}: hyper-parameter '{}.{}' is missing. The file was converted "
       "wrongly or is not a language model.",
       name(), architecture(), key);
}

TensorView Checkpoint::require(std::string_view tensor) const {
  if (const auto view = find(tensor)) return *view;
  fail(ErrorKind::kInvalidInput,
       "{}: tensor '{}' is missing, which architecture '{}' needs. The file "
       "is incomplete: fetch or convert it again.",
       name(), tensor, architecture());
}

std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return open_hf_folder(path);
  return std::make_unique<GgufCheckpoint>(GgufFile::open(path));
}

}  // namespace weft::formats
