#include "models/transformer.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "kernels/kv_transform.h"
#include "kernels/panel_layout.h"
#include "kernels/quantize.h"
#include "models/rope.h"

namespace weft::models {
namespace {

using formats::Checkpoint;
using kernels::Linear;

// What each row's heads are to go through; gives the number of rows.
size_t find_transforms(std::span<const SequenceInput> batch, size_t layer,
                       const kernels::KvStore& cache, TransformerWorkspace& w) {
  w.transforms.clear();
  w.any_transform = false;
  size_t num_tokens = 0;
  for (const SequenceInput& input : batch) {
    w.transforms.push_back(cache.transform(layer, input.sequence));
    w.any_transform |= w.transforms.back().any();
    num_tokens += input.tokens.size();
  }
  if (!w.any_transform) return num_tokens;
  w.input_of_row.clear();
  for (size_t i = 0; i < batch.size(); ++i)
    w.input_of_row.insert(w.input_of_row.end(), batch[i].tokens.size(), static_cast<uint32_t>(i));
  return num_tokens;
}

const float* data_or_none(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

size_t checked_count(const Checkpoint& checkpoint, const char* key, int64_t value) {
  constexpr int64_t kLargest = int64_t{1} << 24;
  if (value <= 0 || value > kLargest)
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is {}, expected 1 to {}",
         checkpoint.name(), key, value, kLargest);
  return static_cast<size_t>(value);
}

// Bytes that a tensor takes once it is loaded.
size_t packed_size(std::string_view name, const TensorView& tensor) {
  const Shape& shape = tensor.shape;
  if (shape.rank() < 2 || !traits(tensor.dtype).is_weight) return shape.elements() * sizeof(float);
  const DType type = name.ends_with("ffn_gate_inp.weight") ? DType::kF32 : tensor.dtype;
  const size_t matrices = shape.rank() == 3 ? shape[0] : 1;  // of stacked experts
  return matrices * Linear::packed_bytes(type, shape.rows() / matrices, shape.columns());
}

}  // namespace

size_t read_count(const Checkpoint& checkpoint, const char* key) {
  return checked_count(checkpoint, key, checkpoint.require_int(key));
}

size_t read_count(const Checkpoint& checkpoint, const char* key, size_t otherwise) {
  const auto value = checkpoint.get_int(key);
  return value ? checked_count(checkpoint, key, *value) : otherwise;
}

TransformerConfig read_transformer_config(const Checkpoint& checkpoint, AttentionVariant variant) {
  const auto need = [&](const char* key) { return read_count(checkpoint, key); };
  const auto get = [&](const char* key, size_t otherwise) {
    return read_count(checkpoint, key, otherwise);
  };
  TransformerConfig c;
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

MemoryPlan plan_transformer(const Checkpoint& checkpoint, const TransformerConfig& c,
                            kernels::KvFormat kv, size_t max_batch_tokens, size_t num_ranks) {
  MemoryPlan plan;
  const bool tied = !checkpoint.find("output.weight");
  for (const std::string& name : checkpoint.tensor_names()) {
    const TensorView tensor = checkpoint.require(name);
    if (name == "token_embd.weight" && !tied) continue;  // stays in the mapped file
    const size_t packed_bytes = packed_size(name, tensor);
    plan.weight_bytes += packed_bytes;
    if (name == (tied ? "token_embd.weight" : "output.weight")) plan.head_bytes = packed_bytes;
  }
  const kernels::KvShape shape{c.num_kv_heads, c.head_dim};
  plan.kv_bytes_per_token = c.num_layers * shape.page_bytes(kv) / kernels::kPageTokens;
  // Of a team, the largest share.
  const auto largest = [&](size_t count) { return (count + num_ranks - 1) / num_ranks; };
  plan.weight_bytes = largest(plan.weight_bytes);
  plan.head_bytes = largest(plan.head_bytes);
  plan.kv_bytes_per_token = plan.kv_bytes_per_token / c.num_kv_heads * largest(c.num_kv_heads);
  // The workspace's arrays, the widest one once more as converted activations.
  const size_t kv_size = largest(c.num_kv_heads) * c.head_dim;
  const size_t q_size = c.num_heads / c.num_kv_heads * kv_size;
  const size_t f = largest(c.intermediate_size);
  const size_t widest = std::max({c.hidden_size, f, q_size});
  plan.scratch_bytes = max_batch_tokens * sizeof(float) *
                       (2 * c.hidden_size + 2 * q_size + 2 * kv_size + 2 * f + c.head_dim + widest);
  return plan;
}

size_t Attention::packed_bytes() const {
  return wq.packed_bytes() + wk.packed_bytes() + wv.packed_bytes() + wo.packed_bytes();
}

Transformer::Transformer(std::shared_ptr<const Checkpoint> checkpoint,
                         const TransformerConfig& config, std::shared_ptr<TensorTeam> team)
    : checkpoint_(std::move(checkpoint)),
      shape_(config),
      team_(std::move(team)),
      kv_heads_{0, config.num_kv_heads},
      features_{0, config.intermediate_size},
      vocabulary_{0, config.vocab_size},
      rope_(read_rope(*checkpoint_, config.head_dim)) {
  if (team_) divide();
}

// Cuts heads, features and vocabulary among the ranks of the team.
void Transformer::divide() {
  const auto& c = shape_;
  const size_t n = team_->size(), r = team_->rank();
  const auto refuse = [&](const char* what, size_t count) {
    fail(
        ErrorKind::kUnsupported,
        "{}: has {} {}, so tensor parallelism divides it among {} ranks at most; {} were asked for",
        checkpoint_->name(), count, what, count, n);
  };
  if (n > c.num_kv_heads) refuse("heads of keys and values", c.num_kv_heads);
  // Blocks of 256 values (k-quants) stay whole where there are enough of them.
  const TensorView down = checkpoint_->require("blk.0.ffn_down.weight");
  const size_t unit = std::max<size_t>(32, traits(down.dtype).block_elements);
  if (n > c.intermediate_size / unit) refuse("blocks of features", c.intermediate_size / unit);
  kv_heads_ = share(c.num_kv_heads, 1, r, n);
  features_ = share(c.intermediate_size, unit, r, n);
  vocabulary_ = share(c.vocab_size, kVocabularyUnit, r, n);
}

void Transformer::read_embedding(WeightReader& weights) {
  weights.skip("rope_freqs.weight");  // read_rope() took it
  if (weights.has("output.weight"))
    embedding_ = weights.mapped("token_embd.weight", shape_.vocab_size, shape_.hidden_size);
}

void Transformer::read_head(WeightReader& weights, HeadLoading head) {
  final_norm_ = weights.vector("output_norm.weight", shape_.hidden_size);
  const bool tied = embedding_.data == nullptr;
  const std::string head_name = tied ? "token_embd.weight" : "output.weight";
  if (team_) {  // the embedding's rows are looked up in the file: nobody has them all
    head_weight_ = checkpoint_->require(head_name);
    if (tied) embedding_ = head_weight_;
    if (head == HeadLoading::kNow) {
      head_ = weights.rows_of(head_name, shape_.vocab_size, shape_.hidden_size, vocabulary_);
      packed_head_bytes_ = head_.packed_bytes();
    } else {
      weights.mapped(head_name, shape_.vocab_size, shape_.hidden_size);
      advise(head_weight_.data, head_weight_.bytes(), FileAccess::kRandom);
    }
  } else if (head == HeadLoading::kNow) {
    head_ = weights.linear(head_name, shape_.vocab_size, shape_.hidden_size);
    packed_head_bytes_ = head_.packed_bytes();
    head_weight_ = checkpoint_->require(head_name);
  } else {
    head_weight_ = weights.mapped(head_name, shape_.vocab_size, shape_.hidden_size);
    if (tied) embedding_ = head_weight_;
    advise(head_weight_.data, head_weight_.bytes(), FileAccess::kRandom);
  }
}

Attention Transformer::read_attention(WeightReader& weights, size_t index) const {
  const auto& c = shape_;
  const std::string prefix = "blk." + std::to_string(index) + ".";
  const size_t q_size = c.num_heads * c.head_dim, kv_size = c.num_kv_heads * c.head_dim;
  const size_t group = c.num_heads / c.num_kv_heads, d = c.head_dim;
  const Share kv{kv_heads_.begin * d, kv_heads_.end * d};
  const Share q{kv.begin * group, kv.end * group};
  const auto bias = [&](const char* projection, size_t size, bool needed, Share part) {
    const std::string name = prefix + projection + ".bias";
    if (!needed && !weights.has(name)) return std::vector<float>{};
    const std::vector<float> all = weights.vector(name, size);
    return std::vector<float>(all.begin() + static_cast<ptrdiff_t>(part.begin),
                              all.begin() + static_cast<ptrdiff_t>(part.end));
  };
  const bool needed = c.variant.needs_qkv_bias;

  Attention a;
  a.norm = weights.vector(prefix + "attn_norm.weight", c.hidden_size);
  a.wq = weights.rows_of(prefix + "attn_q.weight", q_size, c.hidden_size, q);
  a.wk = weights.rows_of(prefix + "attn_k.weight", kv_size, c.hidden_size, kv);
  a.wv = weights.rows_of(prefix + "attn_v.weight", kv_size, c.hidden_size, kv);
  a.q_bias = bias("attn_q", q_size, needed, q);
  a.k_bias = bias("attn_k", kv_size, needed, kv);
  a.v_bias = bias("attn_v", kv_size, needed, kv);
  if (c.variant.has_qk_norm) {
    a.q_norm = weights.vector(prefix + "attn_q_norm.weight", c.head_dim);
    a.k_norm = weights.vector(prefix + "attn_k_norm.weight", c.head_dim);
  }
  a.wo = weights.columns_of(prefix + "attn_output.weight", c.hidden_size, q_size, q);
  a.o_bias = bias("attn_output", c.hidden_size, false, {0, c.hidden_size});
  return a;
}

Mlp Transformer::read_mlp(WeightReader& weights, const std::string& prefix,
                          const std::string& suffix, size_t width) const {
  const size_t e = shape_.hidden_size;
  WEFT_ASSERT(!team_ || width == shape_.intermediate_size);  // models with others have no teams
  const Share part = team_ ? features_ : Share{0, width};
  Mlp mlp;
  mlp.gate = weights.rows_of(prefix + "ffn_gate" + suffix + ".weight", width, e, part);
  mlp.up = weights.rows_of(prefix + "ffn_up" + suffix + ".weight", width, e, part);
  mlp.down = weights.columns_of(prefix + "ffn_down" + suffix + ".weight", e, width, part);
  return mlp;
}

void Transformer::add_attention(const Attention& a, size_t layer,
                                std::span<const SequenceInput> batch, kernels::KvStore& cache,
                                size_t num_tokens, const std::vector<float>& next_norm,
                                TransformerWorkspace& w, const CoreSet& cores) const {
  const size_t e = shape_.hidden_size;
  const size_t q_size = num_heads() * shape_.head_dim;
  const size_t kv_size = kv_heads_.size() * shape_.head_dim;
  norm(a.norm, num_tokens, w, cores);
  w.activations.set(w.normed.data(), num_tokens, e, e);
  const kernels::LinearCall qkv[] = {
      {&a.wq, w.q.data(), q_size, data_or_none(a.q_bias)},
      {&a.wk, w.k.data(), kv_size, data_or_none(a.k_bias)},
      {&a.wv, w.v.data(), kv_size, data_or_none(a.v_bias)},
  };
  kernels::multiply(qkv, w.activations, cores);
  rotate(a, num_tokens, w, cores);
  attend(layer, batch, cache, w, cores);
  w.activations.set(w.attended.data(), num_tokens, q_size, q_size);
  add_product(a.wo, a.o_bias, &next_norm, num_tokens, w, cores);
}

void Transformer::add_product(const Linear& weight, const std::vector<float>& bias,
                              const std::vector<float>* next_norm, size_t num_tokens,
                              TransformerWorkspace& w, const CoreSet& cores) const {
  const size_t e = shape_.hidden_size;
  if (team_) {
    Residual residual{.rows = w.x.data(), .stride = e};
    if (next_norm != nullptr)
      residual.norm = {next_norm->data(), shape_.norm_epsilon, w.normed.data()};
    return team_->multiply_add(weight, w.activations, data_or_none(bias), residual, cores);
  }
  const kernels::LinearCall call[] = {{&weight, w.x.data(), e, data_or_none(bias), true}};
  kernels::multiply(call, w.activations, cores);
  if (next_norm != nullptr) norm(*next_norm, num_tokens, w, cores);
}

void Transformer::add_mlp(const Mlp& mlp, size_t num_tokens, TransformerWorkspace& w,
                          const CoreSet& cores) const {
  const size_t e = shape_.hidden_size, f = mlp.gate.out_features();
  float* const gate = w.gate.need(num_tokens * f);
  float* const up = w.up.need(num_tokens * f);
  w.activations.set(w.normed.data(), num_tokens, e, e);
  const kernels::LinearCall gate_up[] = {{&mlp.gate, gate, f}, {&mlp.up, up, f}};
  kernels::multiply(gate_up, w.activations, cores);
  for_rows(cores, num_tokens, f, [&](size_t row) {
    kernels::silu_multiply(gate + row * f, up + row * f, f, gate + row * f);
  });
  w.activations.set(gate, num_tokens, f, f);
  add_product(mlp.down, {}, nullptr, num_tokens, w, cores);
}

void Transformer::check(std::span<const SequenceInput> batch) const {
  for (const SequenceInput& input : batch) {
    WEFT_ASSERT(!input.tokens.empty());
    for (const Token token : input.tokens)
      if (token < 0 || static_cast<size_t>(token) >= shape_.vocab_size)
        fail(ErrorKind::kInvalidInput, "token {} is outside the model's vocabulary of {}", token,
             shape_.vocab_size);
  }
}

size_t Transformer::begin(std::span<const SequenceInput> batch, TransformerWorkspace& w,
                          const CoreSet& cores) const {
  check(batch);
  size_t num_tokens = 0;
  for (const SequenceInput& input : batch) num_tokens += input.tokens.size();
  const size_t e = shape_.hidden_size, turning = 2 * rope_.inverse_frequency.size();
  float* const x = w.x.need(num_tokens * e);
  float* const angles = w.angles.need(num_tokens * turning);
  w.normed.need(num_tokens * e);
  const size_t q_size = num_heads() * shape_.head_dim;
  const size_t kv_size = kv_heads_.size() * shape_.head_dim;
  w.q.need(num_tokens * q_size);
  w.attended.need(num_tokens * q_size);
  w.k.need(num_tokens * kv_size);
  w.v.need(num_tokens * kv_size);
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
  return num_tokens;
}

void Transformer::norm(const std::vector<float>& weight, size_t num_tokens, TransformerWorkspace& w,
                       const CoreSet& cores) const {
  const size_t e = shape_.hidden_size;
  const float* const x = w.x.data();
  float* const normed = w.normed.data();
  for_rows(cores, num_tokens, e, [&](size_t row) {
    kernels::rms_norm(x + row * e, weight.data(), shape_.norm_epsilon, e, normed + row * e);
  });
}

// Norms of the heads of q and k (where the model has them), then their rotation, in place.
void Transformer::rotate(const Attention& attention, size_t num_tokens, TransformerWorkspace& w,
                         const CoreSet& cores) const {
  const size_t d = shape_.head_dim;
  const size_t turning = 2 * rope_.inverse_frequency.size();
  const auto turn = [&](float* heads, size_t num_heads, const std::vector<float>& norm_weight,
                        const float* angles) {
    for (size_t h = 0; h < num_heads && !norm_weight.empty(); ++h)
      kernels::rms_norm(heads + h * d, norm_weight.data(), shape_.norm_epsilon, d, heads + h * d);
    kernels::rope(rope_, angles, num_heads, d, heads);
  };
  const size_t q_size = num_heads() * d, kv_size = kv_heads_.size() * d;
  for_rows(cores, num_tokens, q_size + kv_size, [&](size_t row) {
    const float* const angles = w.angles.data() + row * turning;
    turn(w.q.data() + row * q_size, num_heads(), attention.q_norm, angles);
    turn(w.k.data() + row * kv_size, kv_heads_.size(), attention.k_norm, angles);
  });
}

// Stores k and v, and attended = attention(q), for every sequence.
void Transformer::attend(size_t layer, std::span<const SequenceInput> batch,
                         kernels::KvStore& cache, TransformerWorkspace& w,
                         const CoreSet& cores) const {
  const size_t q_size = num_heads() * shape_.head_dim;
  const size_t kv_size = kv_heads_.size() * shape_.head_dim;
  const kernels::AttentionShape shape{
      .num_heads = num_heads(),
      .kv = kv_shape(),
      .scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim)),
      .window = shape_.sliding_window,
  };
  const size_t num_tokens = find_transforms(batch, layer, cache, w);
  if (w.any_transform)
    for_rows(cores, num_tokens, q_size + 2 * kv_size, [&](size_t row) {
      const kernels::HeadTransform& t = w.transforms[w.input_of_row[row]];
      float* const q = w.q.data() + row * q_size;
      float* const k = w.k.data() + row * kv_size;
      const size_t d = shape_.head_dim, kv_heads = kv_heads_.size();
      if (t.query_factors != nullptr) {
        const size_t first = kv_heads_.begin * d;  // factors are for all of the model's heads
        kernels::multiply_features(num_heads(), num_heads() / kv_heads, d, t.query_factors + first, q);
        kernels::multiply_features(kv_heads, 1, d, t.key_factors + first, k);
      }
      if (!t.rotate) return;
      kernels::hadamard(num_heads(), d, q);
      kernels::hadamard(kv_heads, d, k);
      kernels::hadamard(kv_heads, d, w.v.data() + row * kv_size);
    });
  if (w.spread != nullptr)
    w.spread->attend(shape, layer, w.q.data(), w.k.data(), w.v.data(), w.attended.data(), cores);
  else
    attend_here(shape, layer, batch, cache, w, cores);
  if (w.any_transform)
    for_rows(cores, num_tokens, q_size, [&](size_t row) {
      if (w.transforms[w.input_of_row[row]].rotate)
        kernels::hadamard(num_heads(), shape_.head_dim, w.attended.data() + row * q_size);
    });
}

// Every sequence in one piece, or in pieces where the cache changes what it holds of earlier tokens.
void Transformer::attend_here(const kernels::AttentionShape& shape, size_t layer,
                              std::span<const SequenceInput> batch, kernels::KvStore& cache,
                              TransformerWorkspace& w, const CoreSet& cores) const {
  const size_t q_size = num_heads() * shape_.head_dim;
  const size_t kv_size = kv_heads_.size() * shape_.head_dim;
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
      cache.note_queries(layer, input.sequence, count, w.q.data() + row * q_size, q_size);
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
}

// Logits of the wanted rows alone: the head is a large part of a small model.
void Transformer::finish(std::span<const SequenceInput> batch, float* logits,
                         TransformerWorkspace& w, const CoreSet& cores) const {
  const size_t e = shape_.hidden_size;
  const auto final_norm = [&](size_t row, float* out) {
    kernels::rms_norm(w.x.data() + row * e, final_norm_.data(), shape_.norm_epsilon, e, out);
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

void Transformer::head(const float* hidden, size_t num_rows, float* logits, Workspace& workspace,
                       const CoreSet& cores) const {
  auto& w = static_cast<TransformerWorkspace&>(workspace);
  w.activations.set(hidden, num_rows, shape_.hidden_size, shape_.hidden_size);
  float* const out = team_ ? w.part.need(num_rows * vocabulary_.size()) : logits;
  const kernels::LinearCall call[] = {{&packed_head(cores), out, vocabulary_.size()}};
  kernels::multiply(call, w.activations, cores);
  if (team_) team_->gather(out, num_rows, shape_.vocab_size, logits);
}

const Linear& Transformer::packed_head(const CoreSet& cores) const {
  if (packed_head_bytes_.load() != 0) return head_;
  std::call_once(head_once_, [&] {
    advise(head_weight_.data, head_weight_.bytes(), FileAccess::kNormal);
    const TensorView rows{head_weight_.dtype, {vocabulary_.size(), shape_.hidden_size},
                          head_weight_.row(vocabulary_.begin)};
    head_ = Linear::pack(rows, cores);
    checkpoint_->release(head_weight_);
    packed_head_bytes_ = head_.packed_bytes();
  });
  return head_;
}

}  // namespace weft::models
