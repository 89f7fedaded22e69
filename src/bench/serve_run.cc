#include "bench/serve_run.h"

#include <fcntl.h>
#include <httplib.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/random.h"
#include "base/seconds.h"
#include "serve/served_model.h"

namespace weft::bench {
namespace {

using serve::Clock;

Clock::time_point after(Clock::time_point start, double seconds) {
  return start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

double process_cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

void sleep_until(Clock::time_point time, StopToken stop) {
  while (Clock::now() < time) {
    stop.throw_if_stopped();
    std::this_thread::sleep_until(std::min(time, Clock::now() + std::chrono::milliseconds(200)));
  }
}

// Beyond this nobody waits for an answer: the rest is abandoned, and counts as missed.
double patience_s(double span_s) { return 3 * span_s + 60; }

}  // namespace

std::vector<int32_t> random_prompt(size_t request, size_t tokens, size_t vocab_size, uint64_t seed) {
  std::vector<int32_t> out(tokens);
  for (size_t t = 0; t < tokens; ++t)
    out[t] = static_cast<int32_t>(uniform(seed + 77, request, static_cast<uint32_t>(t)) *
                                  static_cast<double>(vocab_size - vocab_size / 20)) +
             static_cast<int32_t>(vocab_size / 20);  // control tokens are among the first
  return out;
}

LoadOutcome run_in_process(serve::PhaseExecutor& executor, const std::vector<LoadRequest>& load,
                           size_t vocab_size, uint64_t seed, StopToken stop) {
  auto answers = std::make_shared<serve::AnswerQueue>();
  std::vector<std::shared_ptr<serve::Job>> jobs;
  for (size_t i = 0; i < load.size(); ++i) {
    auto& job = jobs.emplace_back(std::make_shared<serve::Job>());
    job->id = serve::new_request_id();
    job->choice = i;
    job->decode.prompt = random_prompt(i, load[i].prompt_tokens, vocab_size, seed);
    job->decode.sampling.temperature = 0;
    job->decode.max_tokens = load[i].answer_tokens;
    job->prompt_tokens = load[i].prompt_tokens;
    job->stop_at_end = false;
    job->answers = answers;
  }
  LoadOutcome outcome;
  outcome.requests.resize(load.size());
  outcome.span_s = load.back().arrival_s;
  std::vector<serve::AnswerEvent> events;
  size_t open = 0;
  const auto drain = [&](std::chrono::milliseconds patience) {
    answers->wait(events, patience);
    for (const serve::AnswerEvent& event : events) {
      if (!event.finished) continue;
      --open;
      const serve::Job& job = *jobs[event.choice];
      RequestOutcome& r = outcome.requests[event.choice];
      r.answered = !event.error && event.finished == text::FinishReason::kLength;
      r.tokens = job.generated.load();
      r.ttft_s = job.first_token_s.load();
      if (r.tokens > 1)
        r.tpot_s = (job.last_token_s.load() - r.ttft_s) / static_cast<double>(r.tokens - 1);
      r.longest_gap_s = job.longest_gap_s.load();
    }
  };
  const double cpu = process_cpu_seconds();
  const Clock::time_point start = Clock::now();
  for (size_t i = 0; i < load.size(); ++i) {
    sleep_until(after(start, load[i].arrival_s), stop);
    jobs[i]->arrival = after(start, load[i].arrival_s);
    try {
      executor.submit(jobs[i]);
      ++open;
    } catch (const Error&) {  // refused: a miss
    }
    drain(std::chrono::milliseconds(0));
  }
  bool abandoned = false;
  while (open != 0) {
    if (!abandoned && (stop.stop_requested() ||
                       seconds_since(start) > patience_s(outcome.span_s))) {
      abandoned = true;
      for (const auto& job : jobs) job->cancelled.store(true);
      executor.wake();
    }
    drain(std::chrono::milliseconds(100));
  }
  stop.throw_if_stopped();
  outcome.seconds = seconds_since(start);
  outcome.cpu_seconds = process_cpu_seconds() - cpu;
  return outcome;
}

LoadOutcome run_over_http(int port, const std::vector<LoadRequest>& load, size_t vocab_size,
                          uint64_t seed, StopToken stop) {
  LoadOutcome outcome;
  outcome.requests.resize(load.size());
  outcome.span_s = load.back().arrival_s;
  const double cpu = process_cpu_seconds();
  const Clock::time_point start = Clock::now();
  const double patience = patience_s(outcome.span_s);

  const auto ask = [&](size_t i) {
    RequestOutcome& r = outcome.requests[i];
    const nlohmann::json body = {
        {"prompt", random_prompt(i, load[i].prompt_tokens, vocab_size, seed)},
        {"max_tokens", load[i].answer_tokens},
        {"temperature", 0},
        {"ignore_eos", true},
        {"cache_prompt", false},
        {"stream", true}};
    httplib::Client client("127.0.0.1", port);
    client.set_read_timeout(static_cast<time_t>(patience));
    const Clock::time_point arrival = after(start, load[i].arrival_s);
    std::string line;
    bool done = false;
    double first = -1, last = 0;
    const auto event = [&](const std::string& text) {
      if (text.starts_with("data: [DONE]")) done = true;
      if (!text.starts_with("data: {")) return;
      const auto json = nlohmann::json::parse(text.substr(6), nullptr, false);
      if (!json.is_object() || !json.contains("choices") || json["choices"].empty()) return;
      const auto& choice = json["choices"][0];
      const std::string piece = choice.value("text", std::string());
      if (piece.empty()) return;
      r.text += piece;
      const double now = seconds_since(arrival);
      if (first < 0)
        first = now;
      else
        r.longest_gap_s = std::max(r.longest_gap_s, now - last);
      last = now;
    };
    httplib::Request request;
    request.method = "POST";
    request.path = "/v1/completions";
    request.headers = {{"Content-Type", "application/json"}};
    request.body = body.dump();
    request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
      for (const char c : std::string_view(data, size)) {
        if (c != '\n') {
          line += c;
          continue;
        }
        event(line);
        line.clear();
      }
      return !stop.stop_requested() && seconds_since(start) < patience;
    };
    const auto response = client.send(request);
    r.answered = response && response->status == 200 && done && first >= 0;
    r.tokens = load[i].answer_tokens;
    r.ttft_s = first;
    if (r.tokens > 1) r.tpot_s = (last - first) / static_cast<double>(r.tokens - 1);
  };

  std::vector<std::thread> threads;
  try {
    for (size_t i = 0; i < load.size(); ++i) {
      sleep_until(after(start, load[i].arrival_s), stop);
      threads.emplace_back(ask, i);
    }
  } catch (...) {
    for (std::thread& thread : threads) thread.join();
    throw;
  }
  for (std::thread& thread : threads) thread.join();
  stop.throw_if_stopped();
  outcome.seconds = seconds_since(start);
  outcome.cpu_seconds = process_cpu_seconds() - cpu;
  return outcome;
}

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  int port = 0;
  if (fd >= 0 && ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0)
    port = ntohs(address.sin_port);
  if (fd >= 0) ::close(fd);
  if (port == 0) fail(ErrorKind::kIo, "no port is free on 127.0.0.1");
  return port;
}

ServerProcess::ServerProcess(const std::vector<std::string>& command, int port, StopToken stop) {
  std::vector<char*> arguments;
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t quiet;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
  const int failed = posix_spawn(&pid_, arguments[0], &quiet, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&quiet);
  if (failed != 0) fail(ErrorKind::kNotFound, "{} cannot be started", command[0]);
  constexpr double kPatience = 120;
  const Clock::time_point start = Clock::now();
  while (seconds_since(start) < kPatience && !stop.stop_requested()) {
    httplib::Client client("127.0.0.1", port);
    const auto response = client.Get("/health");
    if (response && response->status == 200) return;
    if (waitpid(pid_, nullptr, WNOHANG) == pid_)
      fail(ErrorKind::kInvalidInput, "{} ended instead of listening on port {}", command[0], port);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  stop.throw_if_stopped();
  fail(ErrorKind::kTimeout, "{} was not ready after {} s", command[0], kPatience);
}

ServerProcess::~ServerProcess() {
  ::kill(pid_, SIGTERM);
  for (int i = 0; i < 100; ++i) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

std::string fetch_metrics(int port) {
  httplib::Client client("127.0.0.1", port);
  const auto response = client.Get("/metrics");
  if (!response || response->status != 200)
    fail(ErrorKind::kIo, "the server on port {} gives no /metrics", port);
  return response->body;
}

std::optional<double> metric_value(std::string_view metrics, std::string_view name) {
  for (size_t at = 0; at < metrics.size();) {
    const size_t end = std::min(metrics.find('\n', at), metrics.size());
    const std::string_view line = metrics.substr(at, end - at);
    at = end + 1;
    if (!line.starts_with(name)) continue;
    const std::string_view labels = line.substr(name.size());
    if (!labels.starts_with('{') && !labels.starts_with(' ')) continue;  // a longer name
    const std::string_view number = line.substr(line.rfind(' ') + 1);
    double value = 0;
    if (std::from_chars(number.data(), number.data() + number.size(), value).ec == std::errc())
      return value;
  }
  return std::nullopt;
}

double attainment(const LoadOutcome& outcome, const Slo& slo) {
  const auto met = std::count_if(
      outcome.requests.begin(), outcome.requests.end(), [&](const RequestOutcome& r) {
        return r.answered && r.ttft_s <= slo.ttft_s && r.tpot_s <= slo.tpot_s;
      });
  return static_cast<double>(met) / static_cast<double>(outcome.requests.size());
}

double goodput(const LoadOutcome& outcome, const Slo& slo) {
  return attainment(outcome, slo) * static_cast<double>(outcome.requests.size()) / outcome.span_s;
}

double quantile(const LoadOutcome& outcome, double RequestOutcome::*value, double p) {
  std::vector<double> values;
  for (const RequestOutcome& r : outcome.requests)
    if (r.answered) values.push_back(r.*value);
  if (values.empty()) return 0;
  const double rank = std::ceil(p * static_cast<double>(values.size())) - 1;
  const auto at = values.begin() + static_cast<ptrdiff_t>(std::max(0.0, rank));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace weft::bench
