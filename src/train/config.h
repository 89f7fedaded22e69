// What `weft train lm CONFIG.json` is told. Every key is checked: an unknown one is refused with
// the nearest that exists, a value with its range.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weft::train {

enum class Schedule : uint8_t { kCosine, kWsd, kConstant };

// A model from scratch, in the words of Hugging Face's config.json. 0 experts: a dense model.
struct ModelSection {
  std::string architecture = "llama";  // llama, qwen2, qwen3, megrez2
  size_t num_hidden_layers = 4;
  size_t hidden_size = 256;
  size_t num_attention_heads = 4;
  size_t num_key_value_heads = 0;  // 0: as many as attention heads
  size_t head_dim = 0;             // 0: hidden_size / num_attention_heads
  size_t intermediate_size = 704;
  bool tie_word_embeddings = true;
  double rope_theta = 10000;
  size_t n_routed_experts = 0;  // of each group; megrez2 alone
  size_t num_experts_per_tok = 4;
  size_t moe_intermediate_size = 96;
  size_t n_shared_experts = 2;
  size_t first_k_dense_replace = 1;
  size_t experts_shared_frequency = 3;
  bool pre_gate = true;
};

struct Config {
  std::string out = "runs/lm";  // the run's folder
  std::string init;             // a model to go on from; empty: `model`, from scratch
  std::string tokenizer;        // a folder or .gguf; empty: that of `init`
  ModelSection model;
  std::vector<std::string> data;  // files, and "task:..." generators
  std::vector<std::string> eval;  // the same, held out
  size_t eval_every = 200;        // steps
  uint64_t seed = 1;
  std::string device = "auto";  // auto, cpu, cuda
  std::string dtype = "bf16";   // of the products: bf16, f32
  size_t context = 512;         // tokens of an example at most; longer ones are cut
  size_t batch_tokens = 16384;  // of one optimiser step
  size_t accumulate = 1;        // passes that a step is divided into
  size_t steps = 0;             // 0: until max_seconds
  double max_seconds = 0;       // 0: until steps. Where both are given, whichever ends first
  Schedule schedule = Schedule::kCosine;
  double lr = 1e-3;
  double final_lr = 0.1;  // of lr, at the end
  double warmup = 0.02;   // part of the run
  double weight_decay = 0.1;
  double router_bias_rate = 1e-3;  // u of loss-free balancing
  double router_aux_loss = 0;      // weight of the sequence-wise balance loss
  size_t checkpoint_every = 500;   // steps
  size_t threads = 0;              // 0: all cores
  std::string gguf = "q8_0";       // of the GGUF that is written; "none": no such file
};

// The text of a file, or of several settings ("lr=3e-4", "model.hidden_size=128") after it.
// kInvalidInput names the key, what it holds and what it may hold.
Config parse_config(std::string_view json, const std::string& name,
                    const std::vector<std::string>& settings = {});
// The whole of it with what each key means; JSON that parse_config reads (with comments).
std::string print_config(const Config& config);

const char* name(Schedule schedule);

}  // namespace weft::train
