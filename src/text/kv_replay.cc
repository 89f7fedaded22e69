#include "text/kv_replay.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "kernels/kv_quant.h"
#include "kernels/kv_transform.h"
#include "kernels/quantize.h"
#include "text/logprob.h"

namespace weft::text {

using kernels::kPageTokens;
using kernels::KvFormat;
using Storage = ReplayMethod::Storage;
using Schedule = ReplayMethod::Schedule;

namespace {

constexpr size_t kBlock = 32;  // features of KIVI's groups and of q8_0's and q4_0's blocks

KvFormat format_of(size_t bits) {
  return bits == 16  ? KvFormat::kF16
         : bits == 8 ? KvFormat::kInt8
         : bits == 4 ? KvFormat::kInt4
                     : KvFormat::kInt2;
}

float as_half(float x) { return kernels::half_to_float(kernels::float_to_half(x)); }

// q8_0 and q4_0 of ggml, there and back. n a multiple of 32.
void round_blocks(size_t bits, float* x, size_t n) {
  for (size_t b = 0; b < n; b += kBlock) {
    float most = 0;
    for (size_t i = b; i < b + kBlock; ++i)
      if (std::fabs(x[i]) > std::fabs(most)) most = x[i];
    const float step = bits == 8 ? std::fabs(most) / 127 : most / -8;
    const float inverse = step == 0 ? 0 : 1 / step, stored = as_half(step);
    for (size_t i = b; i < b + kBlock; ++i) {
      const float code = bits == 8 ? std::round(x[i] * inverse)
                                   : std::min(15.0f, std::floor(x[i] * inverse + 8.5f)) - 8;
      x[i] = code * stored;
    }
  }
}

// KIVI's asymmetric groups: n values, `stride` apart.
void round_group(size_t bits, float* x, size_t n, size_t stride) {
  float least = x[0], most = x[0];
  for (size_t i = 0; i < n; ++i) {
    least = std::min(least, x[i * stride]);
    most = std::max(most, x[i * stride]);
  }
  const auto largest = static_cast<float>((1u << bits) - 1);
  const float zero = as_half(least), step = as_half((most - least) / largest);
  for (size_t i = 0; i < n; ++i) {
    float& value = x[i * stride];
    const float code = step == 0 ? 0 : std::nearbyint((value - zero) / step);
    value = std::clamp(code, 0.0f, largest) * step + zero;
  }
}

void check(const ReplayMethod& method, const kernels::KvShape& shape, size_t num_layers) {
  if (method.widths.size() != num_layers)
    fail(ErrorKind::kInvalidInput, "method '{}' has widths for {} layers, the model has {}",
         method.name, method.widths.size(), num_layers);
  for (const ReplayWidths& w : method.widths) {
    for (const size_t bits : {w.k, w.v}) {
      const bool known = bits == 16 || bits == 8 || bits == 4 || bits == 2;
      if (!known || (method.storage == Storage::kBlocks && bits == 2))
        fail(ErrorKind::kInvalidInput, "method '{}': {} bits; use {}", method.name, bits,
             method.storage == Storage::kBlocks ? "16, 8 or 4" : "16, 8, 4 or 2");
    }
  }
  if (method.hadamard && !kernels::has_hadamard(shape.head_dim))
    fail(ErrorKind::kInvalidInput,
         "method '{}' rotates heads of {} values; only powers of two can be rotated", method.name,
         shape.head_dim);
  if (method.storage != Storage::kPages && shape.head_dim % kBlock != 0)
    fail(ErrorKind::kInvalidInput, "method '{}' has groups of {} features; heads have {}",
         method.name, kBlock, shape.head_dim);
}

}  // namespace

ReplayMethod uniform_method(std::string name, Storage storage, Schedule schedule,
                            ReplayWidths widths, size_t num_layers) {
  return {.name = std::move(name),
          .storage = storage,
          .schedule = schedule,
          .widths = std::vector<ReplayWidths>(num_layers, widths)};
}

struct ReplayCache::Layer {
  size_t length = 0;
  std::vector<std::vector<uint8_t>> exact, narrow, meta;  // of each page
  std::vector<ReplayWidths> widths;                       // of each page, as shown
  std::vector<kernels::KvPage> pages;
};

ReplayCache::~ReplayCache() = default;

ReplayCache::ReplayCache(ReplayMethod method, const kernels::KvShape& shape, size_t num_layers,
                         size_t length)
    : method_(std::move(method)), shape_(shape), length_(length), layers_(num_layers) {
  check(method_, shape, num_layers);
  for (const ReplayWidths& w : method_.widths) {
    size_t most = 0;  // a step to a new cut may free bytes
    for (size_t p = std::min(length_, size_t{1}); p <= length_; ++p)
      most = std::max(most, bytes(w, p));
    budgets_.push_back(most);
  }
  rows_k_.resize(kPageTokens * shape_.head_dim);
  rows_v_.resize(kPageTokens * shape_.head_dim);
}

size_t ReplayCache::first_narrow() const {
  return method_.storage == Storage::kPages ? kPageTokens : 0;
}

// Tokens [first_narrow, this) are narrow for a query at `position`.
size_t ReplayCache::end_narrow(size_t position) const {
  const size_t cut = position / kReplayCut * kReplayCut;
  return std::max(first_narrow(), cut < kReplayCut ? 0 : cut - kReplayCut);
}

size_t ReplayCache::bytes(ReplayWidths w, size_t length) const {
  const size_t dim = shape_.head_dim;
  const auto exact_token = 4 * dim;  // of one head
  if (w.k == 16 && w.v == 16) return shape_.num_kv_heads * length * exact_token;
  const auto side = [&](size_t bits) {
    if (bits == 16) return 2 * dim;
    const size_t codes = dim * bits / 8;
    switch (method_.storage) {
      case Storage::kPages:
        return codes + 4 * shape_.num_groups();
      case Storage::kKivi:
        return codes + 4 * dim / kBlock;
      case Storage::kBlocks:
        return codes + 2 * dim / kBlock;
    }
    return codes;
  };
  const size_t narrow = method_.storage == Storage::kBlocks
                            ? length
                            : std::min(length, end_narrow(length == 0 ? 0 : length - 1)) -
                                  std::min(length, first_narrow());
  return shape_.num_kv_heads * (narrow * (side(w.k) + side(w.v)) + (length - narrow) * exact_token);
}

ReplayWidths ReplayCache::widths_at(size_t layer, size_t position) const {
  const ReplayWidths last = method_.widths[layer];
  if (method_.schedule == Schedule::kDirect) return last;
  // The widest that lasts until the next cut.
  const size_t until = std::min(length_, position / kReplayCut * kReplayCut + kReplayCut);
  const auto fits = [&](ReplayWidths w) { return bytes(w, until) <= budgets_[layer]; };
  if (fits({16, 16})) return {16, 16};
  if (method_.schedule == Schedule::kTwoTier) return last;
  for (const uint8_t bits : {uint8_t{8}, uint8_t{4}}) {
    const ReplayWidths w{std::max(bits, last.k), std::max(bits, last.v)};
    if (fits(w)) return w;
  }
  return last;
}

size_t ReplayCache::bytes(size_t length) const {
  size_t sum = 0;
  for (size_t i = 0; i < layers_.size(); ++i)
    sum += bytes(widths_at(i, length == 0 ? 0 : length - 1), length);
  return sum;
}

size_t ReplayCache::piece_end(size_t, size_t, size_t position) const {
  return position / kReplayCut * kReplayCut + kReplayCut;
}

void ReplayCache::append(size_t layer, size_t, size_t first_position, size_t num_tokens,
                         const float* k, const float* v, size_t stride) {
  Layer& l = layers_[layer];
  WEFT_ASSERT(l.length == first_position &&
              num_tokens <= piece_end(0, 0, first_position) - first_position);
  if (first_position % kReplayCut == 0) narrow(layer, first_position);
  const size_t head_bytes = shape_.head_bytes(KvFormat::kF16), dim = shape_.head_dim;
  const size_t width = shape_.num_kv_heads * dim;
  std::vector<float> keys(width), values(width);
  for (size_t i = 0; i < num_tokens; ++i) {
    const size_t position = first_position + i, page = position / kPageTokens;
    if (page == l.exact.size()) {
      l.exact.emplace_back(shape_.page_bytes(KvFormat::kF16));
      l.narrow.emplace_back();
      l.meta.emplace_back();
      l.widths.emplace_back();
      l.pages.push_back({.data = l.exact.back().data(), .head_stride = 2 * head_bytes});
    }
    std::copy_n(k + i * stride, width, keys.data());
    std::copy_n(v + i * stride, width, values.data());
    if (method_.storage == Storage::kBlocks) {
      const auto round = [&](std::vector<float>& x, size_t bits) {
        if (bits == 16) return;
        if (method_.hadamard) kernels::hadamard(shape_.num_kv_heads, dim, x.data());
        round_blocks(bits, x.data(), width);
        if (method_.hadamard) kernels::hadamard(shape_.num_kv_heads, dim, x.data());
      };
      round(keys, method_.widths[layer].k);
      round(values, method_.widths[layer].v);
    }
    kernels::write_kv(shape_, KvFormat::kF16, l.exact[page].data(), 2 * head_bytes,
                      position % kPageTokens, 1, keys.data(), values.data(), width);
  }
  l.length += num_tokens;
}

void ReplayCache::narrow(size_t layer, size_t position) {
  if (method_.storage == Storage::kBlocks) return;
  const ReplayWidths widths = widths_at(layer, position);
  const size_t end = std::min(end_narrow(position), layers_[layer].length) / kPageTokens;
  for (size_t page = first_narrow() / kPageTokens; page < end; ++page)
    if (layers_[layer].widths[page] != widths) narrow_page(layer, page, widths);
}

// From the exact page each time: shrinking would give the same codes (kv_quant.h).
void ReplayCache::narrow_page(size_t layer, size_t page, ReplayWidths widths) {
  Layer& l = layers_[layer];
  const size_t dim = shape_.head_dim, exact_bytes = shape_.head_bytes(KvFormat::kF16);
  const kernels::KvPage exact{.data = l.exact[page].data(), .head_stride = 2 * exact_bytes};
  l.widths[page] = widths;
  const KvFormat k_format = format_of(widths.k), v_format = format_of(widths.v);

  // A page of these widths, from any in 16 bit.
  const auto quantize = [&](const kernels::KvPage& from) {
    l.narrow[page].resize(shape_.page_bytes(k_format, v_format));
    l.meta[page].resize(shape_.meta_page_bytes());
    const kernels::KvPageOut out{
        .data = l.narrow[page].data(),
        .head_stride = shape_.head_bytes(k_format) + shape_.head_bytes(v_format),
        .k_format = k_format,
        .v_format = v_format,
        .meta = l.meta[page].data(),
        .meta_stride = shape_.meta_head_bytes()};
    if (const auto fault = kernels::quantize_kv_page(shape_, from, out))
      fail(ErrorKind::kInvalidInput, "layer {}, position {}: a {} is not a number", layer,
           page * kPageTokens + fault->token, fault->is_key ? "key" : "value");
    return kernels::KvPage(out);
  };
  if (method_.storage == Storage::kPages && !method_.hadamard) {
    l.pages[page] = quantize(exact);
    return;
  }

  // Rounded rows, as a 16-bit page.
  const size_t width = shape_.num_kv_heads * dim;
  std::vector<float> k(kPageTokens * width), v(kPageTokens * width);
  const auto read = [&](const kernels::KvPage& from) {
    for (size_t h = 0; h < shape_.num_kv_heads; ++h) {
      kernels::dequantize_kv_page(shape_, from, h, rows_k_.data(), rows_v_.data());
      for (size_t t = 0; t < kPageTokens; ++t) {
        std::copy_n(rows_k_.data() + t * dim, dim, k.data() + t * width + h * dim);
        std::copy_n(rows_v_.data() + t * dim, dim, v.data() + t * width + h * dim);
      }
    }
  };
  const auto rotate = [&] {
    if (!method_.hadamard) return;
    if (widths.k < 16) kernels::hadamard(kPageTokens * shape_.num_kv_heads, dim, k.data());
    if (widths.v < 16) kernels::hadamard(kPageTokens * shape_.num_kv_heads, dim, v.data());
  };
  const auto write = [&](std::vector<uint8_t>& to) {
    to.resize(shape_.page_bytes(KvFormat::kF16));
    kernels::write_kv(shape_, KvFormat::kF16, to.data(), 2 * exact_bytes, 0, kPageTokens, k.data(),
                      v.data(), width);
    return kernels::KvPage{.data = to.data(), .head_stride = 2 * exact_bytes};
  };
  read(exact);
  rotate();
  if (method_.storage == Storage::kPages) {
    std::vector<uint8_t> rotated;
    const kernels::KvPage narrow = quantize(write(rotated));
    read(narrow);
  } else {
    if (widths.k < 16)
      for (size_t i = 0; i < width; ++i) round_group(widths.k, k.data() + i, kPageTokens, width);
    if (widths.v < 16)
      for (size_t i = 0; i < v.size(); i += kBlock) round_group(widths.v, v.data() + i, kBlock, 1);
  }
  rotate();
  l.pages[page] = write(l.narrow[page]);
}

kernels::KvView ReplayCache::view(size_t layer, size_t) const {
  return {.pages = layers_[layer].pages, .length = layers_[layer].length};
}

// ---- comparing

double ReplayBucket::perplexity() const { return std::exp(surprise / static_cast<double>(tokens)); }
double ReplayBucket::exact_perplexity() const {
  return std::exp(exact_surprise / static_cast<double>(tokens));
}

double ReplayBucket::kl_quantile(double q) const {
  std::vector<float> sorted = token_kl;
  if (sorted.empty()) return 0;
  const auto place = static_cast<size_t>(std::ceil(q * static_cast<double>(sorted.size())));
  const size_t index = std::min(sorted.size() - 1, place == 0 ? 0 : place - 1);
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<ptrdiff_t>(index), sorted.end());
  return static_cast<double>(sorted[index]);
}

double ReplayBucket::kl_standard_error() const {
  if (tokens < 2) return 0;
  double squares = 0;
  for (const float x : token_kl) squares += std::pow(static_cast<double>(x) - mean_kl(), 2);
  return std::sqrt(squares / static_cast<double>(tokens - 1) / static_cast<double>(tokens));
}

ReplayBucket ReplayResult::total() const {
  ReplayBucket sum;
  for (const ReplayBucket& b : buckets) {
    sum.tokens += b.tokens;
    sum.surprise += b.surprise;
    sum.exact_surprise += b.exact_surprise;
    sum.kl += b.kl;
    sum.agree += b.agree;
    sum.token_kl.insert(sum.token_kl.end(), b.token_kl.begin(), b.token_kl.end());
  }
  return sum;
}

namespace {

struct TokenScore {
  double surprise = 0, exact_surprise = 0, kl = 0;
  bool agrees = false;
};

TokenScore score(std::span<const float> exact, std::span<const float> got, size_t next,
                 size_t position) {
  const LogSum a = log_sum_exp(exact, position), b = log_sum_exp(got, position);
  TokenScore s{.surprise = -b.logprob(got[next]), .exact_surprise = -a.logprob(exact[next])};
  size_t best_exact = 0, best = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    if (exact[i] > exact[best_exact]) best_exact = i;
    if (got[i] > got[best]) best = i;
    const double log_p = a.logprob(exact[i]);
    // The rest of the vocabulary, together, adds less than f32 logits are exact to.
    if (log_p > -25) s.kl += std::exp(log_p) * (log_p - b.logprob(got[i]));
  }
  s.kl = std::max(0.0, s.kl);
  s.agrees = best_exact == best;
  return s;
}

}  // namespace

std::vector<ReplayResult> replay_kv(const models::LanguageModel& model,
                                    std::span<const models::Token> tokens,
                                    std::span<const ReplayMethod> methods,
                                    const ReplayOptions& options, const CoreSet& cores,
                                    StopToken stop, const ProgressFn& progress) {
  const models::LanguageModelConfig& config = model.config();
  if (tokens.size() < 2 || tokens.size() > config.context_length + 1)
    fail(ErrorKind::kInvalidInput, "a text of {} tokens: this model replays 2 to {}", tokens.size(),
         config.context_length + 1);
  const size_t length = tokens.size() - 1, vocabulary = config.vocab_size;
  const size_t layers = config.num_layers;
  ReplayCache exact(uniform_method("16 bit", Storage::kPages, Schedule::kDirect, {16, 16}, layers),
                    model.kv_shape(), layers, length);
  std::vector<ReplayResult> results;
  std::vector<std::unique_ptr<ReplayCache>> caches;
  for (const ReplayMethod& method : methods) {
    caches.push_back(std::make_unique<ReplayCache>(method, model.kv_shape(), layers, length));
    ReplayResult& r = results.emplace_back();
    r.method = method;
    r.buckets.resize((length + options.bucket_tokens - 1) / options.bucket_tokens);
    for (size_t p = 1; p <= length; ++p) {
      const size_t bytes = caches.back()->bytes(p);
      r.peak_bytes = std::max(r.peak_bytes, bytes);
      r.mean_bytes += static_cast<double>(bytes) / static_cast<double>(length);
    }
  }
  const auto workspace = model.make_workspace();
  std::vector<float> exact_logits(options.pass_tokens * vocabulary), logits(exact_logits.size());
  std::vector<TokenScore> scores(options.pass_tokens);
  for (size_t begin = 0; begin < length; begin += options.pass_tokens) {
    const size_t count = std::min(options.pass_tokens, length - begin);
    const auto forward = [&](ReplayCache& cache, std::vector<float>& out) {
      stop.throw_if_stopped();
      const models::SequenceInput input = {.sequence = 0,
                                           .tokens = tokens.subspan(begin, count),
                                           .first_position = begin,
                                           .logits = models::LogitsWanted::kAll};
      model.forward({&input, 1}, cache, out.data(), *workspace, cores);
    };
    forward(exact, exact_logits);
    for (size_t m = 0; m < caches.size(); ++m) {
      forward(*caches[m], logits);
      cores.parallel_for(count, 4, [&](size_t first, size_t end, size_t) {
        for (size_t i = first; i < end; ++i)
          scores[i] = score({exact_logits.data() + i * vocabulary, vocabulary},
                            {logits.data() + i * vocabulary, vocabulary},
                            static_cast<size_t>(tokens[begin + i + 1]), begin + i);
      });
      for (size_t i = 0; i < count; ++i) {
        ReplayBucket& b = results[m].buckets[(begin + i) / options.bucket_tokens];
        ++b.tokens;
        b.surprise += scores[i].surprise;
        b.exact_surprise += scores[i].exact_surprise;
        b.kl += scores[i].kl;
        b.agree += scores[i].agrees ? 1 : 0;
        b.token_kl.push_back(static_cast<float>(scores[i].kl));
      }
    }
    if (progress) progress(begin + count, length);
  }
  return results;
}

}  // namespace weft::text
