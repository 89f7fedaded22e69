#include "text/kv_smoothing.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "kernels/attention.h"
#include "kernels/kv_quant.h"
#include "kernels/kv_transform.h"
#include "text/kv_cache.h"

namespace weft::text {
namespace {

using kernels::kPageTokens;
using kernels::KvFormat;
using kernels::KvShape;

struct LayerRecord {
  std::vector<float> q, k, v;  // rows of tokens
  size_t q_size = 0;
};

// A 16-bit cache that remembers what passes by.
class Recorder final : public kernels::KvStore {
 public:
  Recorder(const models::LanguageModel& model, size_t length)
      : cache_({.num_layers = model.config().num_layers,
                .shape = model.kv_shape(),
                .capacity_tokens = length}),
        sequence_(cache_.create()),
        layers_(model.config().num_layers) {
    const bool has_room = cache_.reserve(sequence_, length);
    WEFT_ASSERT(has_room);
  }

  void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens, const float* k,
              const float* v, size_t stride) override {
    add(layers_[layer].k, k, num_tokens, stride);
    add(layers_[layer].v, v, num_tokens, stride);
    cache_.append(layer, sequence, first_position, num_tokens, k, v, stride);
  }
  void note_queries(size_t layer, size_t /*sequence*/, size_t num_tokens, const float* q,
                    size_t stride) override {
    layers_[layer].q_size = stride;
    add(layers_[layer].q, q, num_tokens, stride);
  }
  kernels::KvView view(size_t layer, size_t sequence) const override {
    return cache_.view(layer, sequence);
  }

  SequenceId sequence() const { return sequence_; }
  const LayerRecord& layer(size_t i) const { return layers_[i]; }

 private:
  static void add(std::vector<float>& to, const float* rows, size_t count, size_t stride) {
    to.insert(to.end(), rows, rows + count * stride);
  }

  KvCache cache_;
  SequenceId sequence_;
  std::vector<LayerRecord> layers_;
};

// One layer's attention over all tokens of the text, keys as they are or smoothed and quantised.
class LayerAttention {
 public:
  LayerAttention(const LayerRecord& record, const KvShape& shape, size_t num_tokens,
                 const CoreSet& cores)
      : record_(record), shape_(shape), num_tokens_(num_tokens), cores_(cores) {
    maxima_.assign(shape.num_kv_heads * shape.head_dim, 0.0f);
    for (size_t t = 0; t < num_tokens; ++t)
      for (size_t i = 0; i < maxima_.size(); ++i)
        maxima_[i] = std::max(maxima_[i], std::fabs(record.k[t * maxima_.size() + i]));
    exact_ = attend(record.q, record.k, KvFormat::kF16);
  }

  const std::vector<float>& maxima() const { return maxima_; }

  double error(const std::vector<float>& factors, KvFormat format) {
    std::vector<float> q = record_.q, k = record_.k, inverse;
    for (const float factor : factors) inverse.push_back(1 / factor);
    const size_t num_heads = record_.q_size / shape_.head_dim;
    for (size_t t = 0; t < num_tokens_; ++t) {
      kernels::multiply_features(num_heads, num_heads / shape_.num_kv_heads, shape_.head_dim,
                                 factors.data(), q.data() + t * record_.q_size);
      kernels::multiply_features(shape_.num_kv_heads, 1, shape_.head_dim, inverse.data(),
                                 k.data() + t * factors.size());
    }
    const std::vector<float> got = attend(q, k, format);
    double squares = 0, errors = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      squares += std::pow(static_cast<double>(exact_[i]), 2);
      errors += std::pow(static_cast<double>(got[i]) - static_cast<double>(exact_[i]), 2);
    }
    return squares == 0 ? 0 : errors / squares;
  }

 private:
  std::vector<float> attend(const std::vector<float>& q, const std::vector<float>& k,
                            KvFormat k_format) {
    const size_t kv_size = shape_.num_kv_heads * shape_.head_dim;
    const size_t page_bytes = shape_.page_bytes(KvFormat::kF16), num_pages = num_tokens_ / kPageTokens;
    const size_t meta_bytes = shape_.meta_page_bytes();
    wide_.resize(page_bytes);
    stored_.resize(num_pages * (page_bytes + meta_bytes));
    pages_.clear();
    for (size_t page = 0; page < num_pages; ++page) {
      const size_t row = page * kPageTokens * kv_size;
      uint8_t* const data = stored_.data() + page * (page_bytes + meta_bytes);
      uint8_t* const to = k_format == KvFormat::kF16 ? data : wide_.data();
      const size_t stride = page_bytes / shape_.num_kv_heads;
      kernels::write_kv(shape_, KvFormat::kF16, to, stride, 0, kPageTokens, k.data() + row,
                        record_.v.data() + row, kv_size);
      const kernels::KvPage wide{.data = to, .head_stride = stride};
      if (k_format == KvFormat::kF16) {
        pages_.push_back(wide);
        continue;
      }
      const kernels::KvPageOut narrow{.data = data,
                                      .head_stride = stride,
                                      .k_format = k_format,
                                      .v_format = KvFormat::kF16,
                                      .meta = data + page_bytes,
                                      .meta_stride = shape_.meta_head_bytes()};
      if (const auto fault = kernels::quantize_kv_page(shape_, wide, narrow))
        fail(ErrorKind::kInvalidInput, "position {}: a {} is not a number",
             page * kPageTokens + fault->token, fault->is_key ? "key" : "value");
      pages_.push_back(narrow);
    }
    std::vector<float> out(num_tokens_ * record_.q_size);
    const kernels::AttentionCall call{.q = q.data(),
                                      .q_stride = record_.q_size,
                                      .out = out.data(),
                                      .out_stride = record_.q_size,
                                      .num_tokens = num_tokens_,
                                      .first_position = 0,
                                      .kv = {.pages = pages_, .length = num_tokens_}};
    kernels::attention({.num_heads = record_.q_size / shape_.head_dim,
                        .kv = shape_,
                        .scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim))},
                       {&call, 1}, scratch_, cores_);
    return out;
  }

  const LayerRecord& record_;
  KvShape shape_;
  size_t num_tokens_;
  CoreSet cores_;
  std::vector<float> maxima_, exact_;
  std::vector<uint8_t> wide_, stored_;
  std::vector<kernels::KvPage> pages_;
  kernels::AttentionScratch scratch_;
};

}  // namespace

std::vector<float> smoothing_factors(std::span<const float> maxima, double alpha) {
  std::vector<float> factors;
  for (const float most : maxima) {
    const double factor = most > 0 ? std::pow(static_cast<double>(most), alpha) : 1.0;
    factors.push_back(static_cast<float>(std::clamp(factor, 1e-4, 1e4)));
  }
  return factors;
}

std::vector<KvSmoothing> search_smoothing(const models::LanguageModel& model,
                                          std::span<const models::Token> tokens,
                                          const KvSmoothingOptions& options, const CoreSet& cores,
                                          StopToken stop, const ProgressFn& progress) {
  WEFT_ASSERT(options.grid != 0);
  const KvFormat format = options.bits == 8   ? KvFormat::kInt8
                          : options.bits == 4 ? KvFormat::kInt4
                                              : KvFormat::kInt2;
  const size_t num_tokens =
      std::min({tokens.size(), options.most_tokens, model.config().context_length}) / kPageTokens *
      kPageTokens;
  if (num_tokens == 0)
    fail(ErrorKind::kInvalidInput, "the text has {} tokens; smoothing needs {} at least", tokens.size(),
         kPageTokens);
  Recorder recorder(model, num_tokens);
  const auto workspace = model.make_workspace();
  constexpr size_t kPass = 256;
  for (size_t at = 0; at < num_tokens; at += kPass) {
    stop.throw_if_stopped();
    const models::SequenceInput input{.sequence = recorder.sequence(),
                                      .tokens = tokens.subspan(at, std::min(kPass, num_tokens - at)),
                                      .first_position = at,
                                      .logits = models::LogitsWanted::kNone};
    model.forward({&input, 1}, recorder, nullptr, *workspace, cores);
  }
  std::vector<KvSmoothing> out;
  for (size_t layer = 0; layer < model.config().num_layers; ++layer) {
    const LayerRecord& record = recorder.layer(layer);
    if (record.q.empty())
      fail(ErrorKind::kUnsupported, "this model's queries cannot be seen, so its keys are not smoothed");
    LayerAttention attention(record, model.kv_shape(), num_tokens, cores);
    KvSmoothing& best = out.emplace_back();
    for (size_t step = 0; step <= options.grid; ++step) {
      stop.throw_if_stopped();
      const double alpha = static_cast<double>(step) / static_cast<double>(options.grid);
      std::vector<float> factors = smoothing_factors(attention.maxima(), alpha);
      const double error = attention.error(factors, format);
      if (step == 0) best.plain_error = error;
      if (step != 0 && error >= best.error) continue;
      best.alpha = alpha;
      best.error = error;
      best.factors = std::move(factors);
    }
    if (progress) progress(layer + 1, model.config().num_layers);
  }
  return out;
}

}  // namespace weft::text
