// `weft bench phase-curves`: what semi-PD's controller measures when a server starts, several
// times, as tables: S(c), BW(c) and F(c) on 1 to all cores, and how much the phases slow each other
// down.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "bench/bench.h"
#include "serve/semi_pd/executor.h"
#include "text/text_model.h"

namespace weft::bench {

using serve::semi_pd::PhaseProfile;

Report run_phase_curves(const BenchOptions& options) {
  if (options.models.size() != 1)
    fail(ErrorKind::kInvalidInput, "bench phase-curves takes one --model at a time");
  const size_t num_cores = *std::max_element(options.threads.begin(), options.threads.end());
  ThreadPool pool(num_cores);
  const text::TextModel model = text::TextModel::load(options.models.front(), {}, pool.cores());
  std::vector<PhaseProfile> profiles;
  for (int round = 0; round < (options.quick ? 3 : 9); ++round) {
    options.stop.throw_if_stopped();
    profiles.push_back(serve::semi_pd::measure_profile(model, num_cores));
  }
  const auto spread = [&](const auto& value) {
    std::vector<double> values;
    for (const PhaseProfile& profile : profiles) values.push_back(value(profile));
    return spread_of(values);
  };

  Report report;
  report.bench = "phase-curves";
  report.notes.push_back(
      fmt::format("{} on up to {} cores, a phase alone; {} rounds. Prompts in pieces of 64 tokens; "
                  "decode with 128 tokens of context.",
                  model.name(), num_cores, profiles.size()));
  Table curves{.name = "a phase alone",
               .columns = {"cores", "prompt tokens/s", "of 1 core", "1 answer: GB/s", "of 1 core",
                           "16 answers: GFLOP/s", "of 1 core"},
               .rows = {}};
  double prefill_1 = 0, bytes_1 = 0, flops_1 = 0;
  for (size_t c = 0; c < num_cores; ++c) {
    const Spread prefill =
        spread([c](const PhaseProfile& p) { return 1 / p.on_cores[c].prompt_s_per_token; });
    const Spread bytes =
        spread([c](const PhaseProfile& p) { return p.on_cores[c].decode_bytes_per_s * 1e-9; });
    const Spread flops =
        spread([c](const PhaseProfile& p) { return p.on_cores[c].decode_flops_per_s * 1e-9; });
    if (c == 0) {
      prefill_1 = prefill.median;
      bytes_1 = bytes.median;
      flops_1 = flops.median;
    }
    curves.rows.push_back({cell(static_cast<double>(c + 1), 0), cell(prefill, 0),
                           cell(prefill.median / prefill_1, 2), cell(bytes, 1),
                           cell(bytes.median / bytes_1, 2), cell(flops, 1),
                           cell(flops.median / flops_1, 2)});
    if (c + 1 == num_cores) {
      report.summary["prefill_gain"] = prefill.median / prefill_1;
      report.summary["decode_gain"] = bytes.median / bytes_1;
    }
  }
  report.tables.push_back(std::move(curves));
  if (num_cores == 1) return report;
  Table beside{.name = "side by side on half of the cores each: time over time alone",
               .columns = {"phase", "slowdown"},
               .rows = {}};
  const Spread prefill = spread([](const PhaseProfile& p) { return p.prefill_slowdown; });
  const Spread decode = spread([](const PhaseProfile& p) { return p.decode_slowdown; });
  beside.rows.push_back({cell("prefill"), cell(prefill, 2)});
  beside.rows.push_back({cell("decode"), cell(decode, 2)});
  report.tables.push_back(std::move(beside));
  report.summary["prefill_slowdown"] = prefill.median;
  report.summary["decode_slowdown"] = decode.median;
  return report;
}

}  // namespace weft::bench
