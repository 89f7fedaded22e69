#include "models/megrez2.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "models/computing_pass.h"

namespace weft::models {
namespace {

using formats::Checkpoint;
using kernels::Linear;
using kernels::LinearCall;

// E = hidden_size, N = num_experts, k = experts_per_token, F = expert_width.
struct Layer {
  Attention attention;
  std::vector<float> mlp_norm;  // (E)
  Mlp dense;                    // of the first layers; of the others the shared expert, if any
  Linear router;                // (N, E) f32; none in dense layers
  std::vector<float> bias;  // (N), this layer's own: takes part in the choice, not in the weights
};

// Room for T tokens.
struct Megrez2Workspace final : TransformerWorkspace {
  const Error* failure(size_t input) const override {
    return input < errors.size() && errors[input] ? &*errors[input] : nullptr;
  }

  Scratch<float> router_logits;  // (T, N)
  Choice choice, next_choice;    // of this layer and of the next
  std::vector<float> scores;     // (N)
  // Of a few experts at a time, R rows among them: their inputs and what is between their matrices.
  Scratch<float> gathered;                // (R, E)
  Scratch<float> expert_gate, expert_up;  // (R, F)
  std::array<kernels::Activations, ExpertPass::kMost> expert_activations;
  Scratch<float> expert_out;                 // (T * k, E), row by expert
  std::vector<size_t> sequence_of;           // (T), index in the batch
  std::vector<std::optional<Error>> errors;  // of the batch's sequences
  std::unique_ptr<ExpertPass> experts;
  ComputingPass* computing = nullptr;  // experts, where it computes
};

// Ends a pass however it ends.
struct PassEnd {
  ExpertPass& pass;
  ~PassEnd() { pass.end(); }
};

class Megrez2 final : public Transformer {
 public:
  Megrez2(std::shared_ptr<const Checkpoint> checkpoint, const Megrez2Config& config,
          const CoreSet& cores, const ProgressFn& progress, HeadLoading head, Arena* arena,
          const OpenExperts& open_experts);

  const LanguageModelConfig& config() const override { return config_; }
  size_t weight_bytes() const override;
  std::unique_ptr<Workspace> make_workspace() const override;
  void forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
               Workspace& workspace, const CoreSet& cores) const override;
  ExpertStore* experts() const override { return experts_.get(); }

 private:
  Layer read_layer(WeightReader& weights, size_t index, const Checkpoint& checkpoint) const;
  void choose_experts(const Layer& layer, size_t num_tokens, Choice& choice, Megrez2Workspace& w,
                      const CoreSet& cores) const;
  void add_mixture(const Layer& layer, size_t index, std::span<const SequenceInput> batch,
                   size_t num_tokens, Megrez2Workspace& w, const CoreSet& cores) const;
  void compute(std::span<const ExpertPass::Arrival> arrivals, std::span<const SequenceInput> batch,
               size_t num_tokens, Megrez2Workspace& w, const CoreSet& cores) const;
  void lose(const ExpertPass::Arrival& arrival, std::span<const SequenceInput> batch,
            Megrez2Workspace& w) const;

  Megrez2Config config_;
  std::vector<Layer> layers_;
  std::unique_ptr<ExpertStore> experts_;
};

std::string block(size_t layer) { return "blk." + std::to_string(layer) + "."; }

void check_finite(const Checkpoint& checkpoint, const std::string& name, const float* values,
                  size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (!std::isfinite(values[i]))
      fail(ErrorKind::kInvalidInput,
           "{}: tensor '{}' holds {} at {}: experts cannot be chosen by it. The file is damaged: "
           "fetch "
           "or convert it again.",
           checkpoint.name(), name, values[i], i);
}

// All routed experts, where they lie.
ExpertTable find_experts(const Megrez2Config& c, WeightReader& weights) {
  ExpertTable table;
  table.num_layers = c.num_moe_layers();
  table.layers_per_group = c.layers_per_group;
  table.experts_per_group = c.router.num_experts;
  table.experts_per_token = c.router.experts_per_token;
  table.first_dense = c.first_dense;
  table.num_groups = (table.num_layers + c.layers_per_group - 1) / c.layers_per_group;
  for (size_t g = 0; g < table.num_groups; ++g) {
    const std::string prefix = block(table.leader(g)) + "ffn_";
    const size_t n = c.router.num_experts, f = c.expert_width, e = c.hidden_size;
    const std::vector<TensorView> gate = weights.experts(prefix + "gate_exps", n, f, e);
    const std::vector<TensorView> up = weights.experts(prefix + "up_exps", n, f, e);
    const std::vector<TensorView> down = weights.experts(prefix + "down_exps", n, e, f);
    for (size_t i = 0; i < n; ++i) table.experts.push_back({gate[i], up[i], down[i]});
  }
  return table;
}

Megrez2::Megrez2(std::shared_ptr<const Checkpoint> checkpoint, const Megrez2Config& config,
                 const CoreSet& cores, const ProgressFn& progress, HeadLoading head, Arena* arena,
                 const OpenExperts& open_experts)
    : Transformer(checkpoint, config), config_(config) {
  WeightReader weights(*checkpoint, cores, progress, arena);
  read_embedding(weights);
  for (size_t i = 0; i < config.num_layers; ++i)
    layers_.push_back(read_layer(weights, i, *checkpoint));
  read_head(weights, head);
  const ExpertTable table = find_experts(config, weights);
  if (open_experts) {
    experts_ = open_experts(table, *checkpoint, cores, progress);
  } else {
    std::vector<Mlp> resident;
    for (const ExpertMatrices& m : table.experts)
      resident.push_back({weights.pack(m.gate), weights.pack(m.up), weights.pack(m.down)});
    experts_ = make_resident_experts(table, std::move(resident));
  }
  weights.finish();
}

Layer Megrez2::read_layer(WeightReader& weights, size_t index, const Checkpoint& checkpoint) const {
  const auto& c = config_;
  const std::string prefix = block(index);
  Layer layer;
  layer.attention = read_attention(weights, index);
  layer.mlp_norm = weights.vector(prefix + "ffn_norm.weight", c.hidden_size);
  if (index < c.first_dense) {
    layer.dense = read_mlp(weights, prefix, "", c.intermediate_size);
    return layer;
  }
  const size_t n = c.router.num_experts;
  if (c.shared_width != 0) layer.dense = read_mlp(weights, prefix, "_shexp", c.shared_width);
  // In f32 whatever the file holds: near-ties would flip between formats.
  const std::string router_name = prefix + "ffn_gate_inp.weight";
  const std::vector<float> router = weights.matrix(router_name, n, c.hidden_size);
  check_finite(checkpoint, router_name, router.data(), router.size());
  layer.router = weights.pack(router, n, c.hidden_size);
  const std::string bias_name = prefix + "exp_probs_b.bias";
  layer.bias = weights.has(bias_name) ? weights.vector(bias_name, n) : std::vector<float>(n);
  check_finite(checkpoint, bias_name, layer.bias.data(), n);
  return layer;
}

size_t Megrez2::weight_bytes() const {
  size_t bytes = packed_head_bytes() + experts_->memory_bytes();
  for (const Layer& layer : layers_)
    bytes +=
        layer.attention.packed_bytes() + layer.dense.packed_bytes() + layer.router.packed_bytes();
  return bytes;
}

std::unique_ptr<Workspace> Megrez2::make_workspace() const {
  auto workspace = std::make_unique<Megrez2Workspace>();
  workspace->experts = experts_->make_pass();
  workspace->computing = dynamic_cast<ComputingPass*>(workspace->experts.get());
  return workspace;
}

void Megrez2::forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
                      Workspace& workspace, const CoreSet& cores) const {
  auto& w = static_cast<Megrez2Workspace&>(workspace);
  const PassEnd end{*w.experts};
  if (w.computing != nullptr) w.computing->lend(cores);
  const size_t num_tokens = begin(batch, w, cores);
  w.errors.assign(batch.size(), std::nullopt);
  w.sequence_of.clear();
  for (size_t s = 0; s < batch.size(); ++s)
    w.sequence_of.insert(w.sequence_of.end(), batch[s].tokens.size(), s);

  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    // normed = n_i: what the experts read
    add_attention(layer.attention, i, batch, cache, num_tokens, layer.mlp_norm, w, cores);
    const bool mixes = i >= config_.first_dense;
    if (mixes && !config_.pre_gate) choose_experts(layer, num_tokens, w.choice, w, cores);
    if (config_.pre_gate && i + 1 < layers_.size() && i + 1 >= config_.first_dense) {
      // The gate of layer i + 1 reads n_i, before layer i's MLP: reads of experts get a head start.
      choose_experts(layers_[i + 1], num_tokens, w.next_choice, w, cores);
      w.experts->expect(i + 1 - config_.first_dense, w.next_choice.used);
    }
    if (mixes)
      add_mixture(layer, i - config_.first_dense, batch, num_tokens, w, cores);
    else
      add_mlp(layer.dense, num_tokens, w, cores);
    if (config_.pre_gate) std::swap(w.choice, w.next_choice);
  }
  finish(batch, logits, w, cores);
}

// choice = which experts each token of `normed` goes to in `layer` (b.3 of the paper's router).
void Megrez2::choose_experts(const Layer& layer, size_t num_tokens, Choice& choice,
                             Megrez2Workspace& w, const CoreSet& cores) const {
  const size_t n = config_.router.num_experts, k = config_.router.experts_per_token;
  float* const logits = w.router_logits.need(num_tokens * n);
  w.activations.set(w.normed.data(), num_tokens, config_.hidden_size, config_.hidden_size);
  const LinearCall call[] = {{&layer.router, logits, n}};
  kernels::multiply(call, w.activations, cores);
  choice.ids.resize(num_tokens * k);
  choice.weights.resize(num_tokens * k);
  for (size_t t = 0; t < num_tokens; ++t)
    choose(config_.router, logits + t * n, layer.bias.data(), choice.ids.data() + t * k,
           choice.weights.data() + t * k, w.scores);
  choice.sort_by_expert(n, k);
}

// x += shared(normed) + sum over the chosen experts, in ascending order, of weight *
// expert(normed). Experts are computed in the order in which they come; what they give is summed up
// afterwards.
void Megrez2::add_mixture(const Layer& layer, size_t index, std::span<const SequenceInput> batch,
                          size_t num_tokens, Megrez2Workspace& w, const CoreSet& cores) const {
  using Wait = ExpertPass::Wait;
  const size_t e = config_.hidden_size, k = config_.router.experts_per_token;
  w.expert_out.need(num_tokens * k * e);
  w.experts->visit(index, w.choice.used);
  for (auto here = w.experts->next(Wait::kNo); !here.empty(); here = w.experts->next(Wait::kNo))
    compute(here, batch, num_tokens, w, cores);
  if (config_.shared_width != 0) add_mlp(layer.dense, num_tokens, w, cores);
  for (auto come = w.experts->next(Wait::kForOne); !come.empty();
       come = w.experts->next(Wait::kForOne))
    compute(come, batch, num_tokens, w, cores);

  const float* const out = w.expert_out.data();
  for_rows(cores, num_tokens, k * e, [&](size_t t) {
    float* const sum = w.normed.data() + t * e;  // n_i has been read for the last time
    for (size_t j = 0; j < k; ++j) {
      const float weight = w.choice.weights[t * k + j];
      const float* const row = out + size_t{w.choice.row_of[t * k + j]} * e;
      for (size_t d = 0; d < e; ++d) sum[d] = j == 0 ? weight * row[d] : sum[d] + weight * row[d];
    }
    float* const x = w.x.data() + t * e;
    for (size_t d = 0; d < e; ++d) x[d] += sum[d];
  });
}

// expert_out of a few experts, for all tokens that chose them.
void Megrez2::compute(std::span<const ExpertPass::Arrival> arrivals,
                      std::span<const SequenceInput> batch, size_t num_tokens, Megrez2Workspace& w,
                      const CoreSet& cores) const {
  const size_t e = config_.hidden_size, f = config_.expert_width;
  std::array<const ExpertPass::Arrival*, ExpertPass::kMost> come{};
  std::array<size_t, ExpertPass::kMost + 1> first{};  // row among those computed here
  size_t count = 0;
  for (const ExpertPass::Arrival& arrival : arrivals) {
    if (arrival.mlp == nullptr) {
      lose(arrival, batch, w);
      continue;
    }
    come[count] = &arrival;
    first[count + 1] = first[count] + w.choice.num_rows(arrival.expert);
    ++count;
  }
  const size_t rows = first[count];
  float* const gate = w.expert_gate.need(rows * f);
  float* const up = w.expert_up.need(rows * f);
  const float* inputs = w.normed.data();
  const bool alone = num_tokens == 1;  // all experts read the one row
  if (!alone) {
    float* const gathered = w.gathered.need(rows * e);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t* const tokens = w.choice.token_of.data() + w.choice.first_row[come[i]->expert];
      for_rows(cores, first[i + 1] - first[i], e, [&](size_t row) {
        std::memcpy(gathered + (first[i] + row) * e, w.normed.data() + tokens[row] * e,
                    e * sizeof(float));
      });
    }
    inputs = gathered;
  }

  std::array<LinearCall, 2 * ExpertPass::kMost> calls;
  for (size_t i = 0; i < count; ++i) {
    kernels::Activations& x = w.expert_activations[alone ? 0 : i];
    if (!alone || i == 0) x.set(inputs + first[i] * e, first[i + 1] - first[i], e, e);
    calls[2 * i] = {
        .weight = &come[i]->mlp->gate, .out = gate + first[i] * f, .out_stride = f, .x = &x};
    calls[2 * i + 1] = {
        .weight = &come[i]->mlp->up, .out = up + first[i] * f, .out_stride = f, .x = &x};
  }
  kernels::multiply(std::span(calls).first(2 * count), cores);
  for_rows(cores, rows, f, [&](size_t row) {
    kernels::silu_multiply(gate + row * f, up + row * f, f, gate + row * f);
  });
  for (size_t i = 0; i < count; ++i) {
    kernels::Activations& x = w.expert_activations[i];
    x.set(gate + first[i] * f, first[i + 1] - first[i], f, f);
    float* const out = w.expert_out.data() + size_t{w.choice.first_row[come[i]->expert]} * e;
    calls[i] = {.weight = &come[i]->mlp->down, .out = out, .out_stride = e, .x = &x};
  }
  kernels::multiply(std::span(calls).first(count), cores);
}

// An expert that could not be read: the sequences that chose it are lost, the others go on.
void Megrez2::lose(const ExpertPass::Arrival& arrival, std::span<const SequenceInput> batch,
                   Megrez2Workspace& w) const {
  const size_t e = config_.hidden_size;
  for (size_t row = w.choice.first_row[arrival.expert];
       row < w.choice.first_row[arrival.expert + 1]; ++row) {
    std::fill_n(w.expert_out.data() + row * e, e, 0.0f);
    const size_t s = w.sequence_of[w.choice.token_of[row]];
    if (!batch[s].may_fail) throw *arrival.error;
    if (!w.errors[s]) w.errors[s] = *arrival.error;
  }
}

[[noreturn]] void wrong(const Checkpoint& checkpoint, const char* key, size_t value,
                        const std::string& expected) {
  fail(ErrorKind::kInvalidInput, "{}: hyper-parameter '{}' is {}, expected {}", checkpoint.name(),
       key, value, expected);
}

bool holds_experts(const Checkpoint& checkpoint, size_t layer) {
  return checkpoint.find(block(layer) + "ffn_gate_exps.weight").has_value() ||
         checkpoint.find(block(layer) + "ffn_gate_exps.0.weight").has_value();
}

// Which layers share, by the key if the file has it and by where experts lie; both must agree.
size_t read_layers_per_group(const Checkpoint& checkpoint, const Megrez2Config& c) {
  std::vector<size_t> leaders;
  for (size_t i = 0; i < c.num_layers; ++i)
    if (holds_experts(checkpoint, i)) leaders.push_back(i);
  const char* const kKey = "expert_shared_frequency";
  size_t frequency = c.num_moe_layers();
  if (checkpoint.get_int(kKey))
    frequency = read_count(checkpoint, kKey);
  else if (leaders.size() > 1)
    frequency = leaders[1] - leaders[0];
  for (size_t i = 0; i < c.num_layers; ++i) {
    const bool leads = i >= c.first_dense && (i - c.first_dense) % frequency == 0;
    if (leads == holds_experts(checkpoint, i)) continue;
    fail(ErrorKind::kInvalidInput,
         "{}: {} layers share their experts after {} dense ones, so layer {} must {}, but its "
         "tensor "
         "'{}ffn_gate_exps.weight' is {}. The file is incomplete or was converted with another {}.",
         checkpoint.name(), frequency, c.first_dense, i, leads ? "hold experts" : "hold none",
         block(i), leads ? "missing" : "there", kKey);
  }
  return frequency;
}

}  // namespace

Megrez2Config read_megrez2_config(const Checkpoint& checkpoint, AttentionVariant attention,
                                  MixtureVariant mixture) {
  Megrez2Config c;
  static_cast<TransformerConfig&>(c) = read_transformer_config(checkpoint, attention);
  RouterShape& r = c.router;
  r.num_experts = read_count(checkpoint, "expert_count");
  r.experts_per_token = read_count(checkpoint, "expert_used_count");
  r.num_groups = read_count(checkpoint, "expert_group_count", 1);
  r.groups_used = read_count(checkpoint, "expert_group_used_count", r.num_groups);
  r.normalise = checkpoint.get_bool("expert_weights_norm").value_or(true);
  r.scale = static_cast<float>(checkpoint.get_float("expert_weights_scale").value_or(1));
  c.expert_width = read_count(checkpoint, "expert_feed_forward_length");
  if (checkpoint.get_int("expert_shared_feed_forward_length"))
    c.shared_width = read_count(checkpoint, "expert_shared_feed_forward_length");
  else if (checkpoint.get_int("expert_shared_count").value_or(0) != 0)
    c.shared_width = c.expert_width * read_count(checkpoint, "expert_shared_count");
  if (checkpoint.get_int("leading_dense_block_count").value_or(0) != 0)
    c.first_dense = read_count(checkpoint, "leading_dense_block_count");
  c.pre_gate = checkpoint.get_bool("expert_pre_gate").value_or(mixture.pre_gate);

  if (r.experts_per_token > r.num_experts)
    wrong(checkpoint, "expert_used_count", r.experts_per_token,
          fmt::format("at most expert_count = {}", r.num_experts));
  if (r.num_experts % r.num_groups != 0)
    wrong(checkpoint, "expert_group_count", r.num_groups,
          fmt::format("a divisor of expert_count = {}", r.num_experts));
  if (r.groups_used > r.num_groups ||
      r.groups_used * (r.num_experts / r.num_groups) < r.experts_per_token)
    wrong(checkpoint, "expert_group_used_count", r.groups_used,
          fmt::format("at most expert_group_count = {}, with {} experts or more among them",
                      r.num_groups, r.experts_per_token));
  if (!std::isfinite(r.scale))
    fail(ErrorKind::kInvalidInput, "{}: hyper-parameter 'expert_weights_scale' is {}",
         checkpoint.name(), r.scale);
  const int64_t gating = checkpoint.get_int("expert_gating_func").value_or(2);
  if (gating != 2)
    fail(ErrorKind::kUnsupported,
         "{}: experts are gated by function {}; only 2 (sigmoid) is supported", checkpoint.name(),
         gating);
  if (c.first_dense >= c.num_layers)
    wrong(checkpoint, "leading_dense_block_count", c.first_dense,
          fmt::format("less than block_count = {}", c.num_layers));
  if (c.pre_gate && c.first_dense == 0)
    fail(ErrorKind::kUnsupported,
         "{}: gates read the layer before (expert_pre_gate), so the first layer must be dense, but "
         "leading_dense_block_count is 0",
         checkpoint.name());
  c.layers_per_group = read_layers_per_group(checkpoint, c);
  return c;
}

MemoryPlan plan_megrez2(const Checkpoint& checkpoint, const Megrez2Config& c, kernels::KvFormat kv,
                        size_t max_batch_tokens) {
  MemoryPlan plan = plan_transformer(checkpoint, c, kv, max_batch_tokens, 1);
  const size_t n = c.router.num_experts, k = c.router.experts_per_token;
  for (size_t i = c.first_dense; i < c.num_layers; i += c.layers_per_group) {
    size_t expert = 0;
    for (const char* matrix : {"gate", "up", "down"}) {
      const std::string name = block(i) + "ffn_" + matrix + "_exps";
      auto tensor = checkpoint.find(name + ".weight");
      if (!tensor) tensor = checkpoint.require(name + ".0.weight");
      const bool is_down = std::string_view(matrix) == "down";
      expert += Linear::packed_bytes(tensor->dtype, is_down ? c.hidden_size : c.expert_width,
                                     is_down ? c.expert_width : c.hidden_size);
    }
    plan.expert_bytes += n * expert;
    plan.num_experts += n;
    plan.largest_expert_bytes = std::max(plan.largest_expert_bytes, expert);
  }
  // Rows of as many experts as are computed together, the shared expert, and what all experts gave.
  const size_t rows = std::min(k, ExpertPass::kMost);
  plan.scratch_bytes += max_batch_tokens * sizeof(float) *
                        (rows * (c.hidden_size + 2 * c.expert_width) + k * c.hidden_size + n +
                         2 * (std::max(c.shared_width, c.intermediate_size) - c.intermediate_size));
  return plan;
}

std::unique_ptr<LanguageModel> load_megrez2(std::shared_ptr<const Checkpoint> checkpoint,
                                            const Megrez2Config& config, const CoreSet& cores,
                                            const ProgressFn& progress, HeadLoading head,
                                            Arena* arena, const OpenExperts& open_experts) {
  return std::make_unique<Megrez2>(std::move(checkpoint), config, cores, progress, head, arena,
                                   open_experts);
}

}  // namespace weft::models
