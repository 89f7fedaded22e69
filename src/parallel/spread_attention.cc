#include "parallel/spread_attention.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/seconds.h"
#include "kernels/quantize.h"
#include "parallel/partial_attention.h"

namespace weft::parallel {
namespace {

using kernels::kPageTokens;
using Clock = std::chrono::steady_clock;

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), begin_(Clock::now()) {}
  ~Stopwatch() { seconds_ += seconds_since(begin_); }

 private:
  double& seconds_;
  Clock::time_point begin_;
};

// k, v (count, num_kv_heads, head_dim): tokens first ... of a page of 16 bit (kv_view.h).
void read_kv(const kernels::KvShape& shape, const kernels::KvPage& page, size_t first, size_t count,
             float* k, float* v) {
  const size_t dim = shape.head_dim, stride = shape.num_kv_heads * dim;
  const bool is_f16 = page.k_format == kernels::KvFormat::kF16;
  const auto value = [&](const uint8_t* from, size_t index) {
    uint16_t bits = 0;
    std::memcpy(&bits, from + index * sizeof bits, sizeof bits);
    return is_f16 ? kernels::half_to_float(bits) : kernels::bfloat16_to_float(bits);
  };
  for (size_t head = 0; head < shape.num_kv_heads; ++head) {
    const uint8_t* const keys = page.head_keys(head);
    const uint8_t* const values = page.head_values(shape, head);
    for (size_t i = 0; i < count; ++i) {
      const size_t token = first + i;
      float* const to_k = k + i * stride + head * dim;
      float* const to_v = v + i * stride + head * dim;
      for (size_t d = 0; d < dim; ++d) {
        to_k[d] = value(keys, is_f16 ? d * kPageTokens + token
                                     : (d / 2 * kPageTokens + token) * 2 + d % 2);
        to_v[d] = value(values, is_f16 ? token * dim + d : (token / 2 * dim + d) * 2 + token % 2);
      }
    }
  }
}

}  // namespace

PagePlacement::PagePlacement(const Exchange& exchange, bool zigzag, bool causal,
                             size_t first_position, size_t num_tokens)
    : first_position_(first_position), num_tokens_(num_tokens) {
  const size_t end_page = (end_position() + kPageTokens - 1) / kPageTokens;
  pages_ = {.num_tokens = end_page - first_page(),
            .num_ranks = exchange.num_ranks,
            .num_pieces = exchange.num_pieces,
            .causal = causal,
            .zigzag = zigzag};
}

TokenRange PagePlacement::tokens(TokenRange pages) const {
  const auto position = [&](size_t page) {
    return std::clamp((first_page() + page) * kPageTokens, first_position_, end_position());
  };
  return {position(pages.begin), position(pages.end)};
}

ExchangedAttention::ExchangedAttention(comm::Communicator ranks, Exchange exchange, bool zigzag,
                                       bool causal)
    : ranks_(std::move(ranks)), exchange_(std::move(exchange)), zigzag_(zigzag), causal_(causal) {
  WEFT_ASSERT(causal_ || !zigzag_);
  if (exchange_.num_ranks != ranks_.size())
    fail(ErrorKind::kInvalidInput, "the exchange '{}' is for {} ranks, there are {}",
         exchange_.name, exchange_.num_ranks, ranks_.size());
  if (const std::string fault = fault_of(exchange_); !fault.empty())
    fail(ErrorKind::kInvalidInput, "the exchange '{}' is no exchange: {}", exchange_.name, fault);
}

void ExchangedAttention::begin(SharedPages& cache, size_t sequence, size_t first_position,
                               size_t num_tokens) {
  cache_ = &cache;
  sequence_ = sequence;
  placement_ = PagePlacement(exchange_, zigzag_, causal_, first_position, num_tokens);
}

void ExchangedAttention::find_pages(size_t layer) {
  if (cache_->in_place(sequence_)) {
    const auto reserved = cache_->reserved(layer, sequence_);
    pages_.assign(reserved.begin(), reserved.end());
    return;
  }
  const size_t first = placement_.first_page(), num_new = placement_.pages().num_tokens;
  const size_t head_bytes = shape_.kv.head_bytes(cache_->format());
  const bool divided = cache_->division() != 1;
  const auto stored = divided ? cache_->reserved(layer, sequence_).first(first)
                              : cache_->view(layer, sequence_).pages;
  uint8_t* const room = new_pages_.need(num_new * page_bytes_);
  pages_.assign(stored.begin(), stored.begin() + static_cast<ptrdiff_t>(first));
  for (size_t i = 0; i < num_new; ++i)
    pages_.push_back({.data = room + i * page_bytes_,
                      .head_stride = 2 * head_bytes,
                      .k_format = cache_->format(),
                      .v_format = cache_->format()});
  if (stored.size() == first) return;
  // The first new page begins with tokens that are stored: the newest, which are in 16 bit.
  for (size_t head = 0; head < shape_.kv.num_kv_heads; ++head) {
    uint8_t* const to = room + head * 2 * head_bytes;
    std::memcpy(to, stored[first].head_keys(head), head_bytes);
    std::memcpy(to + head_bytes, stored[first].head_values(shape_.kv, head), head_bytes);
  }
}

// This rank's keys and values into its pages.
void ExchangedAttention::store(const float* k, const float* v) {
  const size_t stride = shape_.kv.num_kv_heads * shape_.kv.head_dim;
  size_t row = 0;
  for (const TokenRange& stretch :
       {placement_.front(ranks_.rank()), placement_.back(ranks_.rank())})
    for (size_t position = stretch.begin; position < stretch.end;) {
      const size_t in_page = position % kPageTokens;
      const size_t count = std::min(stretch.end - position, kPageTokens - in_page);
      const kernels::KvPage& page = pages_[position / kPageTokens];
      kernels::write_kv(shape_.kv, cache_->format(), const_cast<uint8_t*>(page.data),
                        page.head_stride, in_page, count, k + row * stride, v + row * stride,
                        stride);
      position += count;
      row += count;
    }
}

// All ranks' new tokens to the cache, as one process does it: in pieces between which it narrows what
// is older. Rounding to 16 bit once more changes nothing.
void ExchangedAttention::append_all(size_t layer) {
  const size_t stride = shape_.kv.num_kv_heads * shape_.kv.head_dim;
  const size_t end = placement_.end_position();
  for (size_t position = placement_.first_position(); position < end;) {
    const size_t piece_end = std::min(end, cache_->piece_end(layer, sequence_, position));
    const size_t count = std::min(piece_end - position, kPageTokens - position % kPageTokens);
    float* const k = new_k_.need(kPageTokens * stride);
    float* const v = new_v_.need(kPageTokens * stride);
    read_kv(shape_.kv, pages_[position / kPageTokens], position % kPageTokens, count, k, v);
    cache_->append(layer, sequence_, position, count, k, v, stride);
    position += count;
  }
}

void ExchangedAttention::keep_own(size_t layer) {
  const size_t head_bytes = 2 * shape_.kv.head_bytes(cache_->format());
  const auto reserved = cache_->reserved(layer, sequence_);
  for (size_t i = placement_.first_page(); i < pages_.size(); ++i)
    for (size_t head = 0; head < shape_.kv.num_kv_heads && reserved[i].data != nullptr; ++head)
      std::memcpy(const_cast<uint8_t*>(reserved[i].head_keys(head)), pages_[i].head_keys(head),
                  head_bytes);
  cache_->set_length(layer, sequence_, placement_.end_position());
}

// Earlier pages that a rank has where they are divided, and those of them that go with a piece, in the
// order of its list.
size_t ExchangedAttention::num_earlier(size_t rank) const {
  const size_t n = cache_->division();
  return n == 1 ? 0 : (placement_.first_page() + n - 1 - rank) / n;
}
TokenRange ExchangedAttention::earlier(size_t rank, size_t piece) const {
  return parallel::part({0, num_earlier(rank)}, exchange_.num_pieces, piece);
}

// A piece is its pages, head by head; earlier ones come first.
void ExchangedAttention::pack(size_t source, size_t piece, std::span<std::byte> to) const {
  const size_t head_bytes = 2 * shape_.kv.head_bytes(cache_->format());
  std::byte* at = to.data();
  const TokenRange before = earlier(source, piece);
  for (size_t i = before.begin; i < before.end; ++i)
    for (size_t head = 0; head < shape_.kv.num_kv_heads; ++head, at += head_bytes)
      std::memcpy(at, pages_[source + i * cache_->division()].head_keys(head), head_bytes);
  for (const TokenRange& stretch : {placement_.pages().piece_front(source, piece),
                                    placement_.pages().piece_back(source, piece)})
    for (size_t i = stretch.begin; i < stretch.end; ++i)
      for (size_t head = 0; head < shape_.kv.num_kv_heads; ++head, at += head_bytes)
        std::memcpy(at, pages_[placement_.first_page() + i].head_keys(head), head_bytes);
}

void ExchangedAttention::unpack(const Transfers::Piece& p) const {
  const size_t head_bytes = 2 * shape_.kv.head_bytes(cache_->format());
  const std::byte* at = p.bytes.data() + earlier(p.source, p.piece).size() * page_bytes_;
  for (const TokenRange& stretch : {placement_.pages().piece_front(p.source, p.piece),
                                    placement_.pages().piece_back(p.source, p.piece)})
    for (size_t i = stretch.begin; i < stretch.end; ++i)
      for (size_t head = 0; head < shape_.kv.num_kv_heads; ++head, at += head_bytes)
        std::memcpy(const_cast<uint8_t*>(pages_[placement_.first_page() + i].head_keys(head)),
                    at, head_bytes);
}

void ExchangedAttention::add_pages(TokenRange pages, Pages& list) const {
  for (size_t i = pages.begin; i < pages.end; ++i)
    list.push_back(pages_[placement_.first_page() + i]);
}

void ExchangedAttention::see(const Pages& pages, size_t first_row, size_t num_rows, const float* q,
                             float* out, const CoreSet& cores) {
  if (pages.empty() || num_rows == 0) return;
  const size_t heads = shape_.num_heads, dim = shape_.kv.head_dim, stride = heads * dim;
  // The sequence's last page, which may not be full, is the last of its list (add_received()).
  const size_t last = placement_.end_position() - 1;
  size_t length = pages.size() * kPageTokens;
  if (pages.back().data == pages_[last / kPageTokens].data)
    length -= kPageTokens - 1 - last % kPageTokens;
  float* const part = part_.need(num_rows * stride);
  float* const part_sums = part_log_sums_.need(num_rows * heads);
  const kernels::AttentionCall call[] = {{.q = q + first_row * stride,
                                          .q_stride = stride,
                                          .out = part,
                                          .out_stride = stride,
                                          .num_tokens = num_rows,
                                          .kv = {.pages = pages, .length = length},
                                          .sees_all = true,
                                          .log_sum = part_sums}};
  kernels::attention(shape_, call, attention_, cores);
  float* const sums = log_sums_.data();
  cores.parallel_for(num_rows, 16, [&](size_t begin, size_t end, size_t) {
    for (size_t row = begin; row < end; ++row)
      for (size_t h = 0; h < heads; ++h)
        merge_partial(out + (first_row + row) * stride + h * dim, sums[(first_row + row) * heads + h],
              part + row * stride + h * dim, part_sums[row * heads + h], dim);
  });
}

// This rank's queries and its own keys, and those of earlier tokens, which everybody has. Causal: a
// sequence of its own, in which the stretch at the back follows the one at the front.
void ExchangedAttention::attend_own(const float* q, float* out, const CoreSet& cores) {
  const size_t heads = shape_.num_heads, dim = shape_.kv.head_dim, stride = heads * dim;
  const size_t rank = ranks_.rank(), first_page = placement_.first_page();
  const TokenRange front = placement_.front(rank), back = placement_.back(rank);
  const TokenRange front_pages = placement_.pages().front(rank);
  const TokenRange back_pages = placement_.pages().back(rank);
  float* const sums = log_sums_.need((front.size() + back.size()) * heads);
  Pages pages;
  for (size_t i = 0; i < first_page; ++i)
    if (pages_[i].data != nullptr) pages.push_back(pages_[i]);
  const size_t before = pages.size();  // all earlier ones, or this rank's of them
  add_pages(front_pages, pages);
  add_pages(back_pages, pages);
  if (!causal_) {
    std::fill_n(sums, (front.size() + back.size()) * heads,
                kNoKeys);
    return see(pages, 0, front.size(), q, out, cores);
  }
  std::vector<kernels::AttentionCall> calls;
  const auto add_call = [&](TokenRange stretch, TokenRange its_pages, size_t pages_before,
                            size_t first_row) {
    if (stretch.size() == 0) return;
    const size_t first = (before + pages_before) * kPageTokens +
                         (stretch.begin - (first_page + its_pages.begin) * kPageTokens);
    calls.push_back({.q = q + first_row * stride,
                     .q_stride = stride,
                     .out = out + first_row * stride,
                     .out_stride = stride,
                     .num_tokens = stretch.size(),
                     .first_position = first,
                     .kv = {.pages = pages, .length = first + stretch.size()},
                     .log_sum = sums + first_row * heads});
  };
  add_call(front, front_pages, 0, 0);
  add_call(back, back_pages, front_pages.size(), front.size());
  kernels::attention(shape_, calls, attention_, cores);
}

// Causal, by the ranks that pieces come from: what is at the front of an earlier rank is older than
// all of mine; of a later rank, the front is older than my back, and so is its back.
void ExchangedAttention::attend_received(std::span<const Transfers::Piece> pieces, const float* q,
                                         float* out, const CoreSet& cores) {
  const size_t rank = ranks_.rank();
  const size_t num_front = placement_.front(rank).size(), num_back = placement_.back(rank).size();
  const TokenRange* tail = nullptr;  // the piece with the sequence's last page
  std::vector<TokenRange> stretches;
  stretches.reserve(2 * pieces.size());
  seen_by_front_.clear();
  seen_by_back_.clear();
  const size_t end = placement_.pages().num_tokens;
  const auto add = [&](TokenRange stretch, bool front_sees, bool back_sees) {
    if (stretch.size() == 0) return;
    if (stretch.end == end && (front_sees || back_sees)) {
      stretches.push_back(stretch);
      tail = &stretches.back();
      return;
    }
    if (front_sees) add_pages(stretch, seen_by_front_);
    if (back_sees) add_pages(stretch, seen_by_back_);
  };
  for (const auto& [source, piece, bytes] : pieces) {
    const TokenRange before = earlier(source, piece);
    for (size_t i = 0; i < before.size(); ++i) {  // where they came, in pages_'s form
      const kernels::KvPage page{
          .data = reinterpret_cast<const uint8_t*>(bytes.data()) + i * page_bytes_,
          .head_stride = 2 * shape_.kv.head_bytes(cache_->format()),
          .k_format = cache_->format(),
          .v_format = cache_->format()};
      seen_by_front_.push_back(page);
      seen_by_back_.push_back(page);
    }
    const bool is_before = source < rank;
    add(placement_.pages().piece_front(source, piece), !causal_ || is_before, !causal_ || zigzag_);
    add(placement_.pages().piece_back(source, piece), !causal_, !causal_ || !is_before);
  }
  if (tail != nullptr) {  // only without a mask: nobody is younger
    add_pages(*tail, seen_by_front_);
    add_pages(*tail, seen_by_back_);
  }
  see(seen_by_front_, 0, num_front, q, out, cores);
  see(seen_by_back_, num_front, num_back, q, out, cores);
}

void ExchangedAttention::attend(const kernels::AttentionShape& shape, size_t layer, const float* q,
                                const float* k, const float* v, float* out, const CoreSet& cores) {
  if (shape.window != 0)
    fail(ErrorKind::kUnsupported,
         "sequence parallelism does not know sliding windows: use --sequence-parallel 1");
  shape_ = shape;
  page_bytes_ = shape.kv.page_bytes(cache_->format());
  Transfers transfers(
      ranks_, exchange_,
      [this](size_t source, size_t piece) {
        return (earlier(source, piece).size() + placement_.pages().piece_tokens(source, piece)) *
               page_bytes_;
      },
      room_);
  {
    const Stopwatch timer(times.copying_s);
    find_pages(layer);
    store(k, v);
    for (size_t c = 0; c < exchange_.num_pieces; ++c) pack(ranks_.rank(), c, transfers.own(c));
  }
  const bool sends = part != SpreadPart::kAttention;
  if (sends) transfers.begin();
  const size_t num_steps = exchange_.steps.size();
  for (size_t t = 0; t <= num_steps; ++t) {
    if (part != SpreadPart::kTransfers) {
      const Stopwatch timer(times.attention_s);
      if (t == 0)
        attend_own(q, out, cores);
      else
        attend_received(transfers.coming(t - 1), q, out, cores);
    }
    try {
      const Stopwatch timer(times.waiting_s);
      if (sends && t < num_steps) transfers.wait(t);
      if (sends && t == num_steps) transfers.finish();
    } catch (const Error& error) {
      throw error.in(fmt::format("attention of layer {}, step {} of {}", layer,
                                 std::min(t + 1, num_steps), num_steps));
    }
    if (t == num_steps) break;
    const Stopwatch timer(times.copying_s);
    for (const Transfers::Piece& piece : transfers.coming(t)) unpack(piece);
  }
  const Stopwatch timer(times.copying_s);
  if (cache_->in_place(sequence_))
    cache_->set_length(layer, sequence_, placement_.end_position());
  else if (cache_->division() != 1)
    keep_own(layer);
  else
    append_all(layer);
}

}  // namespace weft::parallel
