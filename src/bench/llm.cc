// `weft bench llm`: how fast a language model reads a prompt and writes an answer, beside llama.cpp
// on the same file and beside this machine's limits.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/seconds.h"
#include "bench/bench.h"
#include "bench/child.h"
#include "bench/limits.h"
#include "bench/llm_tests.h"
#include "bench/machine.h"
#include "bench/peer.h"
#include "formats/checkpoint.h"
#include "formats/tokenizer.h"
#include "models/language_model.h"
#include "text/kv_cache.h"

namespace weft::bench {
namespace {

using Clock = std::chrono::steady_clock;
using models::Token;

constexpr size_t kPiece = 512;            // tokens of a pass that fills the context
constexpr size_t kFirstTokenPrompt = 20;  // tokens, for the time to the first token
constexpr size_t kContext = 4096;         // for the memory that a process takes, or the model's

// Our side of the tests: one model, one sequence.
class Ours {
 public:
  Ours(const std::filesystem::path& path, size_t most_tokens, const CoreSet& cores,
       const ProgressFn& progress)
      : checkpoint_(formats::open_checkpoint(path)),
        model_(models::load_language_model(checkpoint_, cores, progress)),
        cache_({.num_layers = model_->config().num_layers,
                .shape = model_->kv_shape(),
                .format = kernels::KvFormat::kF16,
                .capacity_tokens = most_tokens}),
        workspace_(model_->make_workspace()),
        sequence_(cache_.create()),
        logits_(model_->config().vocab_size) {
    const auto vocab_size = static_cast<double>(model_->config().vocab_size);
    for (size_t i = 0; i < most_tokens; ++i)
      tokens_.push_back(static_cast<Token>(uniform(1, 0, static_cast<uint32_t>(i)) * vocab_size));
  }

  const models::LanguageModel& model() const { return *model_; }

  // Tokens per second.
  double run(const LlmTest& test, const CoreSet& cores) {
    read_up_to(test.depth, cores);
    const auto start = Clock::now();
    if (test.prompt_tokens != 0) read(test.prompt_tokens, cores);
    for (size_t i = 0; i < test.answer_tokens; ++i) read(1, cores);
    const double seconds = seconds_since(start);
    return static_cast<double>(test.prompt_tokens + test.answer_tokens) / seconds;
  }

  // Multiplications and additions of one prompt token in the products of the layers, and the kind
  // of product that most of them are.
  double operations_per_token() const {
    double operations = 0, experts = 0;
    for (const std::string& name : checkpoint_->tensor_names()) {
      const TensorView tensor = checkpoint_->require(name);
      if (!name.starts_with("blk.")) continue;
      const double count = 2.0 * static_cast<double>(tensor.shape.elements());
      if (name.find("_exps.") != name.npos)
        experts += count;
      else if (tensor.shape.rank() == 2)
        operations += count;
    }
    return operations + experts * share_of_experts();
  }
  Product product() const {
    const DType type = checkpoint_->require("blk.0.ffn_up.weight").dtype;
    if (is_block_quantised(type)) return Product::kInt8;
    return type == DType::kBF16 ? Product::kBF16 : Product::kF32;
  }

  // What a decoded token reads on average: every weight, of a mixture's experts those that it
  // visits, and the keys and values before it.
  double decode_bytes(const LlmTest& test) const {
    const auto& c = model_->config();
    const kernels::KvShape shape = model_->kv_shape();
    const size_t kv_bytes = c.num_layers * shape.page_bytes(kernels::KvFormat::kF16) /
                            kernels::kPageTokens * (test.depth + test.answer_tokens / 2);
    const double experts = static_cast<double>(
        models::plan_memory(*checkpoint_, kernels::KvFormat::kF16, 1).expert_bytes);
    return static_cast<double>(model_->weight_bytes() + kv_bytes) -
           experts * (1 - share_of_experts());
  }

 private:
  // Visits of a token over experts there are, which layers may share (0: no mixture).
  double share_of_experts() const {
    const auto plan = models::plan_memory(*checkpoint_, kernels::KvFormat::kF16, 1);
    if (plan.num_experts == 0) return 0;
    const auto count = [&](const char* key) {
      return static_cast<double>(checkpoint_->get_int(key).value_or(0));
    };
    const double layers =
        static_cast<double>(model_->config().num_layers) - count("leading_dense_block_count");
    return layers * count("expert_used_count") / static_cast<double>(plan.num_experts);
  }

  void read(size_t count, const CoreSet& cores) {
    const size_t position = cache_.length(sequence_);
    WEFT_ASSERT(cache_.reserve(sequence_, count));
    const models::SequenceInput input{.sequence = sequence_,
                                      .tokens = std::span(tokens_).subspan(position, count),
                                      .first_position = position};
    model_->forward({&input, 1}, cache_, logits_.data(), *workspace_, cores);
  }

  void read_up_to(size_t depth, const CoreSet& cores) {
    cache_.truncate(sequence_, std::min(depth, cache_.length(sequence_)));
    while (cache_.length(sequence_) < depth)
      read(std::min(kPiece, depth - cache_.length(sequence_)), cores);
  }

  std::shared_ptr<const formats::Checkpoint> checkpoint_;
  std::unique_ptr<models::LanguageModel> model_;
  text::KvCache cache_;
  std::unique_ptr<models::Workspace> workspace_;
  text::SequenceId sequence_;
  std::vector<float> logits_;
  std::vector<Token> tokens_;
};

Ours load(const std::filesystem::path& model, std::span<const LlmTest> tests,
          const CoreSet& cores) {
  size_t most_tokens = 0;
  for (const LlmTest& test : tests) most_tokens = std::max(most_tokens, test.num_tokens());
  Progress progress("Loading", 0, "bytes");
  return {model, most_tokens, cores, progress.callback()};
}

// Words of about a token each, as many tokens long as asked for.
std::string prompt_of(const formats::Tokenizer& tokenizer, size_t num_tokens) {
  std::string prompt = "One";
  size_t words = 1;
  for (size_t have = tokenizer.encode(prompt).size(); have < num_tokens;
       have = tokenizer.encode(prompt).size()) {
    const size_t more = std::max<size_t>(1, (num_tokens - have) * words / (2 * have));
    for (size_t i = 0; i < more; ++i) prompt += words++ % 2 == 0 ? " day" : " more";
  }
  return prompt;
}

ChildResult run_generate(const std::filesystem::path& model, const std::string& prompt,
                         size_t threads, size_t context, StopToken stop) {
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe");
  ChildResult child =
      run_child({program.string(), "generate", "--raw", "--temp", "0", "--max-tokens", "1",
                 "--model", model.string(), "--threads", std::to_string(threads), "--context",
                 std::to_string(context), prompt},
                stop);
  if (child.exit_code != 0)
    fail(ErrorKind::kInvalidInput, "{} generate ended with {}: {}", program.string(),
         child.exit_code, child.error_tail);
  return child;
}

// Whole processes: from start to the first token of an answer, and their memory with a full
// context.
class ProcessTable {
 public:
  ProcessTable() {
    table_.name =
        "a process: 20 prompt tokens to the first of the answer; memory, its context full";
    table_.columns = {"model",   "threads",    "first token ms", "llama.cpp",    "ours / peer's",
                      "context", "memory MiB", "llama.cpp",      "ours / peer's"};
  }

  void add(const BenchOptions& options, const std::filesystem::path& model,
           const std::optional<Peer>& peer, Report& report, const std::string& suffix) {
    const auto checkpoint = formats::open_checkpoint(model);
    const auto tokenizer = checkpoint->load_tokenizer();
    const size_t context = std::min(kContext, models::read_config(*checkpoint).context_length);
    const size_t threads = *std::max_element(options.threads.begin(), options.threads.end());
    const std::string prompt = prompt_of(*tokenizer, kFirstTokenPrompt);
    bool with_peer = peer.has_value();
    std::vector<std::function<double()>> contestants = {[&] {
      return run_generate(model, prompt, threads, context, options.stop).seconds_to_output;
    }};
    if (with_peer)
      contestants.emplace_back([&] {
        const auto child = peer->complete(model, prompt, threads, context);
        with_peer = with_peer && child;
        return child ? child->seconds_to_output : 0;
      });
    const auto seconds = alternate(options.quick ? 3 : 9, contestants, options.stop);
    std::vector<Cell> row = {cell(model.stem().string()), cell(static_cast<double>(threads), 0)};
    add_pair(row, milliseconds(seconds[0]),
             with_peer ? std::optional(milliseconds(seconds[1])) : std::nullopt, report,
             "first_token_ratio" + suffix);
    row.push_back(cell(static_cast<double>(context), 0));
    if (!options.quick && context > 2 * kPageOfRoom) {
      const std::string filling = prompt_of(*tokenizer, context - kPageOfRoom);
      const auto ours = run_generate(model, filling, threads, context, options.stop);
      const auto theirs = with_peer ? peer->complete(model, filling, threads, context)
                                    : std::optional<ChildResult>();
      add_pair(row, mebibytes(ours), theirs ? std::optional(mebibytes(*theirs)) : std::nullopt,
               report, "memory_ratio" + suffix);
    } else {
      row.insert(row.end(), 3, no_cell());
    }
    table_.rows.push_back(std::move(row));
  }

  Table take() { return std::move(table_); }

 private:
  static constexpr size_t kPageOfRoom = 64;  // prompt_of may be some tokens too long

  static Spread milliseconds(std::vector<double> seconds) {
    for (double& s : seconds) s *= 1e3;
    return spread_of(std::move(seconds));
  }
  static Spread mebibytes(const ChildResult& child) {
    return spread_of({static_cast<double>(child.peak_memory_bytes) / (1 << 20)});
  }
  static void add_pair(std::vector<Cell>& row, const Spread& ours,
                       const std::optional<Spread>& peer, Report& report,
                       const std::string& summary_name) {
    row.push_back(cell(ours, 0));
    row.push_back(peer ? cell(*peer, 0) : no_cell());
    const double ratio = peer ? ours.median / peer->median : 0;
    row.push_back(peer ? cell(ratio, 2) : no_cell());
    if (peer) report.summary[summary_name] = ratio;
  }

  Table table_;
};

// The speeds of one model, row by row.
struct SpeedTable {
  Table table;
  explicit SpeedTable(const std::filesystem::path& model, const Ours& ours) {
    const auto& c = ours.model().config();
    table.name = fmt::format("{}: {}, {} layers of {}, {:.0f} MiB of weights",
                             model.stem().string(), c.architecture, c.num_layers, c.hidden_size,
                             static_cast<double>(ours.model().weight_bytes()) / (1 << 20));
    table.columns = {"test",  "threads", "tokens/s", "llama.cpp",
                     "ratio", "GB/s",    "of read",  "of peak"};
  }

  void add(const LlmTest& test, size_t threads, const BesidePeer& result,
           std::optional<double> bytes_per_second, double read,
           std::optional<double> peak_fraction) {
    std::vector<Cell> row = {cell(std::string(test.name)), cell(static_cast<double>(threads), 0),
                             cell(result.ours, 1)};
    row.push_back(result.peer ? cell(*result.peer, 1) : no_cell());
    row.push_back(result.peer ? cell(result.ratio(), 2) : no_cell());
    row.push_back(bytes_per_second ? cell(*bytes_per_second / 1e9, 1) : no_cell());
    row.push_back(bytes_per_second ? percent(*bytes_per_second / read) : no_cell());
    row.push_back(peak_fraction ? percent(*peak_fraction) : no_cell());
    table.rows.push_back(std::move(row));
  }
};

// decode_ratio_t1, prefill_ratio_t2, ...; decode_ratio_4k and bandwidth_fraction are those of the
// most threads.
void summarise(nlohmann::ordered_json& summary, const std::string& suffix, const LlmTest& test,
               size_t threads, bool most_threads, const BesidePeer& result,
               std::optional<double> fraction) {
  const char* kind = test.prompt_tokens != 0 ? "prefill" : "decode";
  const std::string t = fmt::format("_t{}", threads);
  if (test.depth == kDeep) {
    if (result.peer) summary["decode_ratio_4k" + t + suffix] = result.ratio();
    if (result.peer && most_threads) summary["decode_ratio_4k" + suffix] = result.ratio();
    return;
  }
  if (result.peer) summary[fmt::format("{}_ratio{}{}", kind, t, suffix)] = result.ratio();
  if (fraction && most_threads) summary["bandwidth_fraction" + suffix] = *fraction;
}

size_t num_measurements(std::span<const LlmTest> tests, const BenchOptions& options,
                        bool with_peer) {
  size_t count = 0;
  for (const LlmTest& test : tests) {
    const size_t rounds = static_cast<size_t>(options.quick ? test.quick_rounds : test.rounds);
    const bool all = !options.quick || test.quick_all_threads;
    count += rounds * (all ? options.threads.size() : 1) * (with_peer ? 2 : 1);
  }
  return count;
}

// Those that the model's context holds; the report names the others. kInvalidInput: it holds none.
LlmTests tests_of(const std::filesystem::path& model, Report& report) {
  const size_t context = models::read_config(*formats::open_checkpoint(model)).context_length;
  LlmTests tests = llm_tests_within(context);
  if (tests.fit.empty())
    fail(ErrorKind::kInvalidInput,
         "{}: its context of {} tokens is too short for all of the bench's tests ({})",
         model.string(), context, fmt::join(tests.left_out, ", "));
  if (!tests.left_out.empty())
    report.notes.push_back(fmt::format("{}: {} left out, its context ends at {} tokens.",
                                       model.stem().string(), fmt::join(tests.left_out, ", "),
                                       context));
  return tests;
}

}  // namespace

Report run_llm(const BenchOptions& options) {
  Report report;
  report.bench = "llm";
  report.notes.push_back(
      "Tokens per second, medians; ratios are ours / llama.cpp's (speed: above 1 is ahead; time "
      "and memory: below 1).\n"
      "'of read': bytes of weights, keys and values that a token needs, against this machine's "
      "measured read\nbandwidth; 'of peak': the layers' products, against its measured int8, bf16 "
      "or "
      "f32 peak.\n"
      "The summary's plain names are those of the first model.");
  std::vector<LlmTests> tests;  // by model
  for (const std::filesystem::path& model : options.models)
    tests.push_back(tests_of(model, report));
  std::optional<Peer> peer;
  if (options.peer) peer.emplace(*options.peer, options.stop);

  const Machine machine = read_machine();
  const size_t most_threads = *std::max_element(options.threads.begin(), options.threads.end());
  ThreadPool pool(most_threads);
  std::vector<double> read;  // bytes per second, for each of options.threads
  {
    const ReadBandwidth memory(machine.last_level_cache_bytes(), machine.available_bytes,
                               pool.cores());
    for (const size_t threads : options.threads)
      read.push_back(memory.measure(pool.subset(0, threads), 5));
  }

  ProcessTable processes;
  for (size_t m = 0; m < options.models.size(); ++m) {
    const std::filesystem::path& model = options.models[m];
    const std::string suffix = m == 0 ? "" : "_" + model.stem().string();
    const std::vector<LlmTest>& fit = tests[m].fit;
    processes.add(options, model, peer, report, suffix);

    Ours ours = load(model, fit, pool.cores());
    SpeedTable speeds(model, ours);
    Progress progress("Measuring", num_measurements(fit, options, peer.has_value()), "runs");
    for (const LlmTest& test : fit) {
      for (size_t i = 0; i < options.threads.size(); ++i) {
        const size_t threads = options.threads[i];
        if (options.quick && !test.quick_all_threads && threads != most_threads) continue;
        const CoreSet cores = pool.subset(0, threads);
        ours.run(test, cores);  // warms up, and fills the context
        const BesidePeer result = measure_beside(
            peer,
            {.model = model,
             .threads = threads,
             .prompt_tokens = test.prompt_tokens,
             .generated_tokens = test.answer_tokens,
             .depth = test.depth},
            options.quick ? test.quick_rounds : test.rounds, [&] { return ours.run(test, cores); },
            options, [&] { progress.advance(1); });
        std::optional<double> rate, fraction, of_peak;
        if (test.prompt_tokens != 0) {
          if (const auto peak = peak_rate(ours.product(), cores, 3))
            of_peak = ours.operations_per_token() * result.ours.median / *peak;
        } else {
          rate = ours.decode_bytes(test) * result.ours.median;
          fraction = *rate / read[i];
        }
        speeds.add(test, threads, result, rate, read[i], of_peak);
        summarise(report.summary, suffix, test, threads, threads == most_threads, result, fraction);
      }
    }
    report.tables.push_back(std::move(speeds.table));
  }
  report.tables.push_back(processes.take());
  return report;
}

}  // namespace weft::bench
