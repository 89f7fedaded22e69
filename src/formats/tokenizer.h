// Text to token ids and back, for every tokenizer family that the models use: byte-level BPE with
// the model's own pre-tokenizer pattern (GPT-2, Llama 3, Qwen2, SmolLM, DeepSeek ...),
// SentencePiece BPE with byte fallback (Llama 2, Mistral, TinyStories) and SentencePiece unigram.
//
// Thread-safety: immutable after loading; TokenStream belongs to one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft::formats {

using Token = int32_t;

enum class TokenKind : uint8_t { kNormal, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct EncodeOptions {
  bool add_special = true;    // BOS / EOS as the model's metadata asks
  bool parse_special = true;  // "<|im_end|>" in the text becomes that token; off for untrusted text
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Any bytes are accepted; invalid UTF-8 is encoded as the model's bytes or unknown tokens.
  virtual std::vector<Token> encode(std::string_view text, EncodeOptions options = {}) const = 0;

  // The bytes a token stands for (may be part of a character). Control tokens give "" unless
  // `show_special`. Out-of-range ids: kInvalidInput.
  virtual std::string piece(Token token, bool show_special = false) const = 0;
  // Bytes of all, with SentencePiece's leading space taken off where the model adds one.
  virtual std::string decode(std::span<const Token> tokens, bool show_special = false) const = 0;

  virtual size_t vocab_size() const = 0;
  virtual TokenKind kind(Token token) const = 0;
  virtual std::string_view text(Token token) const = 0;  // as stored in the vocabulary
  virtual std::optional<Token> find(std::string_view text) const = 0;

  struct Special {
    std::optional<Token> bos, eos, eot, unknown, padding;
    bool add_bos = false, add_eos = false;
  };
  virtual const Special& special() const = 0;
  // Tokens that end an answer: EOS, EOT and the like (<|im_end|>, <|eot_id|>, <|endoftext|>).
  virtual bool is_end(Token token) const = 0;
};

class GgufFile;
// kInvalidInput: no vocabulary, or one that contradicts itself; kUnsupported names the model/pre
// type.
std::unique_ptr<Tokenizer> load_gguf_tokenizer(const GgufFile& file);
// tokenizer.json of the `tokenizers` library, with tokenizer_config.json's special tokens if given.
std::unique_ptr<Tokenizer> load_json_tokenizer(std::string_view tokenizer_json,
                                               std::string_view tokenizer_config_json,
                                               const std::string& name);

// The tokenizer of a .gguf file (vocabulary-only ones too) or of a folder with a tokenizer.json.
// kNotFound, and as above.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path);

// Whether the first text of a stream loses the space that SentencePiece models put in front of
// words: yes for an answer that stands alone (as decode() does), no for the continuation of a
// prompt.
enum class LeadingSpace : uint8_t { kAsDecoded, kKept };

// Tokens in, text out: holds bytes back until they end a UTF-8 character. Bytes that can never
// become one are replaced by U+FFFD. The tokenizer outlives the stream.
class TokenStream {
 public:
  explicit TokenStream(const Tokenizer& tokenizer, bool show_special = false,
                       LeadingSpace leading = LeadingSpace::kAsDecoded)
      : tokenizer_(&tokenizer), show_special_(show_special), leading_(leading) {}
  std::string push(Token token);  // the text that is complete now
  std::string finish();           // what is left, incomplete bytes replaced; then it starts anew

 private:
  const Tokenizer* tokenizer_;
  bool show_special_;
  LeadingSpace leading_;
  bool started_ = false;
  std::string held_;
};

}  // namespace weft::formats
