// The vocabulary in a GGUF file's metadata:
//   tokenizer.ggml.model   "gpt2" (byte-level BPE), "llama" (SentencePiece BPE), "t5" (unigram)
//   tokenizer.ggml.pre     gpt2: which pre-tokenizer
//   tokenizer.ggml.tokens, token_type, scores, merges ("left right")
//   tokenizer.ggml.{bos,eos,eot,eom,unknown,padding}_token_id, add_{bos,eos}_token,
//   add_space_prefix
#include <charconv>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/pre_tokenizer_gguf.h"
#include "formats/tokenizer_bpe.h"
#include "formats/tokenizer_pipeline.h"
#include "formats/tokenizer_spm.h"
#include "formats/tokenizer_unigram.h"

namespace weft::formats {
namespace {

std::string key(std::string_view name) { return fmt::format("tokenizer.ggml.{}", name); }

void check_size(std::string_view name, size_t size, size_t tokens) {
  if (size >= tokens) return;
  fail(ErrorKind::kInvalidInput,
       "{} has {} entries for {} tokens. The file is damaged or was converted wrongly: fetch or "
       "convert it again",
       key(name), size, tokens);
}

// llama.cpp's numbers.
TokenKind kind_of(int64_t type) {
  switch (type) {
    case 2:
      return TokenKind::kUnknown;
    case 3:
      return TokenKind::kControl;
    case 4:
      return TokenKind::kUserDefined;
    case 5:
      return TokenKind::kUnused;
    case 6:
      return TokenKind::kByte;
    default:
      return TokenKind::kNormal;
  }
}

bool is_byte_text(std::string_view text) {
  uint8_t value;
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>') &&
         std::from_chars(text.data() + 3, text.data() + 5, value, 16).ptr == text.data() + 5;
}

std::vector<TokenKind> read_kinds(const GgufFile& file,
                                  const std::vector<std::string_view>& texts) {
  std::vector<TokenKind> kinds(texts.size(), TokenKind::kNormal);
  const auto types = file.get_array<int64_t>(key("token_type"));
  if (!types) return kinds;
  check_size("token_type", types->size(), texts.size());
  for (size_t id = 0; id < texts.size(); ++id) {
    kinds[id] = kind_of((*types)[id]);
    if (kinds[id] != TokenKind::kByte || is_byte_text(texts[id])) continue;
    fail(ErrorKind::kInvalidInput, "token {} is a byte, but its text is '{}' and not like <0x41>",
         id, texts[id]);
  }
  return kinds;
}

std::vector<float> read_scores(const GgufFile& file, size_t tokens) {
  const auto scores = file.get_array<double>(key("scores"));
  if (!scores) {
    fail(ErrorKind::kInvalidInput, "{} is missing, which a SentencePiece vocabulary needs",
         key("scores"));
  }
  check_size("scores", scores->size(), tokens);
  return {scores->begin(), scores->begin() + static_cast<ptrdiff_t>(tokens)};
}

std::unique_ptr<Vocabulary> read_vocabulary(const GgufFile& file) {
  auto texts = file.get_array<std::string_view>(key("tokens"));
  if (!texts || texts->empty()) {
    fail(ErrorKind::kInvalidInput,
         "no vocabulary: {} is missing or empty. Give a file that holds a language model",
         key("tokens"));
  }
  std::vector<TokenKind> kinds = read_kinds(file, *texts);
  if (file.file() != nullptr) {
    return std::make_unique<Vocabulary>(*std::move(texts), std::move(kinds), file.file());
  }
  // parse()'d bytes need not outlive the tokenizer.
  size_t bytes = 0;
  for (const std::string_view text : *texts) bytes += text.size();
  const auto arena = std::make_shared<TextArena>(bytes);
  std::vector<std::string_view> copies;
  copies.reserve(texts->size());
  for (const std::string_view text : *texts) copies.push_back(arena->add(text));
  return std::make_unique<Vocabulary>(std::move(copies), std::move(kinds), arena);
}

std::optional<Token> read_id(const GgufFile& file, const Vocabulary& vocabulary,
                             std::string_view name) {
  const std::optional<int64_t> id = file.get_int(key(name));
  // Converters write -1 (or its unsigned twin) for "none".
  if (!id || *id < 0 || *id == UINT32_MAX) return std::nullopt;
  if (!vocabulary.contains(*id)) {
    fail(ErrorKind::kInvalidInput, "{} is {}, but the vocabulary has {} tokens", key(name), *id,
         vocabulary.size());
  }
  return static_cast<Token>(*id);
}

void read_special(const GgufFile& file, Vocabulary& vocabulary, bool add_bos, bool add_eos) {
  Tokenizer::Special& special = vocabulary.special;
  special.bos = read_id(file, vocabulary, "bos_token_id");
  special.eos = read_id(file, vocabulary, "eos_token_id");
  special.eot = read_id(file, vocabulary, "eot_token_id");
  special.unknown = read_id(file, vocabulary, "unknown_token_id");
  special.padding = read_id(file, vocabulary, "padding_token_id");
  special.add_bos = file.get_bool(key("add_bos_token")).value_or(add_bos) && special.bos;
  special.add_eos = file.get_bool(key("add_eos_token")).value_or(add_eos) && special.eos;
  std::vector<Token> ends;
  if (const auto eom = read_id(file, vocabulary, "eom_token_id")) ends.push_back(*eom);
  vocabulary.find_end_tokens(ends);
}

void fill_bpe(const GgufFile& file, TokenizerParts& parts) {
  NamedPreTokenizer pre = pre_tokenizer_named(file.get_string(key("pre")).value_or("default"));
  read_special(file, *parts.vocabulary, pre.add_bos, false);
  const auto lines = file.get_array<std::string_view>(key("merges"));
  if (!lines) {
    fail(ErrorKind::kInvalidInput, "{} is missing, which a BPE vocabulary needs", key("merges"));
  }
  std::vector<MergeTexts> merges;
  merges.reserve(lines->size());
  for (const std::string_view line : *lines) {
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos) {
      fail(ErrorKind::kInvalidInput, "merge {} of {} is '{}', not two texts with a space between",
           merges.size(), key("merges"), line);
    }
    merges.push_back({line.substr(0, space), line.substr(space + 1)});
  }
  BpeOptions options;
  options.whole_words_first = pre.whole_words_first;
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary, merges, options);
  parts.pre_tokenizer = std::move(pre.pre_tokenizer);
  parts.decoder.letters = true;
}

// The steps that both SentencePiece models share: spaces become "▁", one of them put in front.
void fill_sentencepiece(const GgufFile& file, TokenizerParts& parts) {
  const bool add_prefix = file.get_bool(key("add_space_prefix")).value_or(true);
  if (file.get_bool(key("remove_extra_whitespaces")).value_or(false)) {
    parts.normalizer.add(merge_spaces());
  }
  if (add_prefix) parts.normalizer.add(prepend_text(" "));
  parts.normalizer.add(replace_text(" ", std::string(kSpaceMark)));
  if (marks_only_lead(*parts.vocabulary, kSpaceMark)) {
    parts.pre_tokenizer.add(cut_before_runs(std::string(kSpaceMark)));
  }
  parts.decoder.replacements.emplace_back(kSpaceMark, " ");
  parts.decoder.strip_first_space = add_prefix;
}

void fill_spm(const GgufFile& file, TokenizerParts& parts) {
  read_special(file, *parts.vocabulary, /*add_bos=*/true, /*add_eos=*/false);
  fill_sentencepiece(file, parts);
  parts.model =
      std::make_unique<SpmModel>(*parts.vocabulary, read_scores(file, parts.vocabulary->size()));
}

void fill_unigram(const GgufFile& file, TokenizerParts& parts) {
  if (file.metadata().contains(key("precompiled_charsmap"))) {
    fail(ErrorKind::kUnsupported,
         "{} is set: SentencePiece's precompiled normalization tables are not supported",
         key("precompiled_charsmap"));
  }
  read_special(file, *parts.vocabulary, /*add_bos=*/false, /*add_eos=*/true);
  fill_sentencepiece(file, parts);
  parts.model =
      std::make_unique<UnigramModel>(*parts.vocabulary, read_scores(file, parts.vocabulary->size()),
                                     parts.vocabulary->special.unknown, /*byte_fallback=*/false);
}

void fill_added(TokenizerParts& parts) {
  const Vocabulary& vocabulary = *parts.vocabulary;
  for (size_t id = 0; id < vocabulary.size(); ++id) {
    const Token token = static_cast<Token>(id);
    const TokenKind kind = vocabulary.kind(token);
    const bool special = kind == TokenKind::kControl || kind == TokenKind::kUnknown;
    if (!special && kind != TokenKind::kUserDefined) continue;
    parts.added.add({.text = std::string(vocabulary.text(token)), .id = token, .special = special});
  }
}

std::unique_ptr<Tokenizer> load(const GgufFile& file) {
  const std::optional<std::string> model = file.get_string(key("model"));
  if (!model) {
    fail(ErrorKind::kInvalidInput,
         "no vocabulary: {} is missing. Give a file that holds a language model", key("model"));
  }
  TokenizerParts parts;
  parts.vocabulary = read_vocabulary(file);
  if (*model == "gpt2") {
    fill_bpe(file, parts);
  } else if (*model == "llama") {
    fill_spm(file, parts);
  } else if (*model == "t5") {
    fill_unigram(file, parts);
  } else {
    fail(ErrorKind::kUnsupported, "{} is '{}'; known are gpt2, llama and t5", key("model"), *model);
  }
  fill_added(parts);
  const Tokenizer::Special& special = parts.vocabulary->special;
  if (special.add_bos) parts.prefix.push_back(*special.bos);
  if (special.add_eos) parts.suffix.push_back(*special.eos);
  return make_tokenizer(std::move(parts));
}

}  // namespace

std::unique_ptr<Tokenizer> load_gguf_tokenizer(const GgufFile& file) {
  try {
    return load(file);
  } catch (const Error& error) {
    if (std::string_view(error.what()).starts_with(file.name())) throw;  // a look-up's
    throw error.in(file.name());
  }
}

}  // namespace weft::formats
