#include "models/llama.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/kv_transform.h"
#include "kernels/linear.h"
#include "kernels/panel_layout.h"
#include "kernels/quantize.h"
#include "models/rope.h"
#include "models/weights.h"

namespace weft::models {
namespace {

using formats::Checkpoint;
using kernels::Linear;

// H query heads, G heads of keys and values, D = head_dim, E = hidden_size, F = intermediate_size.
struct Layer {
  std::vector<float> attention_norm;          // (E)
  Linear wq;                                  // (H * D, E)
  Linear wk, wv;                              // (G * D, E)
  std::vector<float> q_bias, k_bias, v_bias;  // as many as outputs, or none
  std::vector<float> q_norm, k_norm;          // (D), Qwen3 only
  Linear wo;                                  // (E, H * D)
  std::vector<float> o_bias;                  // (E) or none
  std::vector<float> mlp_norm;                // (E)
  Linear w_gate, w_up;                        // (F, E)
  Linear w_down;                              // (E, F)
};

// Room for T tokens, reused from pass to pass.
struct LlamaWorkspace final : Workspace {
  Scratch<float> x;            // (T, E), the residual stream
  Scratch<float> normed;       // (T, E)
  Scratch<float> q, attended;  // (T, H * D)
  Scratch<float> k, v;         // (T, G * D)
  Scratch<float> gate, up;     // (T, F)
  Scratch<float> angles;       // (T, rotary dimensions), see rope_angles()
  kernels::Activations activations;
  kernels::AttentionScratch attention;
  std::vector<kernels::AttentionCall> calls;  // one for each sequence
  std::vector<size_t> attended_tokens;        // of each sequence's, in this layer
  std::vector<size_t> wanted;                 // rows that logits are made of
};

const float* data_or_none(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

// Runs body(row) for all rows, shared out where they are many: below 32 Ki values (some 10 us) a
// second core costs more than it brings.
template <typename Body>
void for_rows(const CoreSet& cores, size_t num_rows, size_t values_per_row, Body&& body) {
  const size_t grain = std::max<size_t>(1, (32 << 10) / values_per_row);
  cores.parallel_for(num_rows, grain, [&](size_t begin, size_t end, size_t) {
    for (size_t row = begin; row < end; ++row) body(row);
  });
}

class Llama final : public LanguageModel {
 public:
  Llama(std::shared_ptr<const Checkpoint> checkpoint, const LlamaConfig& config,
        const CoreSet& cores, const ProgressFn& progress, HeadLoading head, Arena* arena);

  const LanguageModelConfig& config() const override { return config_; }
  kernels::KvShape kv_shape() const override { return {config_.num_kv_heads, config_.head_dim}; }
  size_t weight_bytes() const override;
  std::unique_ptr<Workspace> make_workspace() const override {
    return std::make_unique<LlamaWorkspace>();
  }
  void forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
               Workspace& workspace, const CoreSet& cores) const override;
  TensorView head_weight() const override { return head_weight_; }
  void head(const float* hidden, size_t num_rows, float* logits, Workspace& workspace,
            const CoreSet& cores) const override;
  size_t packed_head_bytes() const override { return packed_head_bytes_.load(); }
  size_t embedding_bytes() const override {
    return embedding_.data == nullptr || embedding_.data == head_weight_.data ? 0
                                                                              : embedding_.bytes();
  }

 private:
  Layer read_layer(WeightReader& weights, size_t index) const;
  void check(std::span<const SequenceInput> batch) const;
  void embed(std::span<const SequenceInput> batch, LlamaWorkspace& w, const CoreSet& cores) const;
  void norm(const std::vector<float>& weight, size_t num_tokens, LlamaWorkspace& w,
            const CoreSet& cores) const;
  void rotate(const Layer& layer, size_t num_tokens, LlamaWorkspace& w, const CoreSet& cores) const;
  void attend(size_t layer, std::span<const SequenceInput> batch, kernels::KvStore& cache,
              LlamaWorkspace& w, const CoreSet& cores) const;
  void finish_rows(std::span<const SequenceInput> batch, float* logits, LlamaWorkspace& w,
                   const CoreSet& cores) const;
  const Linear& packed_head(const CoreSet& cores) const;

  std::shared_ptr<const Checkpoint> checkpoint_;  // keeps embedding_ mapped
  LlamaConfig config_;
  kernels::RopeTable rope_;
  TensorView embedding_;  // (vocab_size, E) in the file; empty where tied to head_
  TensorView head_weight_;  // (vocab_size, E) in the file
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;  // (E)

  mutable std::once_flag head_once_;  // guards the packing of head_
  mutable Linear head_;               // (vocab_size, E), once it is needed
  mutable std::atomic<size_t> packed_head_bytes_{0};
};

Llama::Llama(std::shared_ptr<const Checkpoint> checkpoint, const LlamaConfig& config,
             const CoreSet& cores, const ProgressFn& progress, HeadLoading head, Arena* arena)
    : checkpoint_(std::move(checkpoint)),
      config_(config),
      rope_(read_rope(*checkpoint_, config.head_dim)) {
  const auto& c = config_;
  WeightReader weights(*checkpoint_, cores, progress, arena);
  weights.skip("rope_freqs.weight");  // read_rope() took it
  const bool tied = !weights.has("output.weight");
  if (!tied) embedding_ = weights.mapped("token_embd.weight", c.vocab_size, c.hidden_size);
  for (size_t i = 0; i < c.num_layers; ++i) layers_.push_back(read_layer(weights, i));
  final_norm_ = weights.vector("output_norm.weight", c.hidden_size);
  const std::string head_name = tied ? "token_embd.weight" : "output.weight";
  if (head == HeadLoading::kNow) {
    head_ = weights.linear(head_name, c.vocab_size, c.hidden_size);
    packed_head_bytes_ = head_.packed_bytes();
    head_weight_ = checkpoint_->require(head_name);
  } else {
    head_weight_ = weights.mapped(head_name, c.vocab_size, c.hidden_size);
    if (tied) embedding_ = head_weight_;
    advise(head_weight_.data, head_weight_.bytes(), FileAccess::kRandom);
  }
  weights.finish();
}

Layer Llama::read_layer(WeightReader& weights, size_t index) const {
  const auto& c = config_;
  const std::string prefix = "blk." + std::to_string(index) + ".";
  const size_t q_size = c.num_heads * c.head_dim, kv_size = c.num_kv_heads * c.head_dim;
  const auto bias = [&](const char* projection, size_t size, bool needed) {
    const std::string name = prefix + projection + ".bias";
    return needed || weights.has(name) ? weights.vector(name, size) : std::vector<float>{};
  };
  const bool needed = c.variant.needs_qkv_bias;

  Layer layer;
  layer.attention_norm = weights.vector(prefix + "attn_norm.weight", c.hidden_size);
  layer.wq = weights.linear(prefix + "attn_q.weight", q_size, c.hidden_size);
  layer.wk = weights.linear(prefix + "attn_k.weight", kv_size, c.hidden_size);
  layer.wv = weights.linear(prefix + "attn_v.weight", kv_size, c.hidden_size);
  layer.q_bias = bias("attn_q", q_size, needed);
  layer.k_bias = bias("attn_k", kv_size, needed);
  layer.v_bias = bias("attn_v", kv_size, needed);
  if (c.variant.has_qk_norm) {
    layer.q_norm = weights.vector(prefix + "attn_q_norm.weight", c.head_dim);
    layer.k_norm = weights.vector(prefix + "attn_k_norm.weight", c.head_dim);
  }
  layer.wo = weights.linear(prefix + "attn_output.weight", c.hidden_size, q_size);
  layer.o_bias = bias("attn_output", c.hidden_size, false);
  layer.mlp_norm = weights.vector(prefix + "ffn_norm.weight", c.hidden_size);
  layer.w_gate = weights.linear(prefix + "ffn_gate.weight", c.intermediate_size, c.hidden_size);
  layer.w_up = weights.linear(prefix + "ffn_up.weight", c.intermediate_size, c.hidden_size);
  layer.w_down = weights.linear(prefix + "ffn_down.weight", c.hidden_size, c.intermediate_size);
  return layer;
}

size_t Llama::weight_bytes() const {
  size_t bytes = packed_head_bytes_.load();
  for (const Layer& l : layers_)
    for (const Linear* w : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w_gate, &l.w_up, &l.w_down})
      bytes += w->packed_bytes();
  return bytes;
}

void Llama::forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
                    Workspace& workspace, const CoreSet& cores) const {
  check(batch);
  auto& w = static_cast<LlamaWorkspace&>(workspace);
  size_t num_tokens = 0;  // T
  for (const SequenceInput& input : batch) num_tokens += input.tokens.size();
  const size_t e = config_.hidden_size, f = config_.intermediate_size;
  const size_t q_size = config_.num_heads * config_.head_dim;
  const size_t kv_size = config_.num_kv_heads * config_.head_dim;
  float* const q = w.q.need(num_tokens * q_size);
  float* const k = w.k.need(num_tokens * kv_size);
  float* const v = w.v.need(num_tokens * kv_size);
  float* const attended = w.attended.need(num_tokens * q_size);
  float* const gate = w.gate.need(num_tokens * f);
  float* const up = w.up.need(num_tokens * f);

  embed(batch, w, cores);
  float* const x = w.x.data();
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];

    // x += Wo attention(rope(Wq norm(x)), rope(Wk norm(x)), Wv norm(x))
    norm(layer.attention_norm, num_tokens, w, cores);
    w.activations.set(w.normed.data(), num_tokens, e, e);
    const kernels::LinearCall qkv[] = {
        {&layer.wq, q, q_size, data_or_none(layer.q_bias)},
        {&layer.wk, k, kv_size, data_or_none(layer.k_bias)},
        {&layer.wv, v, kv_size, data_or_none(layer.v_bias)},
    };
    kernels::multiply(qkv, w.activations, cores);
    rotate(layer, num_tokens, w, cores);
    attend(i, batch, cache, w, cores);
    w.activations.set(attended, num_tokens, q_size, q_size);
    const kernels::LinearCall out[] = {{&layer.wo, x, e, data_or_none(layer.o_bias), true}};
    kernels::multiply(out, w.activations, cores);

    // x += Wdown (silu(Wgate norm(x)) * Wup norm(x))
    norm(layer.mlp_norm, num_tokens, w, cores);
    w.activations.set(w.normed.data(), num_tokens, e, e);
    const kernels::LinearCall gate_up[] = {{&layer.w_gate, gate, f}, {&layer.w_up, up, f}};
    kernels::multiply(gate_up, w.activations, cores);
    for_rows(cores, num_tokens, f, [&](size_t row) {
      kernels::silu_multiply(gate + row * f, up + row * f, f, gate + row * f);
    });
    w.activations.set(gate, num_tokens, f, f);
    const kernels::LinearCall down[] = {{&layer.w_down, x, e, nullptr, true}};
    kernels::multiply(down, w.activations, cores);
  }
  finish_rows(batch, logits, w, cores);
}

void Llama::check(std::span<const SequenceInput> batch) const {
  for (const SequenceInput& input : batch) {
    WEFT_ASSERT(!input.tokens.empty());
    for (const Token token : input.tokens)
      if (token < 0 || static_cast<size_t>(token) >= config_.vocab_size)
        fail(ErrorKind::kInvalidInput, "token {} is outside the model's vocabulary of {}", token,
             config_.vocab_size);
  }
}

// x = the tokens' embeddings; angles of their positions.
void Llama::embed(std::span<const SequenceInput> batch, LlamaWorkspace& w,
                  const CoreSet& cores) const {
  size_t num_tokens = 0;
  for (const SequenceInput& input : batch) num_tokens += input.tokens.size();
  const size_t e = config_.hidden_size, turning = 2 * rope_.inverse_frequency.size();
  float* const x = w.x.need(num_tokens * e);
  float* const angles = w.angles.need(num_tokens * turning);
  w.normed.need(num_tokens * e);
  size_t first_row = 0;
  for (const SequenceInput& input : batch) {
    for_rows(cores, input.tokens.size(), e, [&](size_t i) {
      const auto token = static_cast<size_t>(input.tokens[i]);
      float* const row = x + (first_row + i) * e;
      if (embedding_.data == nullptr)
        head_.dequantize_row(token, row);
      else
        kernels::dequantize(embedding_.dtype, embedding_.row(token), row, e);
      kernels::rope_angles(rope_, input.first_position + i, angles + (first_row + i) * turning);
    });
    first_row += input.tokens.size();
  }
}

// normed = RMSNorm(x)
void Llama::norm(const std::vector<float>& weight, size_t num_tokens, LlamaWorkspace& w,
                 const CoreSet& cores) const {
  const size_t e = config_.hidden_size;
  const float* const x = w.x.data();
  float* const normed = w.normed.data();
  for_rows(cores, num_tokens, e, [&](size_t row) {
    kernels::rms_norm(x + row * e, weight.data(), config_.norm_epsilon, e, normed + row * e);
  });
}

// Norms of the heads of q and k (where the model has them), then their rotation, in place.
void Llama::rotate(const Layer& layer, size_t num_tokens, LlamaWorkspace& w,
                   const CoreSet& cores) const {
  const size_t d = config_.head_dim;
  const size_t turning = 2 * rope_.inverse_frequency.size();
  const auto turn = [&](float* heads, size_t num_heads, const std::vector<float>& norm_weight,
                        const float* angles) {
    for (size_t h = 0; h < num_heads && !norm_weight.empty(); ++h)
      kernels::rms_norm(heads + h * d, norm_weight.data(), config_.norm_epsilon, d, heads + h * d);
    kernels::rope(rope_, angles, num_heads, d, heads);
  };
  const size_t q_size = config_.num_heads * d, kv_size = config_.num_kv_heads * d;
  for_rows(cores, num_tokens, q_size + kv_size, [&](size_t row) {
    const float* const angles = w.angles.data() + row * turning;
    turn(w.q.data() + row * q_size, config_.num_heads, layer.q_norm, angles);
    turn(w.k.data() + row * kv_size, config_.num_kv_heads, layer.k_norm, angles);
  });
}

// Stores k and v, then attended = attention(q) for every sequence: in one piece, or in pieces where
// the cache changes what it holds of earlier tokens.
void Llama::attend(size_t layer, std::span<const SequenceInput> batch, kernels::KvStore& cache,
                   LlamaWorkspace& w, const CoreSet& cores) const {
  const size_t q_size = config_.num_heads * config_.head_dim;
  const size_t kv_size = config_.num_kv_heads * config_.head_dim;
  const kernels::AttentionShape shape{
      .num_heads = config_.num_heads,
      .kv = kv_shape(),
      .scale = 1 / std::sqrt(static_cast<float>(config_.head_dim)),
      .window = config_.sliding_window,
  };
  const bool rotated = cache.transform() == kernels::KvTransform::kHadamard;
  size_t num_tokens = 0;
  for (const SequenceInput& input : batch) num_tokens += input.tokens.size();
  if (rotated)
    for_rows(cores, num_tokens, q_size + 2 * kv_size, [&](size_t row) {
      kernels::hadamard(config_.num_heads, config_.head_dim, w.q.data() + row * q_size);
      kernels::hadamard(config_.num_kv_heads, config_.head_dim, w.k.data() + row * kv_size);
      kernels::hadamard(config_.num_kv_heads, config_.head_dim, w.v.data() + row * kv_size);
    });
  w.attended_tokens.assign(batch.size(), 0);
  while (true) {
    w.calls.clear();
    size_t first_row = 0;
    for (size_t i = 0; i < batch.size(); ++i) {
      const SequenceInput& input = batch[i];
      size_t& done = w.attended_tokens[i];
      const size_t row = first_row + done, position = input.first_position + done;
      first_row += input.tokens.size();
      if (done == input.tokens.size()) continue;
      const size_t end = cache.piece_end(layer, input.sequence, position);
      const size_t count = std::min(input.tokens.size() - done, end - position);
      done += count;
      cache.append(layer, input.sequence, position, count, w.k.data() + row * kv_size,
                   w.v.data() + row * kv_size, kv_size);
      w.calls.push_back({.q = w.q.data() + row * q_size,
                         .q_stride = q_size,
                         .out = w.attended.data() + row * q_size,
                         .out_stride = q_size,
                         .num_tokens = count,
                         .first_position = position,
                         .kv = cache.view(layer, input.sequence)});
    }
    if (w.calls.empty()) break;
    kernels::attention(shape, w.calls, w.attention, cores);
  }
  if (rotated)
    for_rows(cores, num_tokens, q_size, [&](size_t row) {
      kernels::hadamard(config_.num_heads, config_.head_dim, w.attended.data() + row * q_size);
    });
}

// Logits of the wanted rows alone: the head is a large part of a small model.
void Llama::finish_rows(std::span<const SequenceInput> batch, float* logits, LlamaWorkspace& w,
                        const CoreSet& cores) const {
  const size_t e = config_.hidden_size;
  const auto final_norm = [&](size_t row, float* out) {
    kernels::rms_norm(w.x.data() + row * e, final_norm_.data(), config_.norm_epsilon, e, out);
  };
  w.wanted.clear();
  size_t row = 0;
  for (const SequenceInput& input : batch) {
    const size_t end = row + input.tokens.size();
    for (size_t i = 0; i < input.tokens.size() && input.hidden != nullptr; ++i)
      final_norm(row + i, input.hidden + i * e);
    if (input.last_hidden != nullptr) final_norm(end - 1, input.last_hidden);
    if (input.logits == LogitsWanted::kLast) w.wanted.push_back(end - 1);
    if (input.logits == LogitsWanted::kAll)
      for (size_t r = row; r < end; ++r) w.wanted.push_back(r);
    row = end;
  }
  if (w.wanted.empty()) return;
  float* const normed = w.normed.data();
  for_rows(cores, w.wanted.size(), e, [&](size_t i) { final_norm(w.wanted[i], normed + i * e); });
  head(normed, w.wanted.size(), logits, w, cores);
}

void Llama::head(const float* hidden, size_t num_rows, float* logits, Workspace& workspace,
                 const CoreSet& cores) const {
  auto& w = static_cast<LlamaWorkspace&>(workspace);
  w.activations.set(hidden, num_rows, config_.hidden_size, config_.hidden_size);
  const kernels::LinearCall call[] = {{&packed_head(cores), logits, config_.vocab_size}};
  kernels::multiply(call, w.activations, cores);
}

const Linear& Llama::packed_head(const CoreSet& cores) const {
  if (packed_head_bytes_.load() != 0) return head_;
  std::call_once(head_once_, [&] {
    advise(head_weight_.data, head_weight_.bytes(), FileAccess::kNormal);
    head_ = Linear::pack(head_weight_, cores);
    checkpoint_->release(head_weight_);
    packed_head_bytes_ = head_.packed_bytes();
  });
  return head_;
}

// A positive whole number, bounded so that no product of a few of them overflows.
size_t count(const Checkpoint& checkpoint, const char* key, int64_t value) {
  constexpr int64_t kLargest = int64_t{1} << 24;
  if (value <= 0 || value > kLargest)
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is {}, expected 1 to {}",
         checkpoint.name(), key, value, kLargest);
  return static_cast<size_t>(value);
}

}  // namespace

LlamaConfig read_llama_config(const Checkpoint& checkpoint, LlamaVariant variant) {
  const auto need = [&](const char* key) {
    return count(checkpoint, key, checkpoint.require_int(key));
  };
  const auto get = [&](const char* key, size_t otherwise) {
    const auto value = checkpoint.get_int(key);
    return value ? count(checkpoint, key, *value) : otherwise;
  };
  LlamaConfig c;
  c.architecture = checkpoint.architecture();
  c.variant = variant;
  c.num_layers = need("block_count");
  c.context_length = need("context_length");
  c.hidden_size = need("embedding_length");
  c.intermediate_size = need("feed_forward_length");
  c.num_heads = need("attention.head_count");
  c.num_kv_heads = get("attention.head_count_kv", c.num_heads);
  c.head_dim = get("attention.key_length", c.hidden_size / c.num_heads);
  c.sliding_window = static_cast<size_t>(
      std::max<int64_t>(0, checkpoint.get_int("attention.sliding_window").value_or(0)));
  const double epsilon = checkpoint.require_float("attention.layer_norm_rms_epsilon");

  const auto wrong = [&](const char* key, const auto& value, const std::string& expected) {
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is {}, expected {}", checkpoint.name(),
         key, value, expected);
  };
  if (!(epsilon > 0 && epsilon < 1))
    wrong("attention.layer_norm_rms_epsilon", epsilon, "more than 0 and less than 1");
  c.norm_epsilon = static_cast<float>(epsilon);
  if (c.num_heads % c.num_kv_heads != 0)
    wrong("attention.head_count_kv", c.num_kv_heads,
          fmt::format("a divisor of attention.head_count = {}", c.num_heads));
  if (get("attention.value_length", c.head_dim) != c.head_dim)
    wrong("attention.value_length", get("attention.value_length", c.head_dim),
          fmt::format("attention.key_length = {}", c.head_dim));
  if (checkpoint.get_int("expert_count").value_or(0) > 0)
    fail(ErrorKind::kUnsupported, "{}: a mixture of {} experts is not supported for '{}'",
         checkpoint.name(), *checkpoint.get_int("expert_count"), c.architecture);
  if (c.head_dim % 16 != 0 || c.head_dim > 512)
    fail(ErrorKind::kUnsupported, "{}: heads of {} values; multiples of 16 up to 512 are supported",
         checkpoint.name(), c.head_dim);

  const TensorView embedding = checkpoint.require("token_embd.weight");
  c.vocab_size = get("vocab_size", embedding.shape.rows());
  if (embedding.shape.rank() != 2 || embedding.shape[0] != c.vocab_size)
    wrong("vocab_size", c.vocab_size,
          fmt::format("the rows of token_embd.weight, {}", embedding.shape.rows()));
  return c;
}

MemoryPlan plan_llama(const Checkpoint& checkpoint, const LlamaConfig& c, kernels::KvFormat kv,
                      size_t max_batch_tokens) {
  MemoryPlan plan;
  const bool tied = !checkpoint.find("output.weight");
  for (const std::string& name : checkpoint.tensor_names()) {
    const TensorView tensor = checkpoint.require(name);
    if (name == "token_embd.weight" && !tied) continue;  // stays in the mapped file
    const size_t packed_bytes =
        tensor.shape.rank() == 2 && traits(tensor.dtype).is_weight
            ? (tensor.shape.rows() + kernels::kPanelOutputs - 1) / kernels::kPanelOutputs *
                  kernels::panel_bytes(tensor.dtype, tensor.shape.columns())
            : tensor.shape.elements() * sizeof(float);
    plan.weight_bytes += packed_bytes;
    if (name == (tied ? "token_embd.weight" : "output.weight")) plan.head_bytes = packed_bytes;
  }
  const kernels::KvShape shape{c.num_kv_heads, c.head_dim};
  plan.kv_bytes_per_token = c.num_layers * shape.page_bytes(kv) / kernels::kPageTokens;
  // The workspace's arrays, the widest one once more as converted activations.
  const size_t q_size = c.num_heads * c.head_dim, kv_size = c.num_kv_heads * c.head_dim;
  const size_t widest = std::max({c.hidden_size, c.intermediate_size, q_size});
  plan.scratch_bytes = max_batch_tokens * sizeof(float) *
                       (2 * c.hidden_size + 2 * q_size + 2 * kv_size + 2 * c.intermediate_size +
                        c.head_dim + widest);
  return plan;
}

std::unique_ptr<LanguageModel> load_llama(std::shared_ptr<const Checkpoint> checkpoint,
                                          const LlamaConfig& config, const CoreSet& cores,
                                          const ProgressFn& progress, HeadLoading head,
                                          Arena* arena) {
  return std::make_unique<Llama>(std::move(checkpoint), config, cores, progress, head, arena);
}

}  // namespace weft::models
