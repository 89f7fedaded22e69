#include "formats/gguf_tokenizer_writer.h"

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "formats/bounded_json.h"

namespace weft::formats {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

const json& member(const json& object, const char* key) {
  static const json kNothing;
  if (!object.is_object()) return kNothing;
  const auto it = object.find(key);
  return it == object.end() ? kNothing : *it;
}

std::string text_member(const json& object, const char* key) {
  const json& value = member(object, key);
  return value.is_string() ? value.get<std::string>() : std::string();
}

bool flag(const json& object, const char* key, bool otherwise) {
  const json& value = member(object, key);
  return value.is_boolean() ? value.get<bool>() : otherwise;
}

// The steps of a pre-tokenizer or post-processor: one, or those of a Sequence.
std::vector<json> steps(const json& value, const char* list) {
  if (text_member(value, "type") != "Sequence") return {value};
  const json& inner = member(value, list);
  return inner.is_array() ? inner.get<std::vector<json>>() : std::vector<json>{};
}

// GGUF's name for the way this tokenizer cuts text; nothing if it has none.
std::optional<std::string> pre_tokenizer_name(const json& tokenizer) {
  // The published patterns, as they stand in the models' tokenizer.json.
  constexpr const char* kBeforeDigits = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
  constexpr const char* kAfterDigits = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  static const std::map<std::string, std::string> kPatterns = {
      {std::string(kBeforeDigits) + R"(\p{N}{1,3})" + kAfterDigits, "llama-bpe"},
      {std::string(kBeforeDigits) + R"(\p{N})" + kAfterDigits, "qwen2"}};

  const std::vector<json> stages = steps(member(tokenizer, "pre_tokenizer"), "pretokenizers");
  if (stages.empty() || text_member(stages.back(), "type") != "ByteLevel") return std::nullopt;
  const bool cuts_like_gpt2 = flag(stages.back(), "use_regex", true);
  if (stages.size() == 1) return cuts_like_gpt2 ? std::optional("gpt-2") : std::nullopt;
  if (stages.size() != 2) return std::nullopt;
  const std::string first = text_member(stages[0], "type");
  if (first == "Digits" && flag(stages[0], "individual_digits", false) && cuts_like_gpt2)
    return "smollm";
  if (first != "Split" || cuts_like_gpt2) return std::nullopt;
  const auto found = kPatterns.find(text_member(member(stages[0], "pattern"), "Regex"));
  return found == kPatterns.end() ? std::nullopt : std::optional(found->second);
}

struct Vocabulary {
  explicit Vocabulary(size_t size) : tokens(size), types(size, kUnused) {}

  void set(const std::string& where, const std::string& token, const json& id, int32_t type) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= tokens.size())
      fail(ErrorKind::kInvalidInput, "{}: token '{}' has id {}, but the model's vocab_size is {}",
           where, token, id.dump(), tokens.size());
    tokens[id.get<size_t>()] = token;
    types[id.get<size_t>()] = type;
  }

  std::vector<std::string> tokens;
  std::vector<int32_t> types;
};

Vocabulary read_vocabulary(const json& tokenizer, const std::string& where, size_t vocab_size) {
  Vocabulary out(vocab_size);
  const json& vocab = member(member(tokenizer, "model"), "vocab");
  if (!vocab.is_object()) fail(ErrorKind::kInvalidInput, "{}: model.vocab is missing", where);
  for (const auto& [token, id] : vocab.items()) out.set(where, token, id, kNormal);
  const json& added = member(tokenizer, "added_tokens");
  if (added.is_array())
    for (const json& token : added)
      out.set(where, text_member(token, "content"), member(token, "id"),
              flag(token, "special", false) ? kControl : kUserDefined);
  for (size_t i = 0; i < vocab_size; ++i)
    if (out.types[i] == kUnused) out.tokens[i] = fmt::format("[PAD{}]", i);
  return out;
}

// "a b" in older files, ["a", "b"] in newer ones.
std::vector<std::string> read_merges(const json& tokenizer, const std::string& where) {
  std::vector<std::string> out;
  const json& merges = member(member(tokenizer, "model"), "merges");
  if (!merges.is_array()) fail(ErrorKind::kInvalidInput, "{}: model.merges is missing", where);
  for (const json& merge : merges) {
    if (merge.is_string()) {
      out.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      out.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      fail(ErrorKind::kInvalidInput, "{}: a merge is neither a string nor a pair of strings",
           where);
    }
  }
  return out;
}

// Whether the post-processor puts a special token in front of a single text.
bool adds_bos(const json& tokenizer) {
  for (const json& step : steps(member(tokenizer, "post_processor"), "processors")) {
    const json& single = member(step, "single");
    if (single.is_array() && !single.empty() && single.front().contains("SpecialToken"))
      return true;
  }
  return false;
}

// tokenizer_config.json names special tokens by text, or by an object with "content".
void write_special_tokens(GgufWriter& writer, const json& config, const Vocabulary& vocabulary) {
  constexpr struct {
    const char* name;
    const char* key;
  } kSpecial[] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                  {"eos_token", "tokenizer.ggml.eos_token_id"},
                  {"unk_token", "tokenizer.ggml.unknown_token_id"},
                  {"pad_token", "tokenizer.ggml.padding_token_id"}};
  for (const auto& special : kSpecial) {
    const json& value = member(config, special.name);
    const std::string text =
        value.is_string() ? value.get<std::string>() : text_member(value, "content");
    for (size_t i = 0; i < vocabulary.tokens.size() && !text.empty(); ++i) {
      if (vocabulary.tokens[i] != text) continue;
      writer.set_u32(special.key, static_cast<uint32_t>(i));
      break;
    }
  }
}

std::vector<std::string_view> views(const std::vector<std::string>& strings) {
  return {strings.begin(), strings.end()};
}

}  // namespace

bool write_gguf_tokenizer(GgufWriter& writer, const fs::path& folder, size_t vocab_size) {
  const fs::path path = folder / "tokenizer.json", config_path = folder / "tokenizer_config.json";
  if (!fs::exists(path)) return false;
  const json tokenizer = parse_bounded_json(read_file(path), path.string());
  const json config = fs::exists(config_path)
                          ? parse_bounded_json(read_file(config_path), config_path.string())
                          : json::object();
  const auto pre = pre_tokenizer_name(tokenizer);
  if (text_member(member(tokenizer, "model"), "type") != "BPE" || !pre)
    fail(ErrorKind::kUnsupported,
         "{}: this kind of tokenizer cannot be written to GGUF (byte-level BPE "
         "of GPT-2, SmolLM, Llama 3 and Qwen2 can). Take the model's GGUF file as the input "
         "instead.",
         path.string());

  const Vocabulary vocabulary = read_vocabulary(tokenizer, path.string(), vocab_size);
  const std::vector<std::string> merges = read_merges(tokenizer, path.string());
  writer.set_string("tokenizer.ggml.model", "gpt2");
  writer.set_string("tokenizer.ggml.pre", *pre);
  writer.set_strings("tokenizer.ggml.tokens", views(vocabulary.tokens));
  writer.set_i32s("tokenizer.ggml.token_type", vocabulary.types);
  writer.set_strings("tokenizer.ggml.merges", views(merges));
  write_special_tokens(writer, config, vocabulary);
  writer.set_bool("tokenizer.ggml.add_bos_token",
                  flag(config, "add_bos_token", adds_bos(tokenizer)));
  return true;
}

}  // namespace weft::formats
