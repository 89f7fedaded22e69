#include "serve/views.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/memory.h"
#include "base/seconds.h"
#include "formats/unicode.h"

namespace weft::serve::views {
namespace {

using openai::Fields;

double seconds_up() {
  static const Clock::time_point start = Clock::now();
  return seconds_since(start);
}
[[maybe_unused]] const double kStarted = seconds_up();  // the clock starts with the program

Json latency(const Histogram& histogram) {
  Json buckets = Json::array(), counts = Json::array();
  for (size_t i = 0; i < Histogram::kBounds.size(); ++i) {
    buckets.push_back(Histogram::kBounds[i] * 1e3);
    counts.push_back(histogram.bucket(i));
  }
  return {{"buckets", std::move(buckets)},
          {"counts", std::move(counts)},
          {"p50", histogram.quantile(0.5) * 1e3},
          {"p90", histogram.quantile(0.9) * 1e3},
          {"p99", histogram.quantile(0.99) * 1e3}};
}

Json running_jobs(const ServedModel& model) {
  Json out = Json::array();
  for (const auto& job : model.jobs()) {
    out.push_back({{"id", job->id},
                   {"phase", name(job->phase.load())},
                   {"prompt_tokens", job->prompt_tokens},
                   {"prompt_done", std::min(job->prompt_done.load(), job->prompt_tokens)},
                   {"generated", job->generated.load()},
                   {"preemptions", job->preemptions.load()},
                   {"age_s", job->age_s()}});
  }
  return out;
}

// Null: no request may tailor its vocabulary.
Json vocabulary_of(const ServedModel& served) {
  const text::TextModel& model = served.model();
  if (model.vocab_heads().empty()) return nullptr;
  const Metrics& m = served.executor().metrics();
  Json profiles = Json::array();
  size_t packed_bytes = 0, largest = 0, whole_bytes = 0;
  for (const auto& head : model.vocab_heads()) {
    const text::PackedHead::Memory memory = head->memory();
    packed_bytes += memory.packed_bytes + memory.map_bytes;
    whole_bytes = memory.full_bytes;
    profiles.push_back({{"name", head->name()}, {"size", head->set().size()},
                        {"required", head->num_required()}});
  }
  for (const auto& job : served.jobs()) largest = std::max(largest, job->vocab_size.load());
  return {{"mode", text::name(model.vocab_default())},
          {"vocab_size", model.model().config().vocab_size},
          {"profiles", std::move(profiles)},
          {"largest_running_set", largest},
          {"packed_bytes", packed_bytes},
          {"sketch_bytes", model.vocab_sketch_bytes()},
          {"whole_bytes", whole_bytes},
          {"whole_head_packed_bytes", model.model().packed_head_bytes()},
          {"steps", m.vocab_steps.load()},
          {"escapes", m.vocab_escapes.load()},
          {"misses", m.vocab_misses.load()}};
}

// Null: all experts are in memory, or there are none.
Json experts_of(const ServedModel& served) {
  const text::ExpertStream* const stream = served.model().experts();
  if (stream == nullptr) return nullptr;
  const text::ExpertCounters c = stream->counters();
  return {{"slots", stream->num_slots()},
          {"experts", stream->num_experts()},
          {"slot_bytes", stream->memory_bytes()},
          {"hits", c.hits},
          {"misses", c.misses},
          {"late", c.late},
          {"failures", c.failures},
          {"bytes_read", c.bytes_read},
          {"stall_seconds", c.stall_s}};
}

// The processes that compute, where there are such.
Json workers(const ServedModel& model) {
  Json out = Json::array();
  if (model.isolation() == nullptr) return out;
  for (const isolate::WorkerState& worker : model.isolation()->workers())
    out.push_back({{"role", worker.role},
                   {"pid", worker.pid},
                   {"state", worker.pid != 0 ? "ready" : "starting"},
                   {"restarts", worker.restarts}});
  return out;
}

Json forecast(const PhaseForecast& forecast) {
  const auto ms = [](const std::optional<double>& seconds) {
    return seconds ? Json(*seconds * 1e3) : Json(nullptr);
  };
  return {{"predicted_ttft_ms", ms(forecast.predicted_ttft_s)},
          {"observed_ttft_ms", ms(forecast.observed_ttft_s)},
          {"predicted_tpot_ms", ms(forecast.predicted_tpot_s)},
          {"observed_tpot_ms", ms(forecast.observed_tpot_s)}};
}

std::string valid_utf8(std::string_view bytes) {
  std::string out;
  formats::append_valid_utf8(out, bytes);
  return out;
}

}  // namespace

Json model(const ServedModel& model) {
  const models::LanguageModelConfig& config = model.model().model().config();
  return {{"id", model.name()},
          {"object", "model"},
          {"created", model.created()},
          {"owned_by", "weft"},
          {"meta",
           {{"architecture", config.architecture},
            {"vocab_size", config.vocab_size},
            {"context_length", model.model().context_length()},
            {"weight_bytes", model.model().model().weight_bytes()},
            {"can_chat", model.model().has_chat_template()}}}};
}

Json health(const ModelSet& set) {
  if (const auto error = set.lost()) return {{"status", "failed"}, {"error", error->what()}};
  if (!set.ready()) return {{"status", "loading"}, {"progress", set.progress()}};
  Json out = {{"status", "ok"}}, all = Json::array();
  for (const ServedModel* const each : set.all())
    for (Json& worker : workers(*each)) {
      worker["model"] = each->name();
      all.push_back(std::move(worker));
    }
  if (!all.empty()) out["workers"] = std::move(all);
  return out;
}

Json models(const ModelSet& set) {
  Json data = Json::array();
  for (const ServedModel* const each : set.all()) data.push_back(model(*each));
  return {{"object", "list"}, {"data", std::move(data)}};
}

Json props(const ModelSet& set, const openai::RequestDefaults& defaults) {
  Json out = {{"build", "weft " WEFT_VERSION},
              {"ready", set.ready()},
              {"default_generation_settings", openai::to_json(defaults.sampling)}};
  const std::vector<ServedModel*> all = set.all();
  if (all.empty()) return out;
  const ServedModel& first = *all.front();
  out["model"] = first.name();
  out["context_length"] = first.model().context_length();
  out["executor"] = first.executor().name();
  const std::string_view chat_template = first.model().chat_template_text();
  out["chat_template"] = chat_template;
  out["can_chat"] = first.model().has_chat_template();
  // Without, tools are told of in the system message.
  out["template_takes_tools"] = chat_template.find("tools") != std::string_view::npos;
  const bool tailors = !first.model().vocab_heads().empty();
  out["techniques"] = {{"kv", first.model().memory_plan().kv},
                       {"vocabulary", tailors ? Json(text::name(first.model().vocab_default())) : Json()},
                       {"isolated", first.isolation() != nullptr}};
  return out;
}

Json state(const ModelSet& set) {
  Json out = {{"uptime_s", seconds_up()}, {"ready", set.ready()}};
  const std::vector<ServedModel*> all = set.all();
  if (all.empty()) return out;
  const ServedModel& model = *all.front();
  const PhaseExecutor& executor = model.executor();
  const Metrics& m = executor.metrics();
  const ExecutorState now = executor.state();
  out["model"] = model.name();
  out["executor"] = executor.name();
  out["requests"] = {{"running", running_jobs(model)},
                     {"queued", now.queued},
                     {"finished", m.finished.load()},
                     {"cancelled", m.cancelled.load()},
                     {"failed", m.failed.load()}};
  out["tokens_per_second"] = {{"prompt", m.prompt_rate.per_second()},
                              {"generated", m.generated_rate.per_second()}};
  out["totals"] = {{"prompt_tokens", m.prompt_tokens.load()},
                   {"generated_tokens", m.generated_tokens.load()},
                   {"steps", m.steps.load()},
                   {"preemptions", m.preemptions.load()}};
  const size_t page = kernels::kPageTokens;
  out["kv"] = {{"block_tokens", page},
               {"blocks_total", now.capacity_tokens / page},
               {"blocks_free", now.free_tokens / page},
               {"blocks_used", (now.capacity_tokens - now.free_tokens) / page},
               {"policy", model.model().memory_plan().kv},
               {"bytes",
                {{"16", now.kv.code_bytes[0]},
                 {"8", now.kv.code_bytes[1]},
                 {"4", now.kv.code_bytes[2]},
                 {"2", now.kv.code_bytes[3]},
                 {"metadata", now.kv.meta_bytes},
                 {"blocks", now.kv.block_bytes}}}};
  out["prefix_cache"] = {{"hit_tokens", m.reused_tokens.load()},
                         {"queried_tokens", m.reused_tokens.load() + m.prompt_tokens.load()}};
  if (const Json vocabulary = vocabulary_of(model); !vocabulary.is_null())
    out["vocabulary"] = vocabulary;
  if (const Json experts = experts_of(model); !experts.is_null()) out["experts"] = experts;
  if (now.partition) {
    out["partition"] = {{"name", now.partition->name},
                        {"prefill_cores", now.partition->prefill_cores},
                        {"decode_cores", now.partition->decode_cores},
                        {"moves", now.partition->moves},
                        {"last_decision", now.partition->last_decision}};
    if (now.partition->forecast) out["partition"]["forecast"] = forecast(*now.partition->forecast);
  }
  if (const Json list = workers(model); !list.empty()) out["workers"] = list;
  out["latency"] = {
      {"ttft_ms", latency(m.ttft)}, {"tpot_ms", latency(m.tpot)}, {"gap_ms", latency(m.gap)}};
  return out;
}

std::string metrics(const ModelSet& set) {
  std::string out;
  const auto each = [&](auto print) {
    for (const ServedModel* const model : set.all())
      print(*model, model->executor().metrics(), fmt::format("model=\"{}\"", model->name()));
  };
  const auto counter = [&](const char* name, const char* help, Metrics::Counter Metrics::*which) {
    each([&](const ServedModel&, const Metrics& m, const std::string& labels) {
      print_counter(out, name, help, labels, static_cast<double>((m.*which).load()));
    });
  };
  const auto histogram = [&](const char* name, const char* help, Histogram Metrics::*which) {
    each([&](const ServedModel&, const Metrics& m, const std::string& labels) {
      print_histogram(out, name, help, labels, m.*which);
    });
  };
  const auto gauge = [&](const char* name, const char* help, size_t ExecutorState::*which) {
    each([&](const ServedModel& model, const Metrics&, const std::string& labels) {
      print_gauge(out, name, help, labels, static_cast<double>(model.executor().state().*which));
    });
  };
  counter("weft_requests_total", "Choices of requests taken on.", &Metrics::requests);
  counter("weft_requests_refused_total", "Refused because the queue was full.", &Metrics::refused);
  counter("weft_requests_finished_total", "Answered to the end.", &Metrics::finished);
  counter("weft_requests_cancelled_total", "Cancelled, mostly by clients that left.",
          &Metrics::cancelled);
  counter("weft_requests_failed_total", "Ended by an error.", &Metrics::failed);
  counter("weft_preemptions_total", "Requests that made room in the KV cache for others.",
          &Metrics::preemptions);
  counter("weft_prompt_tokens_total", "Prompt tokens computed.", &Metrics::prompt_tokens);
  counter("weft_prompt_tokens_reused_total", "Prompt tokens found in the KV cache.",
          &Metrics::reused_tokens);
  counter("weft_generated_tokens_total", "Tokens sampled.", &Metrics::generated_tokens);
  counter("weft_steps_total", "Forward passes.", &Metrics::steps);
  counter("weft_vocab_steps_total", "Tokens sampled by requests with a tailored vocabulary.",
          &Metrics::vocab_steps);
  counter("weft_vocab_escapes_total", "Of these, those that looked beyond the set.",
          &Metrics::vocab_escapes);
  counter("weft_vocab_misses_total", "Of those, those whose token was not in the set.",
          &Metrics::vocab_misses);
  each([&](const ServedModel& model, const Metrics&, const std::string& labels) {
    const Json vocabulary = vocabulary_of(model);
    if (vocabulary.is_null()) return;
    print_gauge(out, "weft_vocab_packed_bytes", "Rows of the head that tailored sets share.", labels,
                vocabulary["packed_bytes"].get<double>());
    print_gauge(out, "weft_vocab_sketch_bytes", "The sketch of the head's rows; 0: none was needed.",
                labels, vocabulary["sketch_bytes"].get<double>());
    print_gauge(out, "weft_vocab_whole_head_bytes", "The whole head in memory; 0: in its file.",
                labels, vocabulary["whole_head_packed_bytes"].get<double>());
  });
  each([&](const ServedModel& model, const Metrics&, const std::string& labels) {
    const Json experts = experts_of(model);
    if (experts.is_null()) return;
    const auto count = [&](const char* name, const char* help, const char* key) {
      print_counter(out, name, help, labels, experts[key].get<double>());
    };
    print_gauge(out, "weft_expert_slots", "Experts that memory holds.", labels,
                experts["slots"].get<double>());
    print_gauge(out, "weft_experts", "Routed experts of the model.", labels,
                experts["experts"].get<double>());
    count("weft_expert_hits_total", "Experts that were in memory when a layer first asked.", "hits");
    count("weft_expert_misses_total", "Experts that had to be read.", "misses");
    count("weft_expert_late_total", "Of those read, those that a layer had to wait for.", "late");
    count("weft_expert_failures_total", "Reads of experts that failed twice.", "failures");
    count("weft_expert_read_bytes_total", "Bytes read for experts.", "bytes_read");
    count("weft_expert_stall_seconds_total", "Time that forward passes waited for experts.",
          "stall_seconds");
  });
  const ResidentMemory memory = resident_memory();
  print_gauge(out, "weft_memory_anonymous_bytes", "Resident memory of the process's own.", "",
              static_cast<double>(memory.anonymous_bytes));
  print_gauge(out, "weft_memory_file_bytes", "Resident pages of mapped files.", "",
              static_cast<double>(memory.file_bytes));
  gauge("weft_requests_queued", "Waiting for their first step.", &ExecutorState::queued);
  gauge("weft_requests_running", "In prefill or decode.", &ExecutorState::running);
  gauge("weft_kv_capacity_tokens", "Tokens that the KV cache holds.",
        &ExecutorState::capacity_tokens);
  gauge("weft_kv_free_tokens", "Tokens of the KV cache that are free.", &ExecutorState::free_tokens);
  each([&](const ServedModel& model, const Metrics&, const std::string& labels) {
    const text::KvUsage kv = model.executor().state().kv;
    const char* const widths[] = {"16", "8", "4", "2"};
    for (size_t i = 0; i < kv.code_bytes.size(); ++i)
      print_gauge(out, "weft_kv_code_bytes", "Keys and values of requests, by their bits.",
                  fmt::format("{},bits=\"{}\"", labels, widths[i]),
                  static_cast<double>(kv.code_bytes[i]));
    print_gauge(out, "weft_kv_metadata_bytes", "Steps and minima of narrow keys and values.", labels,
                static_cast<double>(kv.meta_bytes));
    print_gauge(out, "weft_kv_block_bytes", "Blocks of the KV cache that requests hold.", labels,
                static_cast<double>(kv.block_bytes));
  });
  const auto partition = [&](const char* name, const char* help, auto value) {
    each([&](const ServedModel& model, const Metrics&, const std::string& labels) {
      const ExecutorState state = model.executor().state();
      if (state.partition) print_gauge(out, name, help, labels, value(*state.partition));
    });
  };
  partition("weft_prefill_cores", "Cores that prefill may use, duty counted.",
            [](const PartitionState& p) { return p.prefill_cores; });
  partition("weft_decode_cores", "Cores that decode may use, duty counted.",
            [](const PartitionState& p) { return p.decode_cores; });
  partition("weft_partition_moves", "Changes of the partition.",
            [](const PartitionState& p) { return static_cast<double>(p.moves); });
  const auto forecast_of = [&](const char* name, const char* help,
                               std::optional<double> PhaseForecast::*which) {
    each([&](const ServedModel& model, const Metrics&, const std::string& labels) {
      const ExecutorState state = model.executor().state();
      if (!state.partition || !state.partition->forecast) return;
      if (const auto seconds = (*state.partition->forecast).*which)
        print_gauge(out, name, help, labels, *seconds);
    });
  };
  forecast_of("weft_ttft_predicted_seconds",
              "Time to the first token at the SLO's percentile, as predicted for the last window.",
              &PhaseForecast::predicted_ttft_s);
  forecast_of("weft_ttft_observed_seconds", "The same, as it was.",
              &PhaseForecast::observed_ttft_s);
  forecast_of("weft_tpot_predicted_seconds",
              "Time per token at the SLO's percentile, as predicted for the last window.",
              &PhaseForecast::predicted_tpot_s);
  forecast_of("weft_tpot_observed_seconds", "The same, as it was.",
              &PhaseForecast::observed_tpot_s);
  each([&](const ServedModel& model, const Metrics&, const std::string& labels) {
    if (model.isolation() == nullptr) return;
    for (const isolate::WorkerState& worker : model.isolation()->workers()) {
      const std::string its = fmt::format("{},worker=\"{}\"", labels, worker.role);
      print_counter(out, "weft_worker_restarts_total", "Times that a dead worker was replaced.",
                    its, static_cast<double>(worker.restarts));
      print_gauge(out, "weft_worker_ready", "Whether the worker process can compute.", its,
                  worker.pid != 0 ? 1 : 0);
    }
  });
  histogram("weft_queue_seconds", "Arrival to the first step.", &Metrics::queue);
  histogram("weft_time_to_first_token_seconds", "Arrival to the first token.", &Metrics::ttft);
  histogram("weft_time_per_output_token_seconds", "Mean gap of a request's later tokens.",
            &Metrics::tpot);
  histogram("weft_token_gap_seconds", "Every gap between two tokens of a request.", &Metrics::gap);
  histogram("weft_request_seconds", "Arrival to the end.", &Metrics::e2e);
  return out;
}

Json tokenize(const Json& body, const text::TextModel& model) {
  const Fields fields(body);
  const std::string text = fields.need_string("content");
  const formats::EncodeOptions options{
      .add_special = fields.boolean("add_special").value_or(false),
      .parse_special = fields.boolean("parse_special").value_or(true)};
  const bool with_pieces = fields.boolean("with_pieces").value_or(false);
  Json tokens = Json::array();
  for (const text::Token token : model.tokenizer().encode(text, options)) {
    if (with_pieces)
      tokens.push_back(
          {{"id", token}, {"piece", valid_utf8(model.tokenizer().piece(token, true))}});
    else
      tokens.push_back(token);
  }
  return {{"tokens", std::move(tokens)}};
}

Json detokenize(const Json& body, const text::TextModel& model) {
  const Fields fields(body);
  if (fields.array("tokens") == nullptr)
    throw openai::ApiError(400, "'tokens' is missing", "tokens", "missing_required_parameter");
  if (fields.array("tokens")->empty()) return {{"content", ""}};
  const openai::PromptList list = openai::parse_prompts(fields, "tokens", model, 1);
  return {{"content", valid_utf8(list.texts.front())}};
}

}  // namespace weft::serve::views
