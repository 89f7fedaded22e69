#include "formats/hf_tokenizer_writer.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace weft::formats {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr int64_t kNormal = 1, kControl = 3, kUserDefined = 4;  // kinds of tokens

ordered_json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

ordered_json sequence(const char* list, ordered_json steps) {
  return {{"type", "Sequence"}, {list, std::move(steps)}};
}

// How text is cut before merging, by GGUF's name for it; null: no such name.
ordered_json pre_tokenizer(std::string_view pre) {
  constexpr const char* kBeforeDigits = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
  constexpr const char* kAfterDigits = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const auto split = [&](const char* digits) {
    const ordered_json regex = {{"Regex", std::string(kBeforeDigits) + digits + kAfterDigits}};
    return sequence(
        "pretokenizers",
        {{{"type", "Split"}, {"pattern", regex}, {"behavior", "Isolated"}, {"invert", false}},
         byte_level(false)});
  };
  if (pre == "gpt-2") return byte_level(true);
  if (pre == "smollm")
    return sequence("pretokenizers",
                    {{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)});
  if (pre == "llama-bpe") return split(R"(\p{N}{1,3})");
  if (pre == "qwen2") return split(R"(\p{N})");
  return nullptr;
}

void write_json(const fs::path& path, const ordered_json& value) {
  AtomicFile file(path);
  file.write(value.dump(2) + "\n");
  file.commit();
}

}  // namespace

void write_hf_tokenizer(const GgufFile& file, const fs::path& folder) {
  const std::string model = file.get_string("tokenizer.ggml.model").value_or("");
  const std::string pre = file.get_string("tokenizer.ggml.pre").value_or("gpt-2");
  const ordered_json cutting = pre_tokenizer(pre);
  if (model != "gpt2" || cutting.is_null())
    fail(ErrorKind::kUnsupported,
         "{}: a tokenizer of kind '{}' ('{}') cannot be written as tokenizer.json (byte-level BPE "
         "of "
         "GPT-2, SmolLM, Llama 3 and Qwen2 can). Name a folder with the model's tokenizer.json.",
         file.name(), model, pre);
  const auto tokens = file.get_array<std::string_view>("tokenizer.ggml.tokens");
  const auto merges = file.get_array<std::string_view>("tokenizer.ggml.merges");
  if (!tokens || !merges)
    fail(ErrorKind::kInvalidInput, "{}: has no tokens or no merges", file.name());
  const auto kinds = file.get_array<int64_t>("tokenizer.ggml.token_type");

  ordered_json vocab = ordered_json::object(), added = ordered_json::array();
  for (size_t i = 0; i < tokens->size(); ++i) {
    const int64_t kind = kinds && i < kinds->size() ? (*kinds)[i] : kNormal;
    if (kind == kControl || kind == kUserDefined)
      added.push_back({{"id", i},
                       {"content", (*tokens)[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", kind == kControl}});
    else
      vocab[std::string((*tokens)[i])] = i;
  }
  const bool adds_bos = file.get_bool("tokenizer.ggml.add_bos_token").value_or(false);
  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                         {"add_bos_token", adds_bos},
                         {"clean_up_tokenization_spaces", false}};
  constexpr struct {
    const char *key, *name;
  } kSpecial[] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                  {"tokenizer.ggml.eos_token_id", "eos_token"},
                  {"tokenizer.ggml.unknown_token_id", "unk_token"},
                  {"tokenizer.ggml.padding_token_id", "pad_token"}};
  for (const auto& special : kSpecial) {
    const auto id = file.get_int(special.key);
    if (!id) continue;
    if (*id < 0 || static_cast<size_t>(*id) >= tokens->size())
      fail(ErrorKind::kInvalidInput, "{}: '{}' is {}, but there are {} tokens", file.name(),
           special.key, *id, tokens->size());
    config[special.name] = (*tokens)[static_cast<size_t>(*id)];
  }
  ordered_json after = byte_level(true);
  if (adds_bos && config.contains("bos_token")) {
    const std::string bos = config["bos_token"];
    const ordered_json first = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
    const ordered_json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    const ordered_json second = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
    after = sequence("processors", {after,
                                    {{"type", "TemplateProcessing"},
                                     {"single", {first, text}},
                                     {"pair", {first, text, second}},
                                     {"special_tokens",
                                      {{bos,
                                        {{"id", bos},
                                         {"ids", {*file.get_int("tokenizer.ggml.bos_token_id")}},
                                         {"tokens", {bos}}}}}}}});
  }
  if (const auto chat = file.get_string("tokenizer.chat_template")) config["chat_template"] = *chat;
  const ordered_json normalizer = pre == "qwen2" ? ordered_json{{"type", "NFC"}} : ordered_json();
  write_json(folder / "tokenizer.json", {{"version", "1.0"},
                                         {"truncation", nullptr},
                                         {"padding", nullptr},
                                         {"added_tokens", added},
                                         {"normalizer", normalizer},
                                         {"pre_tokenizer", cutting},
                                         {"post_processor", after},
                                         {"decoder", byte_level(true)},
                                         {"model",
                                          {{"type", "BPE"},
                                           {"dropout", nullptr},
                                           {"unk_token", nullptr},
                                           {"continuing_subword_prefix", nullptr},
                                           {"end_of_word_suffix", nullptr},
                                           {"fuse_unk", false},
                                           {"byte_fallback", false},
                                           {"ignore_merges", pre == "llama-bpe"},
                                           {"vocab", vocab},
                                           {"merges", *merges}}}});
  write_json(folder / "tokenizer_config.json", config);
}

}  // namespace weft::formats
