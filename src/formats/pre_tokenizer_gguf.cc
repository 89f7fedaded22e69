#include "formats/pre_tokenizer_gguf.h"

#include <span>

#include "base/error.h"

namespace weft::formats {
namespace {

enum class Cut { kGpt2, kLlama3, kQwen2, kQwen35, kDigits, kPattern };

struct StageSpec {
  Cut cut;
  const char* pattern = nullptr;  // kPattern: matches are pieces of their own
};

constexpr StageSpec kGpt2Stages[] = {{Cut::kGpt2}};
constexpr StageSpec kDigitsGpt2Stages[] = {{Cut::kDigits}, {Cut::kGpt2}};
constexpr StageSpec kLlama3Stages[] = {{Cut::kLlama3}};
constexpr StageSpec kQwen2Stages[] = {{Cut::kQwen2}};
constexpr StageSpec kQwen35Stages[] = {{Cut::kQwen35}};

constexpr StageSpec kDefaultStages[] = {
    {Cut::kPattern, R"([\p{P}\$\+<=>\^~\|]+)"},
    {Cut::kGpt2},
    {Cut::kPattern, R"(\p{N}+)"},
    {Cut::kPattern, R"([0-9][0-9][0-9])"},
};
constexpr StageSpec kFalconStages[] = {
    {Cut::kPattern, R"([\p{P}\$\+<=>\^~\|`]+)"},
    {Cut::kGpt2},
    {Cut::kPattern, R"([0-9][0-9][0-9])"},
};

// DeepSeek LLM's letters: the cased ones of the scripts it lists.
constexpr StageSpec kDeepSeekLlmStages[] = {
    {Cut::kPattern, R"([\r\n])"},
    {Cut::kPattern,
     R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ)"
     R"(-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ)"
     R"(-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)"},
    {Cut::kPattern, R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)"},
    {Cut::kPattern, R"(\s+$)"},
    {Cut::kPattern, R"([一-龥ࠀ-一가-퟿]+)"},
    {Cut::kDigits},
};
constexpr StageSpec kDeepSeekCoderStages[] = {
    {Cut::kPattern, R"([\r\n])"},
    {Cut::kPattern, R"(\s?\p{L}+)"},
    {Cut::kPattern, R"(\s?\p{P}+)"},
    {Cut::kPattern, R"([一-龥ࠀ-一가-퟿]+)"},
    {Cut::kDigits},
};
constexpr StageSpec kDeepSeekV3Stages[] = {
    {Cut::kPattern, R"(\p{N}{1,3})"},
    {Cut::kPattern, R"([一-龥぀-ゟ゠-ヿ]+)"},
    {Cut::kPattern,
     R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
     R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
};
constexpr StageSpec kTekkenStages[] = {
    {Cut::kPattern,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
     R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
};
constexpr StageSpec kGpt4oStages[] = {
    {Cut::kPattern,
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
     R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
};
constexpr StageSpec kBloomStages[] = {{Cut::kPattern, R"( ?[^(\s|.,!?…。，、।۔،)]+)"}};
constexpr StageSpec kVikingStages[] = {{Cut::kPattern, R"( ?[^(\s|.,!?…。，、।۔،)]+)"},
                                       {Cut::kDigits}};
constexpr StageSpec kSeedCoderStages[] = {
    {Cut::kPattern, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}|)"
                    R"( ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)"},
};
constexpr StageSpec kBailingStages[] = {
    {Cut::kPattern,
     R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|)"
     R"(\s*[\r\n]|\s+(?!\S)|\s+)"},
};

enum Flags : uint8_t { kPlain = 0, kWholeWords = 1, kBos = 2 };

struct PreType {
  std::string_view name;
  std::span<const StageSpec> stages;
  uint8_t flags = kPlain;
};

constexpr PreType kPreTypes[] = {
    {"default", kDefaultStages},
    {"gpt-2", kGpt2Stages},
    {"phi-2", kGpt2Stages},
    {"mpt", kGpt2Stages},
    {"olmo", kGpt2Stages},
    {"jais", kGpt2Stages},
    {"jina-es", kGpt2Stages},
    {"jina-de", kGpt2Stages},
    {"jina-v2-es", kGpt2Stages},
    {"jina-v2-de", kGpt2Stages},
    {"gigachat", kGpt2Stages},
    {"a.x-4.0", kGpt2Stages},
    {"mellum", kGpt2Stages},
    {"modern-bert", kGpt2Stages},
    {"exaone4", kGpt2Stages},
    {"trillion", kGpt2Stages},
    {"granite-docling", kGpt2Stages},
    {"smollm", kDigitsGpt2Stages},
    {"starcoder", kDigitsGpt2Stages},
    {"refact", kDigitsGpt2Stages},
    {"command-r", kDigitsGpt2Stages},
    {"codeshell", kDigitsGpt2Stages},
    {"exaone", kDigitsGpt2Stages},
    {"minerva-7b", kDigitsGpt2Stages},
    {"mellum2", kDigitsGpt2Stages},
    {"llama3", kLlama3Stages, kWholeWords | kBos},
    {"llama-v3", kLlama3Stages, kWholeWords | kBos},
    {"llama-bpe", kLlama3Stages, kWholeWords | kBos},
    {"falcon3", kLlama3Stages, kWholeWords | kBos},
    {"falcon-h1", kLlama3Stages, kWholeWords | kBos},
    {"pixtral", kLlama3Stages, kWholeWords | kBos},
    {"midm-2.0", kLlama3Stages, kWholeWords | kBos},
    {"lfm2", kLlama3Stages, kWholeWords | kBos},
    {"dbrx", kLlama3Stages},
    {"smaug-bpe", kLlama3Stages},
    {"chatglm-bpe", kLlama3Stages},
    {"glm4", kLlama3Stages, kWholeWords},
    {"qwen2", kQwen2Stages},
    {"megrez", kQwen2Stages},
    {"deepseek-r1-qwen", kQwen2Stages},
    {"stablelm2", kQwen2Stages},
    {"kormo", kQwen2Stages},
    {"f2llmv2", kQwen2Stages},
    {"megrez", kQwen2Stages},
    {"hunyuan", kQwen2Stages},
    {"solar-open", kQwen2Stages},
    {"grok-2", kQwen2Stages},
    {"qwen35", kQwen35Stages},
    {"deepseek-llm", kDeepSeekLlmStages},
    {"deepseek-coder", kDeepSeekCoderStages},
    {"deepseek-v3", kDeepSeekV3Stages},
    {"hunyuan-dense", kDeepSeekV3Stages},
    {"joyai-llm", kDeepSeekV3Stages},
    {"falcon", kFalconStages},
    {"tekken", kTekkenStages, kWholeWords | kBos},
    {"gpt-4o", kGpt4oStages},
    {"llama4", kGpt4oStages},
    {"kanana2", kGpt4oStages},
    {"bloom", kBloomStages},
    {"poro-chat", kBloomStages},
    {"gpt3-finnish", kBloomStages},
    {"viking", kVikingStages},
    {"seed-coder", kSeedCoderStages},
    {"bailingmoe", kBailingStages},
    {"bailingmoe2", kBailingStages},
    {"llada-moe", kBailingStages},
};

void add_stage(PreTokenizer& pre, const StageSpec& spec) {
  switch (spec.cut) {
    case Cut::kGpt2:
      return pre.add(split_words(WordPattern::kGpt2));
    case Cut::kLlama3:
      return pre.add(split_words(WordPattern::kLlama3));
    case Cut::kQwen2:
      return pre.add(split_words(WordPattern::kQwen2));
    case Cut::kQwen35:
      return pre.add(split_words(WordPattern::kQwen35));
    case Cut::kDigits:
      return pre.add(split_digits(SplitBehavior::kIsolated));
    case Cut::kPattern:
      return pre.add(split_by_regex(Regex(spec.pattern), SplitBehavior::kIsolated));
  }
}

}  // namespace

NamedPreTokenizer pre_tokenizer_named(std::string_view name) {
  for (const PreType& type : kPreTypes) {
    if (type.name != name) continue;
    NamedPreTokenizer found;
    for (const StageSpec& stage : type.stages) add_stage(found.pre_tokenizer, stage);
    found.whole_words_first = (type.flags & kWholeWords) != 0;
    found.add_bos = (type.flags & kBos) != 0;
    return found;
  }
  std::string known;
  for (const PreType& type : kPreTypes) known.append(known.empty() ? "" : ", ").append(type.name);
  fail(ErrorKind::kUnsupported,
       "tokenizer.ggml.pre is '{}', a pre-tokenizer that this version doesn't know. It knows: {}",
       name, known);
}

}  // namespace weft::formats
