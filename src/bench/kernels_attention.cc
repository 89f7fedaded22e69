// Attention over a paged cache that no processor cache holds (decode, bounded by reading keys and
// values), and over one prompt's chunk (prefill, bounded by arithmetic).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/seconds.h"
#include "bench/kernel_tables.h"
#include "kernels/attention.h"
#include "kernels/kv_quant.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Llama-3.2-1B's heads; 16 sequences of 4096 tokens are 128 MiB of keys and values.
constexpr size_t kHeads = 32;
constexpr kernels::KvShape kShape{.num_kv_heads = 8, .head_dim = 64};
constexpr size_t kSequences = 16, kContext = 4096, kChunk = 512;

// kSequences full sequences of one layer, and queries for them. A head's pages of a sequence follow
// each other, as in the cache.
class AttentionLoad {
 public:
  AttentionLoad(kernels::KvFormat k_format, kernels::KvFormat v_format)
      : head_bytes_(kShape.head_bytes(k_format) + kShape.head_bytes(v_format)),
        codes_(kSequences * kPages * kShape.num_kv_heads * head_bytes_, "bench"),
        meta_(kSequences * kPages * kShape.meta_page_bytes(), "bench"),
        q_(random_values(kChunk * kHeads * kShape.head_dim, 3)),
        out_(q_.size()) {
    const size_t width = kShape.num_kv_heads * kShape.head_dim;
    const std::vector<float> kv = random_values(kernels::kPageTokens * width, 4);
    const bool quantised = kernels::is_quantized(k_format);
    const kernels::KvFormat wide = quantised ? kernels::KvFormat::kF16 : k_format;
    const size_t wide_stride = 2 * kShape.head_bytes(wide);
    std::vector<uint8_t> page(kShape.page_bytes(wide));
    kernels::write_kv(kShape, wide, page.data(), wide_stride, 0, kernels::kPageTokens, kv.data(),
                      kv.data(), width);
    for (size_t i = 0; i < kSequences * kPages; ++i) {
      const size_t run = i / kPages * kPages, place = i % kPages;
      const kernels::KvPageOut out{
          .data = codes_.data() + (run * kShape.num_kv_heads + place) * head_bytes_,
          .head_stride = kPages * head_bytes_,
          .k_format = k_format,
          .v_format = v_format,
          .meta = meta_.data() + (run * kShape.num_kv_heads + place) * kShape.meta_head_bytes(),
          .meta_stride = kPages * kShape.meta_head_bytes()};
      WEFT_ASSERT(!kernels::quantize_kv_page(
          kShape,
          {.data = page.data(), .head_stride = wide_stride, .k_format = wide, .v_format = wide},
          out));
      pages_.push_back(out);
    }
    bytes_ = codes_.bytes() + (quantised ? meta_.bytes() : 0);
  }

  size_t bytes() const { return bytes_; }

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
    return {
        .q = q_.data() + row * kWidth,
        .q_stride = kWidth,
        .out = out_.data() + row * kWidth,
        .out_stride = kWidth,
        .num_tokens = tokens,
        .first_position = position,
        .kv = {.pages = std::span(pages_).subspan(sequence * kPages, kPages), .length = kContext}};
  }

  double run(std::span<const kernels::AttentionCall> calls, const CoreSet& cores) {
    const kernels::AttentionShape shape{.num_heads = kHeads, .kv = kShape, .scale = 0.125f};
    const auto start = Clock::now();
    kernels::attention(shape, calls, scratch_, cores);
    return seconds_since(start);
  }

  static constexpr size_t kPages = kContext / kernels::kPageTokens;  // of a sequence
  size_t head_bytes_;
  Buffer codes_, meta_;
  size_t bytes_ = 0;
  std::vector<kernels::KvPage> pages_;
  std::vector<float> q_, out_;
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
  table.columns = {"cache",       "threads",
                   "decode GB/s", "of read",
                   "tokens/us",   "prefill at 0 GOP/s",
                   "of f32 peak", fmt::format("at {} GOP/s", kContext - kChunk),
                   "of f32 peak "};
  const int rounds = options.quick ? 3 : 9;
  using enum kernels::KvFormat;
  for (const auto& [k_format, v_format] : {std::pair{kF16, kF16},
                                           {kBF16, kBF16},
                                           {kInt8, kInt8},
                                           {kInt8, kInt4},
                                           {kInt4, kInt4},
                                           {kInt2, kInt2}}) {
    AttentionLoad load(k_format, v_format);
    const std::string name = k_format == v_format ? kernels::name(k_format)
                                                  : fmt::format("{}_{}", kernels::name(k_format),
                                                                kernels::name(v_format));
    const auto bytes = static_cast<double>(load.bytes());
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
                            cell(read / 1e9, 1), percent(read / limit.read),
                            cell(kSequences * kContext / spread_of(seconds[0]).median / 1e6, 1),
                            cell(near / 1e9, 0), percent(near / *limit.f32), cell(far / 1e9, 0),
                            percent(far / *limit.f32)});
      report.summary[fmt::format("attention_bandwidth_fraction_{}_t{}", name, limit.threads)] =
          read / limit.read;
      report.summary[fmt::format("attention_decode_seconds_{}_t{}", name, limit.threads)] =
          spread_of(seconds[0]).median;
      report.summary[fmt::format("attention_prefill_peak_fraction_{}_t{}", name, limit.threads)] =
          far / *limit.f32;
    }
  }
  report.tables.push_back(std::move(table));
}

}  // namespace weft::bench
