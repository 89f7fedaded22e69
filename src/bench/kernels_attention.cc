// Attention over a paged cache that no processor cache holds (decode, bounded by reading keys and
// values), and over one prompt's chunk (prefill, bounded by arithmetic).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "bench/kernel_tables.h"
#include "kernels/attention.h"
#include "text/kv_cache.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Llama-3.2-1B's heads; 16 sequences of 4096 tokens are 128 MiB of keys and values.
constexpr size_t kHeads = 32;
constexpr kernels::KvShape kShape{.num_kv_heads = 8, .head_dim = 64};
constexpr size_t kSequences = 16, kContext = 4096, kChunk = 512;

// A cache of one layer with kSequences full sequences, and queries for them.
class AttentionLoad {
 public:
  explicit AttentionLoad(kernels::KvFormat format)
      : cache_({.num_layers = 1,
                .shape = kShape,
                .format = format,
                .capacity_tokens = kSequences * kContext}),
        q_(random_values(kChunk * kHeads * kShape.head_dim, 3)),
        out_(q_.size()) {
    const size_t width = kShape.num_kv_heads * kShape.head_dim;
    const std::vector<float> kv = random_values(kChunk * width, 4);
    for (size_t s = 0; s < kSequences; ++s) {
      sequences_.push_back(cache_.create());
      WEFT_ASSERT(cache_.reserve(sequences_.back(), kContext));
      for (size_t t = 0; t < kContext; t += kChunk)
        cache_.append(0, sequences_.back(), t, kChunk, kv.data(), kv.data(), width);
    }
  }

  // Seconds for one new token of every sequence.
  double decode(const CoreSet& cores) {
    std::vector<kernels::AttentionCall> calls;
    for (size_t s = 0; s < kSequences; ++s) calls.push_back(call(s, s, 1, kContext - 1));
    return run(calls, cores);
  }

  // Seconds for `kChunk` tokens of one sequence that end at position `end`.
  double prefill(size_t end, const CoreSet& cores) {
    const kernels::AttentionCall one = call(0, 0, kChunk, end - kChunk);
    return run({&one, 1}, cores);
  }

  bool sane() const {
    return std::all_of(out_.begin(), out_.end(),
                       [](float x) { return std::isfinite(x) && std::abs(x) <= 1; });
  }

 private:
  kernels::AttentionCall call(size_t sequence, size_t row, size_t tokens, size_t position) {
    constexpr size_t kWidth = kHeads * kShape.head_dim;
    return {.q = q_.data() + row * kWidth,
            .q_stride = kWidth,
            .out = out_.data() + row * kWidth,
            .out_stride = kWidth,
            .num_tokens = tokens,
            .first_position = position,
            .kv = cache_.view(0, sequences_[sequence])};
  }

  double run(std::span<const kernels::AttentionCall> calls, const CoreSet& cores) {
    const kernels::AttentionShape shape{.num_heads = kHeads, .kv = kShape, .scale = 0.125f};
    const auto start = Clock::now();
    kernels::attention(shape, calls, scratch_, cores);
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  text::KvCache cache_;
  std::vector<float> q_, out_;
  std::vector<text::SequenceId> sequences_;
  kernels::AttentionScratch scratch_;
};

// Two operations for each product of q with k and of a probability with v, up to each token's own
// position.
double prefill_operations(size_t end) {
  const double keys = static_cast<double>(kChunk) * (static_cast<double>(end) - (kChunk - 1) / 2.0);
  return 4 * keys * static_cast<double>(kHeads * kShape.head_dim);
}

}  // namespace

void bench_attention(const BenchOptions& options, std::span<const KernelLimits> limits,
                     Report& report) {
  Table table;
  table.name = fmt::format(
      "attention, {} heads on {} of {}: decode of {} sequences at {}, prefill of {} tokens", kHeads,
      kShape.num_kv_heads, kShape.head_dim, kSequences, kContext, kChunk);
  table.columns = {"cache",
                   "threads",
                   "decode GB/s",
                   "of read",
                   "prefill at 0 GOP/s",
                   "of f32 peak",
                   fmt::format("at {} GOP/s", kContext - kChunk),
                   "of f32 peak "};
  const int rounds = options.quick ? 3 : 9;
  for (const auto& [format, name] :
       {std::pair{kernels::KvFormat::kF16, "f16"}, {kernels::KvFormat::kBF16, "bf16"}}) {
    AttentionLoad load(format);
    const double bytes = static_cast<double>(kSequences * kContext / kernels::kPageTokens *
                                             kShape.page_bytes(format));
    for (const KernelLimits& limit : limits) {
      const std::function<double()> contestants[] = {
          [&] { return load.decode(limit.cores); },
          [&] { return load.prefill(kChunk, limit.cores); },
          [&] { return load.prefill(kContext, limit.cores); }};
      const auto seconds = alternate(rounds, contestants, options.stop);
      WEFT_ASSERT(load.sane());
      const double read = bytes / spread_of(seconds[0]).median;
      const double near = prefill_operations(kChunk) / spread_of(seconds[1]).median;
      const double far = prefill_operations(kContext) / spread_of(seconds[2]).median;
      table.rows.push_back({cell(name), cell(static_cast<double>(limit.threads), 0),
                            cell(read / 1e9, 1), percent(read / limit.read), cell(near / 1e9, 0),
                            percent(near / *limit.f32), cell(far / 1e9, 0),
                            percent(far / *limit.f32)});
      report.summary[fmt::format("attention_bandwidth_fraction_{}_t{}", name, limit.threads)] =
          read / limit.read;
      report.summary[fmt::format("attention_prefill_peak_fraction_{}_t{}", name, limit.threads)] =
          far / *limit.f32;
    }
  }
  report.tables.push_back(std::move(table));
}

}  // namespace weft::bench
