#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/tokenizer_json.h"

namespace weft::formats {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 8;  // of Sequences in Sequences

template <typename T>
constexpr const char* kTypeName = "an integer";
template <>
constexpr const char* kTypeName<std::string> = "a string";
template <>
constexpr const char* kTypeName<bool> = "true or false";
template <>
constexpr const char* kTypeName<double> = "a number";

template <typename T>
bool holds(const json& value) {
  if constexpr (std::is_same_v<T, std::string>) return value.is_string();
  if constexpr (std::is_same_v<T, bool>) return value.is_boolean();
  if constexpr (std::is_same_v<T, double>) return value.is_number();
  return value.is_number_integer();
}

std::string type_of(const json& section, std::string_view where) {
  if (!section.is_object()) fail(ErrorKind::kInvalidInput, "{} is not an object", where);
  return json_field<std::string>(section, "type", where);
}

[[noreturn]] void fail_type(std::string_view where, std::string_view type, const char* known) {
  fail(ErrorKind::kUnsupported, "{} is of type '{}'; known are {}", where, type, known);
}

// Calls `add` for each of a Sequence's members.
template <typename Add>
void for_each_of(const json& section, const char* list, std::string_view where, int depth,
                 Add add) {
  if (depth >= kMaxDepth) {
    fail(ErrorKind::kUnsupported, "{} nests sequences more than {} deep", where, kMaxDepth);
  }
  const json* members = json_member(section, list);
  if (members == nullptr || !members->is_array()) {
    fail(ErrorKind::kInvalidInput, "{}: a Sequence has no array '{}'", where, list);
  }
  for (const json& member : *members) add(member);
}

struct Pattern {
  std::string text;
  bool is_regex = false;
};

// {"String": "x"} or {"Regex": "x"}
Pattern read_pattern(const json& section, std::string_view where) {
  const json* pattern = json_member(section, "pattern");
  if (pattern != nullptr && pattern->is_object()) {
    for (const char* kind : {"String", "Regex"}) {
      if (json_member(*pattern, kind) == nullptr) continue;
      return {json_field<std::string>(*pattern, kind, where), kind == std::string_view("Regex")};
    }
  }
  fail(ErrorKind::kInvalidInput, "{}: 'pattern' is neither a String nor a Regex", where);
}

void add_normalizer(const json& section, Normalizer& normalizer, int depth) {
  constexpr std::string_view kWhere = "normalizer";
  const std::string type = type_of(section, kWhere);
  if (type == "Sequence") {
    for_each_of(section, "normalizers", kWhere, depth,
                [&](const json& member) { add_normalizer(member, normalizer, depth + 1); });
  } else if (type == "Prepend") {
    normalizer.add(prepend_text(json_field<std::string>(section, "prepend", kWhere)));
  } else if (type == "Replace") {
    const Pattern pattern = read_pattern(section, kWhere);
    std::string content = json_field<std::string>(section, "content", kWhere);
    if (pattern.is_regex) {
      normalizer.add(replace_matches(Regex(pattern.text), std::move(content)));
    } else if (!pattern.text.empty()) {
      normalizer.add(replace_text(pattern.text, std::move(content)));
    }
  } else if (type == "NFC") {
    normalizer.add(normalize_nfc());
  } else if (type == "Strip") {
    normalizer.add(strip_space(json_field_or(section, "strip_left", kWhere, true),
                               json_field_or(section, "strip_right", kWhere, true)));
  } else {
    fail_type(kWhere, type, "Sequence, Prepend, Replace, NFC and Strip");
  }
}

constexpr std::string_view kPre = "pre_tokenizer";

SplitBehavior read_behavior(const json& section) {
  const std::string name = json_field<std::string>(section, "behavior", kPre);
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  fail(ErrorKind::kInvalidInput, "{}: a Split has the unknown behavior '{}'", kPre, name);
}

PrependScheme read_prepend_scheme(const json& section, std::string_view where) {
  const std::string name = json_field_or<std::string>(section, "prepend_scheme", where, "");
  if (name == "always") return PrependScheme::kAlways;
  if (name == "first") return PrependScheme::kFirst;
  if (name == "never") return PrependScheme::kNever;
  if (!name.empty()) {
    fail(ErrorKind::kInvalidInput, "{}: a Metaspace has the unknown prepend_scheme '{}'", where,
         name);
  }
  const bool add = json_field_or(section, "add_prefix_space", where, true);
  return add ? PrependScheme::kAlways : PrependScheme::kNever;
}

// Patterns of models that many people run; the scanner gives the same pieces many times faster.
struct KnownPattern {
  std::string_view regex;
  WordPattern words;
};
constexpr KnownPattern kKnownPatterns[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     WordPattern::kGpt2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
     R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
     WordPattern::kLlama3},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
     R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
     WordPattern::kQwen2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|)"
     R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     WordPattern::kQwen35},
};

void add_split(const json& section, PreTokenizer& pre) {
  const Pattern pattern = read_pattern(section, kPre);
  const SplitBehavior behavior = read_behavior(section);
  const bool invert = json_field_or(section, "invert", kPre, false);
  if (!pattern.is_regex) {
    if (!pattern.text.empty()) pre.add(split_by_text(pattern.text, behavior, invert));
    return;
  }
  // The scanners' pieces are all matches without gaps: isolated, or the gaps removed.
  const bool plain = (behavior == SplitBehavior::kIsolated && !invert) ||
                     (behavior == SplitBehavior::kRemoved && invert);
  for (const KnownPattern& known : kKnownPatterns) {
    if (plain && pattern.text == known.regex) return pre.add(split_words(known.words));
  }
  pre.add(split_by_regex(Regex(pattern.text), behavior, invert));
}

// `bytes`: a ByteLevel has been met; what follows it would see its alphabet.
void add_pre_tokenizer(const json& section, PreTokenizer& pre, bool& bytes, int depth) {
  const std::string type = type_of(section, kPre);
  if (bytes) fail(ErrorKind::kUnsupported, "{}: a {} stands behind ByteLevel", kPre, type);
  if (type == "Sequence") {
    for_each_of(section, "pretokenizers", kPre, depth,
                [&](const json& member) { add_pre_tokenizer(member, pre, bytes, depth + 1); });
  } else if (type == "ByteLevel") {
    bytes = true;
    if (json_field_or(section, "add_prefix_space", kPre, true)) pre.add(add_prefix_space());
    if (json_field_or(section, "use_regex", kPre, true)) pre.add(split_words(WordPattern::kGpt2));
  } else if (type == "Split") {
    add_split(section, pre);
  } else if (type == "Digits") {
    const bool single = json_field_or(section, "individual_digits", kPre, false);
    pre.add(split_digits(single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  } else if (type == "Punctuation") {
    const bool stated = json_member(section, "behavior") != nullptr;
    pre.add(split_punctuation(stated ? read_behavior(section) : SplitBehavior::kIsolated));
  } else if (type == "WhitespaceSplit") {
    pre.add(split_at_whitespace());
  } else if (type == "Metaspace") {
    pre.add(metaspace(json_field<std::string>(section, "replacement", kPre),
                      read_prepend_scheme(section, kPre),
                      json_field_or(section, "split", kPre, true)));
  } else {
    fail_type(kPre, type,
              "Sequence, ByteLevel, Split, Digits, Punctuation, WhitespaceSplit and Metaspace");
  }
}

constexpr std::string_view kPost = "post_processor";

// The ids that a template's special token stands for.
void append_special_ids(const json& section, const std::string& name, const Vocabulary& vocabulary,
                        std::vector<Token>& out) {
  const json* all = json_member(section, "special_tokens");
  const json* one = all == nullptr ? nullptr : json_member(*all, name);
  const json* ids = one == nullptr ? nullptr : json_member(*one, "ids");
  if (ids == nullptr || !ids->is_array()) {
    fail(ErrorKind::kInvalidInput, "{}: the template's special token '{}' has no ids", kPost, name);
  }
  for (const json& id : *ids) {
    if (!id.is_number_integer() || !vocabulary.contains(id.get<int64_t>())) {
      fail(ErrorKind::kInvalidInput,
           "{}: the special token '{}' has the id {}, but the vocabulary has "
           "{} tokens",
           kPost, name, id.dump(), vocabulary.size());
    }
    out.push_back(static_cast<Token>(id.get<int64_t>()));
  }
}

void add_template(const json& section, TokenizerParts& parts) {
  const json* single = json_member(section, "single");
  if (single == nullptr || !single->is_array()) {
    fail(ErrorKind::kInvalidInput, "{}: TemplateProcessing has no array 'single'", kPost);
  }
  parts.prefix.clear();
  parts.suffix.clear();
  bool text_seen = false;
  for (const json& item : *single) {
    if (json_member(item, "Sequence") != nullptr) {
      if (text_seen) fail(ErrorKind::kInvalidInput, "{}: 'single' has the text twice", kPost);
      text_seen = true;
    } else if (const json* special = json_member(item, "SpecialToken")) {
      append_special_ids(section, json_field<std::string>(*special, "id", kPost), *parts.vocabulary,
                         text_seen ? parts.suffix : parts.prefix);
    } else {
      fail(ErrorKind::kInvalidInput, "{}: 'single' has neither a Sequence nor a SpecialToken: {}",
           kPost, item.dump().substr(0, 80));
    }
  }
  if (!text_seen) fail(ErrorKind::kInvalidInput, "{}: 'single' has no place for the text", kPost);
}

void add_post_processor(const json& section, TokenizerParts& parts, int depth) {
  const std::string type = type_of(section, kPost);
  if (type == "Sequence") {
    for_each_of(section, "processors", kPost, depth,
                [&](const json& member) { add_post_processor(member, parts, depth + 1); });
  } else if (type == "TemplateProcessing") {
    add_template(section, parts);
  } else if (type != "ByteLevel") {  // ByteLevel moves offsets, which we don't give
    fail_type(kPost, type, "Sequence, TemplateProcessing and ByteLevel");
  }
}

constexpr std::string_view kDecoder = "decoder";

void add_strip(const json& section, PieceDecoder& decoder, bool fused) {
  const std::string content = json_field<std::string>(section, "content", kDecoder);
  const int64_t start = json_field<int64_t>(section, "start", kDecoder);
  const int64_t stop = json_field<int64_t>(section, "stop", kDecoder);
  if (content != " " || start < 0 || start > 1 || stop != 0 || !fused) {
    fail(ErrorKind::kUnsupported,
         "{}: Strip of {} x '{}' at the start and {} at the end; known is up to one space at the "
         "start, after Fuse",
         kDecoder, start, content, stop);
  }
  decoder.strip_first_space = start == 1;
}

void add_decoder(const json& section, PieceDecoder& decoder, bool& fused, int depth) {
  const std::string type = type_of(section, kDecoder);
  if (type == "Sequence") {
    for_each_of(section, "decoders", kDecoder, depth,
                [&](const json& member) { add_decoder(member, decoder, fused, depth + 1); });
  } else if (type == "ByteLevel") {
    decoder.letters = true;
  } else if (type == "Replace") {
    const Pattern pattern = read_pattern(section, kDecoder);
    if (pattern.is_regex) {
      fail(ErrorKind::kUnsupported, "{}: Replace with a Regex; known is a String", kDecoder);
    }
    if (pattern.text.empty()) return;
    decoder.replacements.emplace_back(pattern.text,
                                      json_field<std::string>(section, "content", kDecoder));
  } else if (type == "Metaspace") {
    const std::string mark = json_field<std::string>(section, "replacement", kDecoder);
    if (mark.empty()) fail(ErrorKind::kInvalidInput, "{}: Metaspace replaces nothing", kDecoder);
    decoder.replacements.emplace_back(mark, " ");
    decoder.strip_first_space = read_prepend_scheme(section, kDecoder) != PrependScheme::kNever;
  } else if (type == "Strip") {
    add_strip(section, decoder, fused);
  } else if (type == "Fuse") {
    fused = true;
  } else if (type != "ByteFallback") {  // byte tokens are bytes here whether it is named or not
    fail_type(kDecoder, type,
              "Sequence, ByteLevel, Replace, Metaspace, ByteFallback, Fuse and Strip");
  }
}

}  // namespace

const json* json_member(const json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

template <typename T>
T json_field(const json& object, std::string_view key, std::string_view where) {
  const json* value = json_member(object, key);
  if (value == nullptr) fail(ErrorKind::kInvalidInput, "{}: '{}' is missing", where, key);
  if (!holds<T>(*value)) {
    fail(ErrorKind::kInvalidInput, "{}: '{}' is not {}", where, key, kTypeName<T>);
  }
  return value->get<T>();
}

template <typename T>
T json_field_or(const json& object, std::string_view key, std::string_view where, T otherwise) {
  return json_member(object, key) == nullptr ? std::move(otherwise)
                                             : json_field<T>(object, key, where);
}

template std::string json_field(const json&, std::string_view, std::string_view);
template int64_t json_field(const json&, std::string_view, std::string_view);
template double json_field(const json&, std::string_view, std::string_view);
template bool json_field(const json&, std::string_view, std::string_view);
template std::string json_field_or(const json&, std::string_view, std::string_view, std::string);
template int64_t json_field_or(const json&, std::string_view, std::string_view, int64_t);
template bool json_field_or(const json&, std::string_view, std::string_view, bool);

void fill_normalizer(const json& section, Normalizer& normalizer) {
  add_normalizer(section, normalizer, 0);
}

bool fill_pre_tokenizer(const json& section, PreTokenizer& pre_tokenizer) {
  bool bytes = false;
  add_pre_tokenizer(section, pre_tokenizer, bytes, 0);
  return bytes;
}

void fill_post_processor(const json& section, TokenizerParts& parts) {
  add_post_processor(section, parts, 0);
}

void fill_decoder(const json& section, PieceDecoder& decoder) {
  bool fused = false;
  add_decoder(section, decoder, fused, 0);
}

}  // namespace weft::formats
