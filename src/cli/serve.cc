#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "bench/machine.h"
#include "cli/commands.h"
#include "cli/model_options.h"
#include "cli/sampling_options.h"
#include "comm/mpi_transport.h"
#include "serve/http_server.h"
#include "serve/semi_pd/executor.h"
#include "serve/unified_executor.h"

namespace weft::cli {
namespace {

struct Options {
  ModelOptions model;
  std::vector<std::string> models;  // FILE or NAME=FILE
  size_t kv_tokens = 0;
  serve::UnifiedOptions executor;
  serve::HttpOptions http;
  std::filesystem::path key_file;
  VocabOptions vocab;
  double max_stall_ms = 0;
  std::string phase = "unified", partition = "auto", slo, slo_model = "mg1";
  bool log_partition = false, isolate = false;
  int64_t drain_s = 30;
};

struct NamedModel {
  std::string name;
  std::filesystem::path path;
};

std::vector<NamedModel> named_models(const Options& options) {
  std::vector<NamedModel> out;
  const auto add = [&](std::string name, const std::filesystem::path& asked) {
    const std::filesystem::path path = model_path(asked);
    if (name.empty()) name = path.stem().string();
    for (const NamedModel& other : out)
      if (other.name == name)
        fail(ErrorKind::kInvalidInput,
             "two models are called '{}': give one another name, --model NAME=FILE", name);
    out.push_back({std::move(name), path});
  };
  for (const std::string& model : options.models) {
    const size_t equals = model.find('=');
    const bool named = equals != std::string::npos && !std::filesystem::exists(model);
    if (named)
      add(model.substr(0, equals), model.substr(equals + 1));
    else
      add("", model);
  }
  if (out.empty()) add("", "");
  return out;
}

std::vector<std::optional<text::ExpertBudget>> expert_budgets(const std::vector<NamedModel>& models,
                                                              const ExpertOptions& options) {
  std::vector<ExpertShare> shares;
  for (const NamedModel& model : models) {
    size_t bytes = 0;
    if (!options.memory.empty())
      bytes = models::plan_memory(*formats::open_checkpoint(model.path), kernels::KvFormat::kF16, 1)
                  .expert_bytes;
    shares.push_back({model.name, bytes});
  }
  if (models.size() > 1 && !options.pack.empty() && options.pack != "none")
    fail(ErrorKind::kInvalidInput,
         "--expert-pack names one file, and there are {} models: leave it out, and each has its own",
         models.size());
  return divide_expert_memory(options.memory, shares);
}

std::vector<std::string> read_keys(const Options& options) {
  std::vector<std::string> keys = options.http.api_keys;
  if (!options.key_file.empty()) {
    constexpr size_t kLargest = 1 << 20;
    std::istringstream lines(read_file(options.key_file, kLargest));
    for (std::string line; std::getline(lines, line);) {
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
      if (!line.empty() && line.front() != '#') keys.push_back(line);
    }
    if (keys.empty())
      fail(ErrorKind::kInvalidInput, "{}: has no key; write one in each line",
           options.key_file.string());
  }
  for (const std::string& key : keys)
    if (key.empty()) fail(ErrorKind::kInvalidInput, "--api-key is empty");
  return keys;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

// Room for four full contexts, as far as a third of the free memory goes.
size_t choose_kv_tokens(const Options& options, const text::TextModel& model) {
  const size_t context = model.kv_room();
  if (options.kv_tokens != 0) return options.kv_tokens;
  const auto& policy = model.kv_policy();
  if (policy && policy->mode() == text::KvMode::kPressure && policy->options().budget_bytes != 0)
    return context;
  const size_t bytes_per_token = std::max<size_t>(1, model.memory_plan().kv_bytes / context);
  const size_t affordable = bench::read_machine().available_bytes / 3 / bytes_per_token;
  return std::max(context, std::min(4 * context, affordable));
}

// kInvalidInput as the parsers; also for flags that mean nothing together.
serve::semi_pd::SemiPdOptions semi_pd_options(const Options& options, size_t num_cores) {
  serve::semi_pd::SemiPdOptions out{
      .num_cores = num_cores,
      .partition = serve::semi_pd::parse_partition(options.partition, num_cores),
      .chunk_tokens = options.executor.chunk_tokens,
      .max_stall_s = options.executor.max_stall_s,
      .max_running = options.executor.max_running,
      .max_queued = options.executor.max_queued,
      .order = options.executor.order};
  if (!out.partition && options.slo.empty() && out.max_stall_s && num_cores > 1)
    out.partition = serve::semi_pd::by_steps(num_cores, *out.max_stall_s);
  if (!options.slo.empty()) out.controller.slo = serve::semi_pd::parse_slo(options.slo);
  out.controller.model = serve::semi_pd::parse_slo_model(options.slo_model);
  out.controller.chunk_tokens = options.executor.chunk_tokens;
  if (options.log_partition)
    out.log = [](const std::string& text) { fmt::print(stderr, "weft: {}\n", text); };
  return out;
}

class Server {
 public:
  Server(const Options& options, StopToken stop, std::shared_ptr<parallel::Crew> crew)
      : options_(options),
        stop_(stop),
        crew_(std::move(crew)),
        named_(named_models(options)),
        expert_budgets_(expert_budgets(named_, options.model.experts)),
        profiles_(load_profiles(options.vocab)),
        pool_(options.model.threads),
        semi_pd_(semi_pd_options(options, pool_.size())),
        http_(options.http, models_),
        thread_([this] { http_.run(); }) {}

  ~Server() {
    if (const auto left = crew_ ? comm::time_from_sigterm_to_sigkill() : std::nullopt;
        left && stopped_)
      stop_before_sigkill(*left);
    else
      http_.stop(std::chrono::seconds(stopped_ ? options_.drain_s : 0));
    thread_.join();
  }

  void run() {
    warn();
    load();
    fmt::print(stderr, "weft: {} is ready: {}\n", names(), http_.address());
    while (!stop_.stop_requested()) {
      if (const auto error = models_.lost()) {
        stopped_ = true;  // what is under way fails; new requests get 503 meanwhile
        throw *error;
      }
      if (const auto error = lost_rank()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(500));  // clients get it first
        throw *error;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    stopped_ = true;
    fmt::print(stderr, "weft: finishing what is under way; Ctrl-C again ends at once\n");
  }

 private:
  void warn() const {
    if (is_loopback(options_.http.host) || !options_.http.api_keys.empty()) return;
    fmt::print(
        stderr,
        "weft: WARNING: listening on {} without an API key: whoever reaches this address may "
        "use the model. Give --api-key, or --host 127.0.0.1.\n",
        options_.http.host);
  }

  void load() {
    for (size_t i = 0; i < named_.size(); ++i) {
      stop_.throw_if_stopped();
      Progress bar("Loading " + named_[i].name, 0, "bytes");
      const ProgressFn show = bar.callback();
      const auto progress = [&](size_t done, size_t total) {
        stop_.throw_if_stopped();
        show(done, total);
        const double part = total == 0 ? 0 : static_cast<double>(done) / static_cast<double>(total);
        models_.set_progress((static_cast<double>(i) + part) / static_cast<double>(named_.size()));
      };
      add(i, progress);
    }
    models_.set_ready();
  }

  void add(size_t index, const ProgressFn& progress) {
    const NamedModel& named = named_[index];
    if (options_.vocab.tailors() && options_.model.verbose)
      print_vocab_plan(named.path, options_.vocab, profiles_);
    text::TextModelOptions how;
    how.context = options_.model.context;
    how.available_bytes = bench::read_machine().available_bytes;
    how.head = options_.vocab.head_loading();
    options_.model.kv.apply(how, named.path);
    options_.model.experts.apply(how, expert_budgets_[index]);
    how.crew = crew_;
    if (crew_) how.step_tokens = std::max(how.step_tokens, options_.executor.chunk_tokens);
    if (options_.isolate && how.kv.mode != text::KvMode::kPlain)
      fail(ErrorKind::kUnsupported,
           "worker processes keep keys and values in 16 bit: leave out --isolate, or take --kv f16 "
           "or bf16");
    if (options_.model.verbose || how.kv.mode != text::KvMode::kPlain) how.on_plan = print_plan;
    auto weights = options_.isolate ? std::make_unique<serve::isolate::SharedWeights>() : nullptr;
    if (weights != nullptr) how.weights = &weights->arena;
    auto model = std::make_unique<text::TextModel>(
        text::TextModel::load(named.path, how, pool_.cores(), progress));
    tailor(*model, options_.vocab, profiles_, pool_.cores());
    // Pages are divided in 16 bit alone.
    if (!options_.isolate && !(crew_ && crew_->plan.divides_cache())) model->offer_kv_widths();
    auto isolation = weights != nullptr
                         ? isolate(named.path, how.kv_format, *model, std::move(weights))
                         : nullptr;
    auto running = make_executor(*model, isolation.get());
    models_.add(std::make_unique<serve::ServedModel>(named.name, std::move(model),
                                                     std::move(running), std::move(isolation)));
  }

  // mpirun ends all ranks when one has died, 1 s later, and when it is stopped itself. Nobody can wait
  // for a rank that is dead; else who is nearly done may end. Saying why takes half a second at most.
  void stop_before_sigkill(std::chrono::milliseconds left) {
    if (const auto dead = crew_->ranks.most_silent(3 * comm::kBeat))
      http_.stop({}, fmt::format("rank {} on {} was not heard of for {:.1f} s, and the launcher ends "
                                 "the others: it has died, or its link is cut",
                                 dead->rank, crew_->ranks.host(dead->rank),
                                 std::chrono::duration<double>(dead->silence).count()));
    else
      http_.stop(left / 4, "the launcher ends all ranks of this server: it was stopped, or one of "
                           "them has died");
  }

  std::optional<Error> lost_rank() const {
    const std::scoped_lock lock(lost_mutex_);
    return lost_;
  }

  std::unique_ptr<serve::isolate::Isolation> isolate(
      const std::filesystem::path& path, kernels::KvFormat kv_format, const text::TextModel& model,
      std::unique_ptr<serve::isolate::SharedWeights> weights) const {
    return std::make_unique<serve::isolate::Isolation>(
        model, std::move(weights),
        serve::isolate::IsolationOptions{.model = path,
                                         .kv_format = kv_format,
                                         .kv_tokens = choose_kv_tokens(options_, model),
                                         .num_cores = pool_.size(),
                                         .two_phases = options_.phase == "semi-pd",
                                         .max_running = options_.executor.max_running,
                                         .chunk_tokens = options_.executor.chunk_tokens,
                                         .log = [](const std::string& text) {
                                           fmt::print(stderr, "weft: {}\n", text);
                                         }});
  }

  std::unique_ptr<serve::PhaseExecutor> make_executor(const text::TextModel& model,
                                                      serve::isolate::Isolation* isolation) {
    text::TextModel::DecoderOptions decoder{.capacity_tokens = choose_kv_tokens(options_, model)};
    if (isolation != nullptr) {
      decoder.pool = isolation->pool();
      decoder.model = isolation->model(Phase::kPrefill);
    }
    if (options_.phase == "unified") {
      if (isolation == nullptr) decoder.pool = model.make_pool(decoder.capacity_tokens);
      decoder.pool->make_resident();
      serve::UnifiedOptions how = options_.executor;
      how.on_lost = [this](const Error& error) {
        const std::scoped_lock lock(lost_mutex_);
        lost_ = error;
      };
      return serve::make_unified_executor(model.make_decoder(pool_.cores(), decoder),
                                          model.tokenizer(), how, pool_.cores(), turns_);
    }
    semi_pd_.kv_tokens = decoder.capacity_tokens;
    semi_pd_.isolation = isolation;
    if (!semi_pd_.partition || !options_.slo.empty())
      semi_pd_.profile = serve::semi_pd::measure_profile(model, pool_.size());
    return serve::semi_pd::make_semi_pd_executor(model, semi_pd_);
  }

  std::string names() const {
    std::string out;
    for (const NamedModel& model : named_) out += (out.empty() ? "" : ", ") + model.name;
    return out;
  }

  const Options& options_;
  StopToken stop_;
  mutable std::mutex lost_mutex_;  // guards lost_
  std::optional<Error> lost_;
  const std::shared_ptr<parallel::Crew> crew_;  // none: one process
  const std::vector<NamedModel> named_;
  const std::vector<std::optional<text::ExpertBudget>> expert_budgets_;  // by model
  const std::vector<text::VocabProfile> profiles_;
  ThreadPool pool_;
  serve::semi_pd::SemiPdOptions semi_pd_;
  std::shared_ptr<serve::Turns> turns_ = std::make_shared<serve::Turns>();
  serve::ModelSet models_;
  serve::HttpServer http_;
  bool stopped_ = false;
  std::thread thread_;
};

void serve_models(Options& options, StopToken stop) {
  text::validate(options.http.defaults.sampling);
  options.http.api_keys = read_keys(options);
  if (options.http.prefixes_per_key && options.http.api_keys.empty())
    fail(ErrorKind::kInvalidInput, "--prefix-per-key needs keys: give --api-key or --api-key-file");
  if (options.max_stall_ms > 0) options.executor.max_stall_s = options.max_stall_ms * 1e-3;
  if (!options.slo.empty() || options.partition != "auto") options.phase = "semi-pd";
  if (options.phase == "semi-pd" && options.models.size() > 1)
    fail(ErrorKind::kInvalidInput,
         "--phase semi-pd divides the cores between the phases of one model, but there are {}: take "
         "--phase unified, or a server for each",
         options.models.size());
  if (options.isolate && !options.model.experts.memory.empty())
    fail(ErrorKind::kUnsupported,
         "worker processes keep all experts in memory: leave out --isolate, or --expert-memory");
  if (options.isolate && options.vocab.tailors())
    fail(ErrorKind::kUnsupported,
         "worker processes compute the whole vocabulary: leave out --isolate, or --vocab-profile and "
         "--vocab-mode");
  std::shared_ptr<parallel::Crew> crew;
  if (comm::is_launched_as_rank()) {
    const std::vector<NamedModel> models = named_models(options);
    if (models.size() > 1 || options.phase != "unified" || options.isolate)
      fail(ErrorKind::kUnsupported,
           "several ranks serve one model, with --phase unified and without --isolate: leave the "
           "other flags out");
    crew = meet_ranks(options.model.ranks, models.front().path, options.model.threads,
                      options.vocab.head_loading());
    if (crew->plan.sequence > 1)
      options.executor.chunk_tokens = std::max(options.executor.chunk_tokens, prompt_chunk(*crew));
  } else {
    meet_ranks(options.model.ranks, {}, 1);  // refuses what needs ranks
  }
  Server(options, stop, std::move(crew)).run();
}

void add_network_options(CLI::App& command, Options& options) {
  const std::string group = "Network";
  const auto add = [&](const char* flag, auto& value, const char* text) {
    return command.add_option(flag, value, text)->group(group);
  };
  add("--host", options.http.host, "Address to listen on; 0.0.0.0: every one of this machine")
      ->capture_default_str();
  add("--port", options.http.port, "Port; 0: any free one")
      ->capture_default_str()
      ->check(CLI::Range(0, 65535));
  add("--api-key", options.http.api_keys, "Clients must send it; may be repeated")
      ->allow_extra_args(false)
      ->type_name("KEY");
  add("--api-key-file", options.key_file, "Keys, one in each line")->type_name("FILE");
  command
      .add_flag("--prefix-per-key", options.http.prefixes_per_key,
                "Reuse what was read of a prompt only for requests with the same key")
      ->group(group);
  add("--cors", options.http.cors_origin, "Lets pages of this origin (or *) ask from browsers")
      ->type_name("ORIGIN");
  add("--tls-cert", options.http.tls_certificate, "Certificate chain in PEM form: serve https")
      ->type_name("FILE");
  add("--tls-key", options.http.tls_key, "Its private key")->type_name("FILE");
  add("--max-body", options.http.max_body_bytes, "Longest request body, in bytes")
      ->capture_default_str();
  add("--max-connections", options.http.max_connections, "Open connections; more of them wait")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1} << 16));
  add("--drain", options.drain_s, "Seconds that running answers get to end on shutdown")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{86400}));
}

void add_batching_options(CLI::App& command, Options& options) {
  const std::string group = "Batching";
  const auto add = [&](const char* flag, auto& value, const char* text) {
    return command.add_option(flag, value, text)->group(group);
  };
  add("--kv-tokens", options.kv_tokens,
      "KV cache of a model in tokens of 16 bit, all requests together")
      ->default_str("four contexts, within a third of the free memory")
      ->check(CLI::Range(size_t{32}, size_t{1} << 30));
  add("--chunk", options.executor.chunk_tokens, "Most prompt tokens in one step")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1} << 16));
  add("--max-stall-ms", options.max_stall_ms,
      "Longest time that answers wait for their next token while prompts are read; 0: no bound")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  add("--small-first", options.executor.order.small_first_until_s,
      "Short prompts are read before longer ones younger than so many seconds; 0: in order")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
  add("--max-running", options.executor.max_running, "Answers made at the same time")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{4096}));
  add("--max-queued", options.executor.max_queued, "Requests that wait; more are refused (429)")
      ->capture_default_str()
      ->check(CLI::Range(size_t{1}, size_t{1} << 20));
}

void add_phase_options(CLI::App& command, Options& options) {
  const std::string group = "Prefill and decode (semi-PD)";
  const auto add = [&](const char* flag, std::string& value, const char* text) {
    return command.add_option(flag, value, text)->group(group);
  };
  add("--phase", options.phase,
      "unified: one loop for both; semi-pd: two at the same time, on shares of the cores")
      ->capture_default_str()
      ->check(CLI::IsMember({"unified", "semi-pd"}));
  add("--slo", options.slo,
      "What users shall get, such as ttft=2s,tpot=50ms,p=0.9: the cores are shared out for it "
      "(implies semi-pd)")
      ->default_str("10 times what one request alone takes, p=0.9")
      ->type_name("SLO");
  add("--partition", options.partition,
      "auto, or fixed (implies semi-pd): 1:1 (cores of each), 1:1,strict (none lent), 2/2:0.35 (in "
      "turns, prefill's share of the time), 2/2:20ms (in turns, longest stall), 2/2:free, unified")
      ->capture_default_str()
      ->type_name("PARTITION");
  add("--slo-model", options.slo_model, "How TTFT and TPOT are predicted: mg1, mm1 or table")
      ->capture_default_str();
  command.add_flag("--log-partition", options.log_partition, "Print each decision")->group(group);
  command
      .add_flag(
          "--isolate", options.isolate,
          "Compute in processes of their own (one for each phase): a crash there is a pause for "
          "clients, not the end of the server")
      ->group("Reliability");
}

}  // namespace

void add_serve(CLI::App& program, StopToken stop) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand("serve", "Serve OpenAI's API and a page to chat with");
  command
      ->add_option("--model", options->models,
                   "A .gguf file or Hugging Face folder, as FILE or NAME=FILE; may be repeated")
      ->allow_extra_args(false)
      ->default_str("$WEFT_MODEL, or the one that ./run fetches")
      ->type_name("[NAME=]FILE");
  add_engine_options(*command, options->model, stop);
  add_rank_options(*command, options->model.ranks);
  add_network_options(*command, *options);
  add_batching_options(*command, *options);
  add_phase_options(*command, *options);
  add_vocab_options(*command, options->vocab, Profiles::kSeveral);
  add_sampling_options(*command, options->http.defaults.sampling);
  command->footer(
      "Examples:\n"
      "  weft serve\n"
      "  weft serve --kv 8\n"
      "  weft serve --model small=a.gguf --model large=b.gguf --host 0.0.0.0 --api-key secret\n"
      "  curl http://127.0.0.1:8080/v1/chat/completions \\\n"
      "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}]}'");
  command->callback([options, stop] { serve_models(*options, stop); });
}

}  // namespace weft::cli
