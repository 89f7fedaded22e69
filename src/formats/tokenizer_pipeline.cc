#include "formats/tokenizer_pipeline.h"

#include <charconv>
#include <limits>

#include "base/error.h"
#include "formats/tokenizer_bpe.h"

namespace weft::formats {
namespace {

// Words come again: their tokens are copied from where they were put the first time. Direct-mapped;
// an entry points into the pieces and the output of the running encode(), so a hit allocates
// nothing.
class WordCache {
 public:
  explicit WordCache(size_t text_bytes) : entries_(text_bytes < kMinText ? 0 : kEntries) {}

  void encode(const TokenModel& model, std::string_view word, std::vector<Token>& out) {
    if (entries_.empty() || word.size() > kMaxWord) return model.encode(word, out);
    Entry& entry = entries_[hash_text(word) % kEntries];
    const size_t begin = out.size();
    if (std::string_view(entry.word, entry.size) == word) {
      out.resize(begin + entry.count);
      std::copy_n(out.begin() + static_cast<ptrdiff_t>(entry.first), entry.count,
                  out.begin() + static_cast<ptrdiff_t>(begin));
      return;
    }
    model.encode(word, out);
    entry = {word.data(), static_cast<uint32_t>(word.size()),
             static_cast<uint32_t>(out.size() - begin), begin};
  }

 private:
  static constexpr size_t kMinText = 1024, kEntries = 8192, kMaxWord = 64;
  struct Entry {
    const char* word = nullptr;
    uint32_t size = 0, count = 0;
    size_t first = 0;
  };
  std::vector<Entry> entries_;
};

// What one encode() call carries along. Buffers keep every rewritten text alive for the cache.
struct Encoding {
  explicit Encoding(size_t text_bytes, EncodeOptions options)
      : options(options), cache(text_bytes) {}
  EncodeOptions options;
  PieceBuffers buffers;
  WordCache cache;
  std::vector<Token> out;
};

class PipelineTokenizer final : public Tokenizer {
 public:
  explicit PipelineTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
    parts_.added.prepare();
    parts_.added_in_normalized.prepare();
  }

  std::vector<Token> encode(std::string_view text, EncodeOptions options) const override {
    if (text.size() > kMaxText) {
      fail(ErrorKind::kInvalidInput, "a text of {} bytes is too long to encode at once: at most {}",
           text.size(), kMaxText);
    }
    Encoding encoding(text.size(), options);
    encoding.out.reserve(text.size() / 4 + 8);
    if (options.add_special) encoding.out = parts_.prefix;
    for_each_part(parts_.added, text, encoding,
                  [&](std::string_view part) { encode_raw(part, encoding); });
    if (options.add_special) {
      encoding.out.insert(encoding.out.end(), parts_.suffix.begin(), parts_.suffix.end());
    }
    return std::move(encoding.out);
  }

  std::string piece(Token token, bool show_special) const override {
    const Vocabulary& vocabulary = *parts_.vocabulary;
    check(token);
    const std::string_view text = vocabulary.text(token);
    switch (vocabulary.kind(token)) {
      case TokenKind::kControl:
      case TokenKind::kUnknown:
        return show_special ? std::string(text) : std::string();
      case TokenKind::kUserDefined:
        return std::string(text);
      case TokenKind::kByte:
        return std::string(1, byte_of(text));
      case TokenKind::kNormal:
      case TokenKind::kUnused:
        break;
    }
    if (parts_.decoder.letters) return bytes_of_letters(text);
    std::string out(text);
    for (const auto& [from, to] : parts_.decoder.replacements) out = replaced(out, from, to);
    return out;
  }

  std::string decode(std::span<const Token> tokens, bool show_special) const override {
    std::string out;
    for (const Token token : tokens) {
      const std::string text = piece(token, show_special);
      if (!out.empty() && !text.empty()) out += parts_.decoder.separator;
      out += text;
    }
    if (parts_.decoder.strip_first_space && out.starts_with(' ')) out.erase(0, 1);
    return out;
  }

  size_t vocab_size() const override { return parts_.vocabulary->size(); }
  TokenKind kind(Token token) const override {
    check(token);
    return parts_.vocabulary->kind(token);
  }
  std::string_view text(Token token) const override {
    check(token);
    return parts_.vocabulary->text(token);
  }
  std::optional<Token> find(std::string_view text) const override {
    const Token token = parts_.vocabulary->find(text);
    return token < 0 ? std::nullopt : std::optional(token);
  }
  const Special& special() const override { return parts_.vocabulary->special; }
  bool is_end(Token token) const override { return parts_.vocabulary->is_end(token); }

 private:
  static constexpr size_t kMaxText = std::numeric_limits<int32_t>::max();

  void check(Token token) const {
    if (parts_.vocabulary->contains(token)) return;
    fail(ErrorKind::kInvalidInput, "token {} is not in the vocabulary: its ids are 0 to {}", token,
         parts_.vocabulary->size() - 1);
  }

  // A token called byte whose text isn't "<0xNN>" is refused on loading.
  static char byte_of(std::string_view text) {
    uint8_t value = 0;
    std::from_chars(text.data() + 3, text.data() + 5, value, 16);
    return static_cast<char>(value);
  }

  // Puts the added tokens out and hands what lies between them to `encode_part`.
  template <typename EncodePart>
  void for_each_part(const AddedTokens& added, std::string_view text, Encoding& encoding,
                     EncodePart encode_part) const {
    size_t begin = 0;
    while (begin < text.size()) {
      const auto match = added.find(text, begin, encoding.options.parse_special);
      const size_t end = match ? match->begin : text.size();
      if (end > begin) {
        encode_part(text.substr(begin, end - begin));
        encoding.buffers.at_start = false;
      }
      if (!match) break;
      encoding.out.push_back(match->id);
      encoding.buffers.at_start = false;
      begin = match->end;
    }
  }

  void encode_raw(std::string_view text, Encoding& encoding) const {
    if (!parts_.normalizer.empty()) {
      text = encoding.buffers.texts.emplace_back(parts_.normalizer.apply(text));
    }
    for_each_part(parts_.added_in_normalized, text, encoding,
                  [&](std::string_view part) { encode_normalized(part, encoding); });
  }

  void encode_normalized(std::string_view text, Encoding& encoding) const {
    if (parts_.pre_tokenizer.empty()) return parts_.model->encode(text, encoding.out);
    for (const std::string_view word : parts_.pre_tokenizer.split(text, encoding.buffers)) {
      encoding.cache.encode(*parts_.model, word, encoding.out);
    }
  }

  TokenizerParts parts_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(TokenizerParts parts) {
  return std::make_unique<PipelineTokenizer>(std::move(parts));
}

bool marks_only_lead(const Vocabulary& vocabulary, std::string_view mark) {
  for (size_t id = 0; id < vocabulary.size(); ++id) {
    const Token token = static_cast<Token>(id);
    if (!vocabulary.is_from_text(token)) continue;
    std::string_view text = vocabulary.text(token);
    while (text.starts_with(mark)) text.remove_prefix(mark.size());
    if (text.find(mark) != std::string_view::npos) return false;
  }
  return true;
}

}  // namespace weft::formats
