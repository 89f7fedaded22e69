#include "formats/tokenizer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "formats/bounded_json.h"
#include "formats/tokenizer_bpe.h"
#include "formats/tokenizer_unigram.h"

namespace weft::formats {
namespace {

using nlohmann::json;

struct VocabularyEntry {
  std::string_view text;
  int64_t id = 0;
  float score = 0;
};

// The vocabulary and the merges, taken out while the rest becomes a json tree: as trees, 150k
// entries would cost more than everything else together.
struct JsonModel {
  explicit JsonModel(size_t bytes) : arena(std::make_shared<TextArena>(bytes)) {}
  std::shared_ptr<TextArena> arena;  // texts are never longer than their JSON
  std::vector<VocabularyEntry> entries;
  std::vector<MergeTexts> merges;
};

// Watches the parser. model.vocab is {"text": id} or [["text", score]]; model.merges is ["left
// right"] or
// [["left", "right"]].
class ModelReader {
 public:
  explicit ModelReader(JsonModel& model) : model_(model) {}

  // False: the parser forgets what it just read.
  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) {
      fail(ErrorKind::kInvalidInput, "the file nests values more than {} deep", kMaxDepth);
    }
    if (event == json::parse_event_t::key) return on_key(depth, parsed);
    if (list_ == List::kNone || depth <= kListDepth) return true;
    if (event == json::parse_event_t::value) return on_value(depth, parsed);
    if (event == json::parse_event_t::array_end) return on_pair_end(depth);
    if (event == json::parse_event_t::object_start) fail_entry("an object");
    return true;
  }

 private:
  enum class List { kNone, kVocabulary, kMerges };
  static constexpr int kListDepth = 2;  // {"model": {"vocab": ...
  static constexpr int kMaxDepth = 64;

  bool on_key(int depth, const json& parsed) {
    const std::string& key = parsed.get_ref<const std::string&>();
    if (depth == 1) in_model_ = key == "model";
    if (depth <= kListDepth) {
      list_ = List::kNone;
      if (in_model_ && depth == kListDepth && key == "vocab") list_ = List::kVocabulary;
      if (in_model_ && depth == kListDepth && key == "merges") list_ = List::kMerges;
    }
    if (list_ == List::kNone || depth <= kListDepth) return true;
    key_ = model_.arena->add(key);
    has_key_ = true;
    return false;
  }

  bool on_value(int depth, const json& value) {
    if (list_ == List::kVocabulary && has_key_) {
      if (!value.is_number_integer()) fail_entry("an id that is no integer");
      model_.entries.push_back({key_, value.get<int64_t>(), 0});
      has_key_ = false;
      return true;  // the key was dropped already
    }
    if (depth == kListDepth + 1 && list_ == List::kMerges && value.is_string()) {
      add_merge_line(model_.arena->add(value.get_ref<const std::string&>()));
      return false;
    }
    if (depth != kListDepth + 2 || parts_ == 2) fail_entry("an entry that is no pair");
    if (parts_ == 0 || list_ == List::kMerges) {
      if (!value.is_string()) fail_entry("an entry whose text is no string");
      texts_[parts_] = model_.arena->add(value.get_ref<const std::string&>());
    } else {
      if (!value.is_number()) fail_entry("a score that is no number");
      score_ = value.get<float>();
    }
    ++parts_;
    return false;
  }

  bool on_pair_end(int depth) {
    if (depth != kListDepth + 1 || parts_ != 2) fail_entry("an entry that is no pair");
    parts_ = 0;
    if (list_ == List::kVocabulary) {
      model_.entries.push_back({texts_[0], static_cast<int64_t>(model_.entries.size()), score_});
    } else {
      model_.merges.push_back({texts_[0], texts_[1]});
    }
    return false;
  }

  void add_merge_line(std::string_view line) {
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) fail_entry("a merge without a space");
    model_.merges.push_back({line.substr(0, space), line.substr(space + 1)});
  }

  [[noreturn]] void fail_entry(const char* what) const {
    const bool vocabulary = list_ == List::kVocabulary;
    fail(ErrorKind::kInvalidInput, "model.{} has {} at entry {}", vocabulary ? "vocab" : "merges",
         what, vocabulary ? model_.entries.size() : model_.merges.size());
  }

  JsonModel& model_;
  List list_ = List::kNone;
  bool in_model_ = false, has_key_ = false;
  std::string_view key_;
  size_t parts_ = 0;  // of the pair being read
  std::string_view texts_[2];
  float score_ = 0;
};

json parse_json(std::string_view text, JsonModel& model) {
  try {
    return json::parse(text, ModelReader(model));
  } catch (const json::parse_error& error) {
    fail(ErrorKind::kInvalidInput, "no valid JSON at byte {}", error.byte);
  } catch (const json::exception& error) {
    fail(ErrorKind::kInvalidInput, "no valid JSON: {}", error.what());
  }
}

struct AddedEntry {
  AddedToken token;
  bool normalized = false;
};

std::vector<AddedEntry> read_added(const json& root, JsonModel& model) {
  std::vector<AddedEntry> added;
  const json* list = json_member(root, "added_tokens");
  if (list == nullptr) return added;
  if (!list->is_array()) fail(ErrorKind::kInvalidInput, "added_tokens is not an array");
  for (const json& item : *list) {
    constexpr std::string_view kWhere = "added_tokens";
    AddedEntry entry;
    entry.token.text = json_field<std::string>(item, "content", kWhere);
    const int64_t id = json_field<int64_t>(item, "id", kWhere);
    model.entries.push_back({model.arena->add(entry.token.text), id, 0});
    entry.token.id = static_cast<Token>(id);  // checked with the vocabulary's
    entry.token.special = json_field_or(item, "special", kWhere, false);
    entry.token.strip_left = json_field_or(item, "lstrip", kWhere, false);
    entry.token.strip_right = json_field_or(item, "rstrip", kWhere, false);
    entry.token.single_word = json_field_or(item, "single_word", kWhere, false);
    entry.normalized = json_field_or(item, "normalized", kWhere, !entry.token.special);
    added.push_back(std::move(entry));
  }
  return added;
}

// Ids may have holes (padding that no token uses), but not more of them than a file can mean.
size_t checked_size(const std::vector<VocabularyEntry>& entries) {
  if (entries.empty()) fail(ErrorKind::kInvalidInput, "the vocabulary is empty");
  const int64_t limit = static_cast<int64_t>(entries.size()) * 2 + 65536;
  int64_t highest = 0;
  for (const VocabularyEntry& entry : entries) {
    if (entry.id < 0 || entry.id >= limit) {
      fail(ErrorKind::kInvalidInput,
           "the token '{}' has the id {}, but the vocabulary has {} tokens", entry.text, entry.id,
           entries.size());
    }
    highest = std::max(highest, entry.id);
  }
  return static_cast<size_t>(highest) + 1;
}

std::unique_ptr<Vocabulary> make_vocabulary(const JsonModel& model) {
  const size_t size = checked_size(model.entries);
  std::vector<std::string_view> texts(size);
  std::vector<TokenKind> kinds(size, TokenKind::kUnused);
  for (const VocabularyEntry& entry : model.entries) {
    const size_t id = static_cast<size_t>(entry.id);
    if (!texts[id].empty() && texts[id] != entry.text) {
      fail(ErrorKind::kInvalidInput, "the id {} is both '{}' and '{}'", id, texts[id], entry.text);
    }
    texts[id] = entry.text;
    kinds[id] = TokenKind::kNormal;
  }
  return std::make_unique<Vocabulary>(std::move(texts), std::move(kinds), model.arena);
}

void check_merge_parts(const JsonModel& model, const Vocabulary& vocabulary) {
  for (size_t i = 0; i < model.merges.size(); ++i) {
    for (const std::string_view part : {model.merges[i].left, model.merges[i].right}) {
      if (vocabulary.find(part) >= 0) continue;
      fail(ErrorKind::kInvalidInput, "merge {} is of '{}', which is no token", i, part);
    }
  }
}

void mark_byte_tokens(Vocabulary& vocabulary) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const Token token = vocabulary.byte_token(static_cast<uint8_t>(byte));
    if (token >= 0) vocabulary.set_kind(token, TokenKind::kByte);
  }
}

void fill_bpe(const json& section, const JsonModel& model, bool bytes, TokenizerParts& parts) {
  constexpr std::string_view kWhere = "model";
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (json_field_or<std::string>(section, name, kWhere, "").empty()) continue;
    fail(ErrorKind::kUnsupported, "model.{} is set, which is not supported", name);
  }
  BpeOptions options;
  options.alphabet = bytes ? BpeAlphabet::kBytes : BpeAlphabet::kCharacters;
  options.whole_words_first = json_field_or(section, "ignore_merges", kWhere, false);
  options.byte_fallback = json_field_or(section, "byte_fallback", kWhere, false);
  options.fuse_unknown = json_field_or(section, "fuse_unk", kWhere, false);
  const std::string unknown = json_field_or<std::string>(section, "unk_token", kWhere, "");
  if (!unknown.empty()) {
    const Token token = parts.vocabulary->find(unknown);
    if (token < 0) fail(ErrorKind::kInvalidInput, "model.unk_token '{}' is no token", unknown);
    options.unknown = token;
    parts.vocabulary->special.unknown = token;
  }
  check_merge_parts(model, *parts.vocabulary);
  if (options.byte_fallback && !bytes) mark_byte_tokens(*parts.vocabulary);
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary, model.merges, options);
}

void fill_unigram(const json& section, const JsonModel& model, TokenizerParts& parts) {
  Vocabulary& vocabulary = *parts.vocabulary;
  std::vector<float> scores(vocabulary.size());
  for (const VocabularyEntry& entry : model.entries) {
    // Added tokens repeat entries without a score.
    if (entry.score != 0) scores[static_cast<size_t>(entry.id)] = entry.score;
  }
  std::optional<Token> unknown;
  if (json_member(section, "unk_id") != nullptr) {
    const int64_t id = json_field<int64_t>(section, "unk_id", "model");
    if (!vocabulary.contains(id)) {
      fail(ErrorKind::kInvalidInput, "model.unk_id is {}, but the vocabulary has {} tokens", id,
           vocabulary.size());
    }
    unknown = static_cast<Token>(id);
    vocabulary.special.unknown = unknown;
    vocabulary.set_kind(*unknown, TokenKind::kUnknown);
  }
  const bool byte_fallback = json_field_or(section, "byte_fallback", "model", false);
  if (byte_fallback) mark_byte_tokens(vocabulary);
  parts.model =
      std::make_unique<UnigramModel>(vocabulary, std::move(scores), unknown, byte_fallback);
}

void fill_added(std::vector<AddedEntry> added, TokenizerParts& parts) {
  for (AddedEntry& entry : added) {
    const bool unknown = parts.vocabulary->special.unknown == entry.token.id;
    TokenKind kind = TokenKind::kUserDefined;
    if (entry.token.special) kind = unknown ? TokenKind::kUnknown : TokenKind::kControl;
    parts.vocabulary->set_kind(entry.token.id, kind);
    // Without a normalizer both searches see the same text.
    const bool late = entry.normalized && !parts.normalizer.empty();
    // What is searched in normalized text is normalized itself: Llama's "<s>" as "▁<s>".
    if (late) entry.token.text = parts.normalizer.apply(entry.token.text);
    (late ? parts.added_in_normalized : parts.added).add(std::move(entry.token));
  }
}

// "bos_token": "<s>" or {"content": "<s>", ...}
std::optional<Token> read_named_token(const json& config, const char* name,
                                      const Vocabulary& vocabulary) {
  const json* value = json_member(config, name);
  if (value != nullptr && value->is_object()) value = json_member(*value, "content");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  const Token token = vocabulary.find(value->get_ref<const std::string&>());
  return token < 0 ? std::nullopt : std::optional(token);
}

// Llama's tokenizer classes put BOS and EOS as the configuration says, whatever the template says.
void apply_llama_options(const json& config, TokenizerParts& parts) {
  const std::string name =
      json_field_or<std::string>(config, "tokenizer_class", "tokenizer_config.json", "");
  if (!name.starts_with("Llama") && !name.starts_with("CodeLlama")) return;
  const Tokenizer::Special& special = parts.vocabulary->special;
  const auto apply = [&](const char* option, std::optional<Token> token, std::vector<Token>& side) {
    const json* value = json_member(config, option);
    if (value == nullptr || !value->is_boolean()) return;
    side.clear();
    if (value->get<bool>() && token) side.push_back(*token);
  };
  apply("add_bos_token", special.bos, parts.prefix);
  apply("add_eos_token", special.eos, parts.suffix);
}

bool has(const std::vector<Token>& tokens, std::optional<Token> token) {
  return token && std::find(tokens.begin(), tokens.end(), *token) != tokens.end();
}

void fill_special(std::string_view config_text, TokenizerParts& parts) {
  Tokenizer::Special& special = parts.vocabulary->special;
  if (!config_text.empty()) {
    const json config = parse_bounded_json(config_text, "tokenizer_config.json");
    special.bos = read_named_token(config, "bos_token", *parts.vocabulary);
    special.eos = read_named_token(config, "eos_token", *parts.vocabulary);
    special.padding = read_named_token(config, "pad_token", *parts.vocabulary);
    if (!special.unknown)
      special.unknown = read_named_token(config, "unk_token", *parts.vocabulary);
    apply_llama_options(config, parts);
  }
  special.add_bos = has(parts.prefix, special.bos);
  special.add_eos = has(parts.suffix, special.eos);
  parts.vocabulary->find_end_tokens();
}

std::unique_ptr<Tokenizer> load(std::string_view text, std::string_view config_text) {
  JsonModel model(text.size());
  const json root = parse_json(text, model);
  const json* section = json_member(root, "model");
  if (section == nullptr || !section->is_object()) {
    fail(ErrorKind::kInvalidInput,
         "'model' is missing: this is no tokenizer of the tokenizers library");
  }
  std::vector<AddedEntry> added = read_added(root, model);

  TokenizerParts parts;
  parts.vocabulary = make_vocabulary(model);
  bool bytes = false;
  if (const json* part = json_member(root, "normalizer")) fill_normalizer(*part, parts.normalizer);
  if (const json* part = json_member(root, "pre_tokenizer")) {
    bytes = fill_pre_tokenizer(*part, parts.pre_tokenizer);
  }
  if (const json* part = json_member(root, "post_processor")) fill_post_processor(*part, parts);
  if (const json* part = json_member(root, "decoder")) {
    fill_decoder(*part, parts.decoder);
  } else {
    parts.decoder.separator.push_back(' ');  // g++ 12 warns of a plain assignment
  }
  // Files of before 0.9 name no type; they are BPE.
  const std::string type = json_field_or<std::string>(*section, "type", "model", "BPE");
  if (type == "BPE") {
    fill_bpe(*section, model, bytes, parts);
  } else if (type == "Unigram") {
    fill_unigram(*section, model, parts);
  } else {
    fail(ErrorKind::kUnsupported, "model is of type '{}'; known are BPE and Unigram", type);
  }
  fill_added(std::move(added), parts);
  fill_special(config_text, parts);
  const bool has_mark = parts.vocabulary->find(kSpaceMark) >= 0;
  if (parts.pre_tokenizer.empty() && has_mark && marks_only_lead(*parts.vocabulary, kSpaceMark)) {
    parts.pre_tokenizer.add(cut_before_runs(std::string(kSpaceMark)));
  }
  return make_tokenizer(std::move(parts));
}

}  // namespace

std::unique_ptr<Tokenizer> load_json_tokenizer(std::string_view tokenizer_json,
                                               std::string_view tokenizer_config_json,
                                               const std::string& name) {
  try {
    return load(tokenizer_json, tokenizer_config_json);
  } catch (const Error& error) {
    throw error.in(name);
  }
}

}  // namespace weft::formats
