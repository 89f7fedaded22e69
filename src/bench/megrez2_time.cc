#include "bench/megrez2_time.h"

#include <algorithm>
#include <string>

namespace weft::bench {

LayerParts layer_parts(const formats::Checkpoint& checkpoint, const text::ExpertTrace& trace,
                       double seconds_per_token) {
  double attention = 0, shared = 0, experts = 0, rest = 0;  // bytes
  const auto first =
      static_cast<size_t>(checkpoint.get_int("leading_dense_block_count").value_or(0));
  const bool tied = !checkpoint.find("output.weight");
  for (const std::string& name : checkpoint.tensor_names()) {
    const auto bytes = static_cast<double>(checkpoint.require(name).bytes());
    if (name.find("_exps.") != name.npos) {
      experts += bytes;
    } else if (!name.starts_with("blk.")) {
      if (name != "token_embd.weight" || tied) rest += bytes;
    } else if (std::stoul(name.substr(4)) < first) {
      rest += bytes;
    } else {
      (name.find("_shexp.") != name.npos ? shared : attention) += bytes;
    }
  }
  const auto layers = static_cast<double>(trace.shape.num_layers);
  const double expert = experts / static_cast<double>(trace.shape.num_experts());
  const double used =
      trace.visits.empty() ? 0 : static_cast<double>(trace.visits[0].experts.size());
  const double all = attention + shared + layers * used * expert + rest;
  const double seconds_per_byte = seconds_per_token / all;
  LayerParts parts;
  parts.attention_s = attention / layers * seconds_per_byte;
  parts.shared_s = shared / layers * seconds_per_byte;
  parts.expert_s = expert * seconds_per_byte;
  parts.rest_s = rest * seconds_per_byte;
  parts.layer_s = parts.attention_s + parts.shared_s + used * parts.expert_s;
  return parts;
}

double predict_seconds(std::span<const text::ExpertTrace::Visit> visits,
                       std::span<const uint32_t> misses, const LayerParts& parts,
                       const ReadTimes& read, ExpertReads reads) {
  const bool prefetch = reads == ExpertReads::kPreGated;
  double now = 0, disk_free = 0;
  std::vector<double> coming;  // when the experts that the next layer asked for will be there
  const auto ask = [&](size_t visit, std::vector<double>& arrivals) {
    arrivals.clear();
    for (uint32_t i = 0; i < misses[visit]; ++i) {
      disk_free = std::max(now + read.latency_s, disk_free + read.record_s);
      arrivals.push_back(disk_free);
    }
  };
  std::vector<double> current;
  for (size_t i = 0; i < visits.size(); ++i) {
    const bool first = visits[i].layer == 0;
    if (first) {
      // The pre-gate of the first layer reads the last dense layer's input of the MLP.
      if (prefetch) ask(i, coming);
      now += parts.rest_s;
    }
    now += parts.attention_s;
    if (reads == ExpertReads::kNaive) {
      now += misses[i] * (read.latency_s + read.core_s) + parts.layer_s - parts.attention_s;
      continue;
    }
    if (prefetch) {
      current = coming;
      if (i + 1 < visits.size() && visits[i + 1].layer == visits[i].layer + 1) ask(i + 1, coming);
    } else {
      ask(i, current);
    }
    const size_t hits = visits[i].experts.size() - misses[i];
    now += static_cast<double>(hits) * parts.expert_s + parts.shared_s;
    for (const double arrival : current)
      now = std::max(now, arrival) + read.core_s + parts.expert_s;
  }
  return now;
}

}  // namespace weft::bench
