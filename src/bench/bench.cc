#include "bench/bench.h"

namespace weft::bench {
namespace {

constexpr Bench kBenches[] = {
    {"llm", "Prompts and answers of a language model, beside llama.cpp",
     "weft bench llm --quick --peer build/peer/bin/llama-bench", true, false, run_llm},
    {"serve", "Many users at once: prefill-first, chunked prefill, semi-PD, llama.cpp's server",
     "weft bench serve --quick --svg goodput.svg", true, true, run_serve},
    {"stall", "What running answers feel when a long prompt arrives, under each executor",
     "weft bench stall --quick", true, true, run_stall},
    {"phase-curves", "Prefill and decode on 1 to all cores, alone and beside each other",
     "weft bench phase-curves", true, false, run_phase_curves},
    {"switch", "What it costs to move the border between prefill and decode every 10 ms",
     "weft bench switch --quick", true, false, run_switch},
    {"http", "The share of HTTP in a server's work while 32 answers are streamed",
     "weft bench http --quick", true, false, run_http},
    {"vocab", "Answers from a part of the vocabulary: memory, time, and what becomes of them",
     "weft bench vocab --quick", true, false, run_vocab},
    {"isolate", "What worker processes cost, and how long a crash of one is felt",
     "weft bench isolate --quick", true, false, run_isolate},
    {"kernels", "Products of 1 to 512 rows with every weight format, attention, norms",
     "weft bench kernels --quick", false, false, run_kernels},
    {"kv", "Keys and values in fewer bits: decoding speed, pauses, room, divergence",
     "weft bench kv --quick", true, false, run_kv},
    {"flashoverlap", "Products whose sums over the ranks travel while they are computed",
     "mpirun -n 2 weft bench flashoverlap --threads 1 --quick", false, false,
     run_flashoverlap, true},
    {"megrez2", "A mixture with a part of its experts in memory: speed, hits, predicted and measured",
     "weft bench megrez2 --quick --peer build/peer/bin/llama-bench", true, false, run_megrez2},
    {"tasp", "Attention of one long prompt over ranks: TASP, direct, Zigzag-Ring, Ring",
     "mpirun -n 4 weft bench tasp --threads 1 --quick", true, false, run_tasp, true},
    {"ranks", "A model's prompt and answer over ranks: overlap on and off, llama.cpp's RPC, memory",
     "mpirun -n 2 weft bench ranks --threads 1 --quick --peer build/peer/bin/llama-bench", true,
     false, run_ranks, true},
};

}  // namespace

std::span<const Bench> benches() { return kBenches; }

std::vector<std::vector<double>> alternate(int rounds,
                                           std::span<const std::function<double()>> contestants,
                                           StopToken stop, WarmUp warm_up) {
  std::vector<std::vector<double>> values(contestants.size());
  for (int round = warm_up == WarmUp::kRound ? 0 : 1; round <= rounds; ++round) {
    for (size_t i = 0; i < contestants.size(); ++i) {
      stop.throw_if_stopped();
      const size_t turn = (i + static_cast<size_t>(round)) % contestants.size();
      const double value = contestants[turn]();
      if (round > 0) values[turn].push_back(value);
    }
  }
  return values;
}

}  // namespace weft::bench
