#include "text/vocabtailor/tailored_step.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace weft::text {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// A row that is the best passes unseen once in 740 times that it is not in the set.
constexpr float kDeviations = 3;
constexpr size_t kMostScreened = 1024;
// Rows outside the set are computed so many at a time, likeliest first: what the first ones say
// spares most of the others.
constexpr size_t kScreenedAtOnce = 64;

}  // namespace

size_t TailoredStep::add(const TailoredRequest& request, const float* hidden) {
  rows_.push_back({&request, hidden, 0, 0});
  return rows_.size() - 1;
}

void TailoredStep::compute(const CoreSet& cores) {
  if (rows_.empty()) return;
  const size_t hidden_size = rows_.front().request->head().model().config().hidden_size;
  order_.resize(rows_.size());
  size_t num_logits = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    order_[i] = i;
    num_logits += rows_[i].request->head().set().size() + rows_[i].request->tail_ids().size();
  }
  // By packed head, in the order they came: what a row computes does not depend on it.
  std::stable_sort(order_.begin(), order_.end(), [this](size_t a, size_t b) {
    return std::less<>()(&rows_[a].request->head(), &rows_[b].request->head());
  });
  float* const logits = logits_.need(num_logits);
  size_t used = 0;
  for (size_t begin = 0; begin < order_.size();) {
    const PackedHead& head = rows_[order_[begin]].request->head();
    size_t end = begin;
    while (end < order_.size() && &rows_[order_[end]].request->head() == &head) ++end;
    float* const gathered = gathered_.need((end - begin) * hidden_size);
    const size_t size = head.set().size();
    for (size_t i = begin; i < end; ++i) {
      std::memcpy(gathered + (i - begin) * hidden_size, rows_[order_[i]].hidden,
                  hidden_size * sizeof(float));
      rows_[order_[i]].base_at = used + (i - begin) * size;
    }
    activations_.set(gathered, end - begin, hidden_size, hidden_size);
    const kernels::LinearCall call[] = {{&head.rows(), logits + used, size}};
    kernels::multiply(call, activations_, cores);
    used += (end - begin) * size;
    begin = end;
  }
  for (Row& row : rows_) {
    row.tail_at = used;
    if (row.request->tails().empty()) continue;
    activations_.set(row.hidden, 1, hidden_size, hidden_size);
    for (const kernels::Linear& tail : row.request->tails()) {
      const kernels::LinearCall call[] = {{&tail, logits + used, tail.out_features()}};
      // Some hundred rows are done before a second core has heard of them.
      constexpr size_t kAloneBytes = 128 << 10;
      kernels::multiply(call, activations_, tail.packed_bytes() < kAloneBytes ? CoreSet() : cores);
      used += tail.out_features();
    }
  }
}

std::span<const float> TailoredStep::base_logits(size_t row) const {
  return {logits_.data() + rows_[row].base_at, rows_[row].request->head().set().size()};
}

std::span<const float> TailoredStep::tail_logits(size_t row) const {
  size_t size = 0;
  for (const kernels::Linear& tail : rows_[row].request->tails()) size += tail.out_features();
  return {logits_.data() + rows_[row].tail_at, size};
}

// visit(id, logit) for every token of the row's set, and those that screen() added.
template <typename Visit>
void TailoredStep::for_each(size_t row, Visit&& visit) const {
  const auto base_ids = rows_[row].request->head().set().ids();
  const auto base = base_logits(row);
  for (size_t i = 0; i < base.size(); ++i) visit(base_ids[i], base[i]);
  const auto tail_ids = rows_[row].request->tail_ids();
  const auto tail = tail_logits(row);
  for (size_t i = 0; i < tail.size(); ++i) visit(tail_ids[i], tail[i]);
  for (size_t i = 0; i < added_.size(); ++i) visit(added_[i], added_logits_[i]);
}

Token TailoredStep::best(size_t row, const TokenMask* allowed) const {
  Token best = -1;
  float best_logit = -kInfinity;
  for_each(row, [&](uint32_t id, float logit) {
    const auto token = static_cast<Token>(id);
    const bool better = logit > best_logit || (logit == best_logit && (best < 0 || token < best));
    if (!better || (allowed != nullptr && !allowed->allows(token))) return;
    best = token;
    best_logit = logit;
  });
  return best;
}

std::optional<size_t> TailoredStep::screen(size_t row, const Screening& how,
                                           const CoreSet& cores) {
  const TailoredRequest& request = *rows_[row].request;
  const kernels::RowSketch& sketch = request.head().sketch(cores);
  added_.clear();
  added_logits_.clear();
  lowered_.assign(how.lowered.begin(), how.lowered.end());
  std::sort(lowered_.begin(), lowered_.end());
  float best = -kInfinity;
  const auto look = [&](uint32_t id, float logit) {
    const auto token = static_cast<Token>(id);
    if (logit <= best || (how.allowed != nullptr && !how.allowed->allows(token))) return;
    if (!std::binary_search(lowered_.begin(), lowered_.end(), token)) best = logit;
  };
  for_each(row, look);
  if (best == -kInfinity) return std::nullopt;
  query_.set(sketch, {rows_[row].hidden, sketch.features()});
  sketch.scan(query_, best - how.reach, kDeviations, cores, hits_);
  std::erase_if(hits_, [&](const kernels::SketchHit& hit) {
    const auto token = static_cast<Token>(hit.row);
    return request.contains(token) || (how.allowed != nullptr && !how.allowed->allows(token));
  });
  std::sort(hits_.begin(), hits_.end(), [](const auto& a, const auto& b) {
    return a.bound > b.bound || (a.bound == b.bound && a.row < b.row);
  });
  if (hits_.size() > kMostScreened) hits_.resize(kMostScreened);
  activations_.set(rows_[row].hidden, 1, sketch.features(), sketch.features());
  for (size_t begin = 0; begin < hits_.size();) {
    size_t end = begin;
    while (end < hits_.size() && end - begin < kScreenedAtOnce &&
           hits_[end].bound >= best - how.reach)
      ++end;
    if (end == begin) break;
    add_hits(row, begin, end);
    for (size_t i = begin; i < end; ++i) look(added_[i], added_logits_[i]);
    begin = end;
  }
  return added_.size();
}

// By the caller alone: so few rows are done before a second core has heard of them.
void TailoredStep::add_hits(size_t row, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) added_.push_back(hits_[i].row);
  added_logits_.resize(end);
  const TensorView weight = rows_[row].request->head().model().head_weight();
  const auto rows = kernels::Linear::pack_rows(weight, std::span(added_).subspan(begin), CoreSet());
  const kernels::LinearCall call[] = {{&rows, added_logits_.data() + begin, end - begin}};
  kernels::multiply(call, activations_, CoreSet());
}

std::span<float> TailoredStep::spread(size_t row) {
  spread_.resize(rows_[row].request->head().set().vocab_size(), -kInfinity);
  for_each(row, [this](uint32_t id, float logit) { spread_[id] = logit; });
  return spread_;
}

void TailoredStep::give_back(size_t row) {
  for_each(row, [this](uint32_t id, float) { spread_[id] = -kInfinity; });
  added_.clear();
  added_logits_.clear();
}

}  // namespace weft::text
