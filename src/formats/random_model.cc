#include "formats/random_model.h"

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/buffer.h"
#include "base/error.h"
#include "base/random.h"
#include "formats/gguf.h"
#include "formats/hf_folder.h"
#include "formats/requantize.h"
#include "kernels/quantize.h"

namespace weft::formats {
namespace {

constexpr float kStandardDeviation = 0.02f;

struct RandomExperts {
  size_t count = 0, per_token = 0, width = 0, shared = 0;  // 0 experts: none
  size_t frequency = 1;  // layers that share them; one dense before
};

struct RandomShape {
  const char* name;
  const char* hf_class;
  size_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab, context;
  double rope_theta;
  bool tied, qkv_bias, qk_norm, llama3_rope;
  RandomExperts experts = {};
};

// The published config.json of each model.
constexpr RandomShape kShapes[] = {
    {"qwen2.5-0.5b", "Qwen2ForCausalLM", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e6, true, true,
     false, false},
    {"qwen3-0.6b", "Qwen3ForCausalLM", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1e6, true, false,
     true, false},
    {"llama-3.2-1b", "LlamaForCausalLM", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, true,
     false, false, true},
    {"smollm2-135m", "LlamaForCausalLM", 30, 576, 9, 3, 64, 1536, 49152, 8192, 1e5, true, false,
     false, false},
    // As small a body and as many tokens as Gemma 3 270M has, in Llama's layers.
    {"vocab-256k", "LlamaForCausalLM", 18, 640, 4, 1, 256, 2048, 262144, 32768, 1e6, true, false,
     false, false},
    {"tiny", "LlamaForCausalLM", 2, 256, 4, 2, 64, 512, 512, 512, 1e4, false, false, false, false},
    // Wide: more vocabulary than the bytes and control tokens that every answer needs, tied.
    {"tiny-wide", "LlamaForCausalLM", 2, 256, 4, 2, 64, 512, 4096, 512, 1e4, true, false, false,
     false},
    // Megrez2-3x7B-A3B (KV heads: docs/megrez2.md), an eighth of it in every part, and tiny ones.
    {"megrez2",
     "MegrezMoeForCausalLM",
     31,
     2048,
     16,
     2,
     128,
     10944,
     128880,
     32768,
     5e6,
     false,
     false,
     false,
     false,
     {64, 6, 1408, 4, 3}},
    {"megrez2-eighth",
     "MegrezMoeForCausalLM",
     16,
     1024,
     8,
     2,
     128,
     5472,
     32768,
     32768,
     5e6,
     false,
     false,
     false,
     false,
     {64, 6, 704, 4, 3}},
    {"megrez2-mini",
     "MegrezMoeForCausalLM",
     7,
     192,
     6,
     2,
     32,
     512,
     512,
     4096,
     5e6,
     false,
     false,
     false,
     false,
     {18, 4, 96, 2, 3}},
    {"megrez2-tiny",
     "MegrezMoeForCausalLM",
     7,
     128,
     4,
     2,
     32,
     256,
     512,
     512,
     1e4,
     false,
     false,
     false,
     false,
     {8, 2, 64, 1, 3}},
    // Little but experts: 128 of them, 35 million weights of 38.
    {"megrez2-many",
     "MegrezMoeForCausalLM",
     7,
     256,
     4,
     2,
     64,
     512,
     512,
     512,
     1e4,
     false,
     false,
     false,
     false,
     {64, 4, 352, 1, 3}},
    // The eighth's peer: as much computed for a token, but each layer has its own experts; and, as
    // llama.cpp reads this architecture, as many heads of keys and values as of queries.
    {"dots1-eighth",
     "Dots1ForCausalLM",
     16,
     1024,
     8,
     8,
     128,
     5472,
     32768,
     32768,
     5e6,
     false,
     false,
     true,
     false,
     {64, 6, 704, 4, 1}},
};

const RandomShape& shape_named(std::string_view name) {
  std::string known;
  for (const RandomShape& shape : kShapes) {
    if (shape.name == name) return shape;
    known += (known.empty() ? "" : ", ") + std::string(shape.name);
  }
  fail(ErrorKind::kInvalidInput, "'{}' is no known shape. Known are {}.", name, known);
}

HfConfig config_of(const RandomShape& s) {
  nlohmann::json config = {{"architectures", {s.hf_class}},
                           {"num_hidden_layers", s.layers},
                           {"hidden_size", s.hidden},
                           {"num_attention_heads", s.heads},
                           {"num_key_value_heads", s.kv_heads},
                           {"head_dim", s.head_dim},
                           {"intermediate_size", s.intermediate},
                           {"vocab_size", s.vocab},
                           {"max_position_embeddings", s.context},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", s.rope_theta}};
  if (s.llama3_rope)
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", 32.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 8192}};
  if (s.experts.count != 0)
    config.update({{"n_routed_experts", s.experts.count},
                   {"num_experts_per_tok", s.experts.per_token},
                   {"moe_intermediate_size", s.experts.width},
                   {"n_shared_experts", s.experts.shared},
                   {"first_k_dense_replace", 1},
                   {"experts_shared_frequency", s.experts.frequency}});
  return translate_hf_config(config, s.name);
}

struct NamedShape {
  std::string name;
  Shape shape;
};

std::vector<NamedShape> tensors_of(const RandomShape& s) {
  const size_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  std::vector<NamedShape> out = {{"token_embd.weight", {s.vocab, s.hidden}}};
  for (size_t layer = 0; layer < s.layers; ++layer) {
    const auto add = [&](const char* name, Shape shape) {
      out.push_back({fmt::format("blk.{}.{}", layer, name), shape});
    };
    add("attn_norm.weight", {s.hidden});
    add("attn_q.weight", {q, s.hidden});
    add("attn_k.weight", {kv, s.hidden});
    add("attn_v.weight", {kv, s.hidden});
    if (s.qkv_bias) {
      add("attn_q.bias", {q});
      add("attn_k.bias", {kv});
      add("attn_v.bias", {kv});
    }
    if (s.qk_norm) {
      add("attn_q_norm.weight", {s.head_dim});
      add("attn_k_norm.weight", {s.head_dim});
    }
    add("attn_output.weight", {s.hidden, q});
    add("ffn_norm.weight", {s.hidden});
    const RandomExperts& x = s.experts;
    const auto add_mlp = [&](const std::string& suffix, size_t width) {
      add(("ffn_gate" + suffix + ".weight").c_str(), {width, s.hidden});
      add(("ffn_up" + suffix + ".weight").c_str(), {width, s.hidden});
      add(("ffn_down" + suffix + ".weight").c_str(), {s.hidden, width});
    };
    if (x.count == 0 || layer == 0) {
      add_mlp("", s.intermediate);
      continue;
    }
    add("ffn_gate_inp.weight", {x.count, s.hidden});
    add("exp_probs_b.bias", {x.count});
    add_mlp("_shexp", x.shared * x.width);
    if ((layer - 1) % x.frequency != 0) continue;
    add("ffn_gate_exps.weight", {x.count, x.width, s.hidden});
    add("ffn_up_exps.weight", {x.count, x.width, s.hidden});
    add("ffn_down_exps.weight", {x.count, s.hidden, x.width});
  }
  out.push_back({"output_norm.weight", {s.hidden}});
  if (!s.tied) out.push_back({"output.weight", {s.vocab, s.hidden}});
  if (s.llama3_rope) out.push_back({"rope_freqs.weight", {s.head_dim / 2}});
  return out;
}

// GPT-2's printable stand-in for each byte, in UTF-8.
std::string byte_symbol(size_t byte) {
  const auto printable = [](size_t b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  size_t code = byte;
  if (!printable(byte)) {
    code = 256;
    for (size_t b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

// All bytes, then pairs of bytes, then pairs with a third: every longer token is the merge of two
// before it. The last two are control tokens.
void write_vocabulary(GgufWriter& writer, size_t size) {
  std::vector<std::string> tokens, merges;
  for (size_t b = 0; b < 256; ++b) tokens.push_back(byte_symbol(b));
  for (size_t i = 0; tokens.size() + 2 < size; ++i) {
    const std::string& left = tokens[i / 256];  // bytes first, then the pairs just made
    const std::string& right = tokens[i % 256];
    merges.push_back(left + " " + right);
    tokens.push_back(left + right);
  }
  tokens.push_back("<|startoftext|>");
  tokens.push_back("<|endoftext|>");
  std::vector<int32_t> kinds(size, 1);
  kinds[size - 2] = kinds[size - 1] = 3;  // control
  writer.set_string("tokenizer.ggml.model", "gpt2");
  writer.set_string("tokenizer.ggml.pre", "gpt-2");
  writer.set_strings("tokenizer.ggml.tokens",
                     std::vector<std::string_view>(tokens.begin(), tokens.end()));
  writer.set_i32s("tokenizer.ggml.token_type", kinds);
  writer.set_strings("tokenizer.ggml.merges",
                     std::vector<std::string_view>(merges.begin(), merges.end()));
  writer.set_u32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(size - 2));
  writer.set_u32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(size - 1));
  writer.set_bool("tokenizer.ggml.add_bos_token", false);
}

// Quantising a billion values takes minutes, so matrices are put together from pieces of a pool, in
// random order: to a product, that is as good as fresh numbers.
constexpr size_t kPieceValues = 256, kPoolPieces = 4096;

std::vector<float> normal_pool(uint64_t seed, const CoreSet& cores) {
  std::vector<float> pool(kPoolPieces * kPieceValues);
  cores.parallel_for(pool.size() / 2, 1 << 14, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) {  // Box-Muller
      const double radius = std::sqrt(-2 * std::log(1 - uniform(seed, i, 0, 0)));
      const double angle = 2 * std::numbers::pi * uniform(seed, i, 0, 1);
      pool[2 * i] = kStandardDeviation * static_cast<float>(radius * std::cos(angle));
      pool[2 * i + 1] = kStandardDeviation * static_cast<float>(radius * std::sin(angle));
    }
  });
  return pool;
}

class Pools {
 public:
  Pools(uint64_t seed, const CoreSet& cores)
      : seed_(seed), cores_(cores), values_(normal_pool(seed, cores)) {}

  // Fills `out` with pieces [first, first + count) of tensor number `tensor`.
  void fill(DType type, uint64_t tensor, size_t first, size_t count, uint8_t* out) {
    const std::vector<uint8_t>& pool = pieces(type);
    const size_t piece_bytes = bytes_of(type, kPieceValues);
    cores_.parallel_for(count, 1024, [&](size_t begin, size_t end, size_t) {
      for (size_t i = begin; i < end; ++i) {
        const uint64_t piece = first + i;
        const auto random =
            philox4x32({static_cast<uint32_t>(piece), static_cast<uint32_t>(piece >> 32),
                        static_cast<uint32_t>(tensor), 1},
                       {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
        std::memcpy(out + i * piece_bytes, pool.data() + random[0] % kPoolPieces * piece_bytes,
                    piece_bytes);
      }
    });
  }

 private:
  const std::vector<uint8_t>& pieces(DType type) {
    std::vector<uint8_t>& pool = pools_[type];
    if (!pool.empty()) return pool;
    const size_t piece_bytes = bytes_of(type, kPieceValues);
    pool.resize(kPoolPieces * piece_bytes);
    cores_.parallel_for(kPoolPieces, 64, [&](size_t begin, size_t end, size_t) {
      kernels::quantize(type, values_.data() + begin * kPieceValues,
                        pool.data() + begin * piece_bytes, (end - begin) * kPieceValues);
    });
    return pool;
  }

  uint64_t seed_;
  CoreSet cores_;
  std::vector<float> values_;
  std::map<DType, std::vector<uint8_t>> pools_;
};

}  // namespace

std::vector<std::string> random_model_shapes() {
  std::vector<std::string> names;
  for (const RandomShape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

void write_random_model(const std::filesystem::path& path, std::string_view shape_name,
                        const QuantMix& mix, uint64_t seed, const CoreSet& cores, StopToken stop,
                        const ProgressFn& progress, std::string_view chat_template) {
  const RandomShape& shape = shape_named(shape_name);
  const HfConfig config = config_of(shape);
  const std::vector<NamedShape> tensors = tensors_of(shape);
  const QuantMixModel model{shape.layers, shape.heads / shape.kv_heads, !shape.tied};

  GgufWriter writer(path);
  writer.set_string("general.name", fmt::format("random {} (seed {})", shape.name, seed));
  write_hyperparameters(writer, config.architecture, config.hyperparameters);
  write_file_type(writer, mix);
  write_vocabulary(writer, shape.vocab);
  if (!chat_template.empty())
    writer.set_string("tokenizer.chat_template", std::string(chat_template));
  size_t total_bytes = 0, done_bytes = 0;
  for (const NamedShape& t : tensors) {
    const DType type = mixed_type(mix, model, t.name, t.shape);
    writer.declare(t.name, type, t.shape);
    total_bytes += bytes_of(type, t.shape.elements());
  }

  Pools pools(seed, cores);
  constexpr size_t kChunkPieces = 1 << 14;
  Scratch<uint8_t> chunk;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const NamedShape& t = tensors[i];
    const DType type = mixed_type(mix, model, t.name, t.shape);
    const size_t values = t.shape.elements();
    if (t.name == "rope_freqs.weight") {
      writer.write(config.rope_freqs.data(), bytes_of(type, values));
    } else if (t.name.ends_with("norm.weight")) {
      writer.write(std::vector<float>(values, 1.0f).data(), bytes_of(type, values));
    } else {
      const size_t pieces = (values + kPieceValues - 1) / kPieceValues;
      for (size_t first = 0; first < pieces; first += kChunkPieces) {
        stop.throw_if_stopped();
        const size_t count = std::min(kChunkPieces, pieces - first);
        uint8_t* out = chunk.need(bytes_of(type, kChunkPieces * kPieceValues));
        pools.fill(type, i, first, count, out);
        const size_t wanted = std::min(values - first * kPieceValues, count * kPieceValues);
        writer.write(out, bytes_of(type, wanted));
        if (progress) progress(done_bytes + bytes_of(type, first * kPieceValues), total_bytes);
      }
    }
    done_bytes += bytes_of(type, values);
  }
  writer.commit();
}

}  // namespace weft::formats
