// Drills: whatever happens to the processes that compute, clients see the answers of a quiet
// server.
#include "serve/isolate/isolation.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <thread>

#include "base/random.h"
#include "serve/isolate/trouble.h"
#include "serve/isolate/worker_main.h"
#include "serve/test_jobs.h"
#include "serve/views.h"

extern char** environ;

namespace weft::serve::isolate {
namespace {

// Deaths never end the service, where a test brings about many.
IsolationOptions many_deaths() { return {.max_deaths = 1000}; }

TestModelOptions isolated(std::optional<std::string> partition,
                          const IsolationOptions& options = many_deaths()) {
  return {
      .executor = {.chunk_tokens = 16}, .partition = std::move(partition), .isolation = options};
}

const std::optional<std::string> kPartitions[] = {std::nullopt, "1:1", "2/2:0.35", "2/2:free",
                                                  "unified"};

// Of the plain server, one after another.
const std::vector<Answer>& answers_alone(size_t count) {
  static std::vector<Answer> answers;
  static const auto served = serve_test_model();
  while (answers.size() < count) {
    const auto job = make_jobs(answers.size() + 1).back();
    served->submit(job);
    answers.push_back(collect(*job));
  }
  return answers;
}

void expect_same(const std::vector<Answer>& answers) {
  const std::vector<Answer>& alone = answers_alone(answers.size());
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_FALSE(answers[i].error) << "request " << i << ": " << answers[i].error->what();
    EXPECT_EQ(answers[i].tokens, alone[i].tokens) << "request " << i;
    EXPECT_EQ(answers[i].logprobs, alone[i].logprobs) << "request " << i;
  }
}

void expect_all_room_back(const ServedModel& served) {
  const Clock::time_point deadline = Clock::now() + kLong;
  const auto pool = served.isolation()->pool();
  while (pool->free_tokens() != pool->capacity_tokens() && Clock::now() < deadline)
    std::this_thread::yield();
  EXPECT_EQ(pool->free_tokens(), pool->capacity_tokens()) << "a block was lost";
  EXPECT_EQ(pool->audit(), "");
}

uint64_t restarts(const ServedModel& served) {
  uint64_t sum = 0;
  for (const WorkerState& worker : served.isolation()->workers()) sum += worker.restarts;
  return sum;
}

template <typename Condition>
bool await_that(const Condition& condition) {
  const Clock::time_point deadline = Clock::now() + kLong;
  while (!condition()) {
    if (Clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

TEST(isolate, answers_are_the_same) {
  for (const auto& partition : kPartitions) {
    SCOPED_TRACE(partition.value_or("one worker"));
    const auto served = serve_test_model(isolated(partition));
    const auto jobs = make_jobs(kSlow ? 8 : 24);
    for (const auto& job : jobs) served->submit(job);
    expect_same(collect_all(jobs));
    expect_all_room_back(*served);
    EXPECT_EQ(restarts(*served), 0u);
  }
}

TEST(isolate, embeddings_and_scores_are_the_same) {
  const auto plain = serve_test_model();
  std::vector<text::Token> tokens;
  for (size_t i = 0; i < 200; ++i) tokens.push_back(static_cast<text::Token>(i * 13 % 200));
  for (const auto& partition : {kPartitions[0], kPartitions[1]}) {
    const auto served = serve_test_model(isolated(partition));
    const auto job = make_job(1, 100, 40);  // beside it
    served->submit(job);
    EXPECT_EQ(served->embed(tokens), plain->embed(tokens));
    EXPECT_EQ(served->embed({tokens.data(), 3}), plain->embed({tokens.data(), 3}));
    const auto scores = served->score(tokens, 2), expected = plain->score(tokens, 2);
    ASSERT_EQ(scores.size(), expected.size());
    for (size_t i = 0; i < scores.size(); ++i) EXPECT_EQ(scores[i].logprob, expected[i].logprob);
    EXPECT_EQ(collect(*job).tokens.size(), 40u);
  }
}

// Whether every request that runs has got on since this was made, or does not run any more.
class Progress {
 public:
  explicit Progress(const ServedModel& served) {
    for (const auto& job : served.jobs())
      if (runs(*job)) were_.emplace_back(job, done(*job));
  }
  bool all() const {
    return std::none_of(were_.begin(), were_.end(), [](const auto& was) {
      return runs(*was.first) && done(*was.first) == was.second;
    });
  }

 private:
  static bool runs(const Job& job) {
    return job.phase.load() == JobPhase::kPrefill || job.phase.load() == JobPhase::kDecode;
  }
  static size_t done(const Job& job) { return job.prompt_done.load() + job.generated.load(); }
  std::vector<std::pair<std::shared_ptr<const Job>, size_t>> were_;
};

// Sends `signal` to a random worker at random moments, up to so many times, while requests run.
void harass(const TestModelOptions& options, int signal, uint64_t times, size_t num_jobs) {
  const auto served = serve_test_model(options);
  std::atomic<bool> done{false};
  std::atomic<uint64_t> hits{0};
  std::thread killer([&] {
    while (hits.load() < times && !done.load()) {
      const PhiloxCounter random =
          philox4x32({static_cast<uint32_t>(hits.load()), 0, 0, 0}, {7, 9});
      // Not before the step that the last one hit has been computed again: a request that is hit
      // twice in the same step is given up.
      const Progress progress(*served);
      const uint64_t steps = served->executor().metrics().steps.load() + 3 + random[0] % 8;
      if (!await_that([&] {
            return done.load() ||
                   (served->executor().metrics().steps.load() >= steps && progress.all());
          }))
        return;
      const std::vector<WorkerState> workers = served->isolation()->workers();
      const pid_t pid = workers[random[1] % workers.size()].pid;
      if (pid == 0) continue;
      const uint64_t count = restarts(*served);
      for (uint32_t i = 0; i < random[2] % 20; ++i) std::this_thread::yield();
      if (done.load() || kill(pid, signal) != 0) continue;
      hits.fetch_add(1);
      if (!await_that([&] { return done.load() || restarts(*served) != count; })) return;
    }
  });
  const Clock::time_point deadline = Clock::now() + kLong;
  do {  // a busy machine may not let the killer run before it is over
    const auto jobs = make_jobs(num_jobs);
    for (const auto& job : jobs) served->submit(job);
    expect_same(collect_all(jobs));
  } while (hits.load() == 0 && Clock::now() < deadline);
  done.store(true);
  killer.join();
  EXPECT_TRUE(await_that([&] { return restarts(*served) != 0; })) << "nobody was hit";
  expect_all_room_back(*served);
}

TEST(crash, killed_at_random_moments) {
  for (const auto& partition : kPartitions) {
    SCOPED_TRACE(partition.value_or("one worker"));
    harass(isolated(partition), SIGKILL, kSlow ? 3 : 12, kSlow ? 12 : 48);
  }
}

TEST(crash, a_hang_is_a_death) {
  IsolationOptions options = many_deaths();
  options.silence = std::chrono::seconds(kSlow ? 3 : 1);
  for (const auto& partition : {kPartitions[0], kPartitions[1], kPartitions[2]}) {
    SCOPED_TRACE(partition.value_or("one worker"));
    harass(isolated(partition, options), SIGSTOP, 1, kSlow ? 12 : 48);
  }
}

// One that dies while nobody computes is replaced too.
TEST(crash, idle) {
  for (const auto& partition : {kPartitions[0], kPartitions[1]}) {
    const auto served = serve_test_model(isolated(partition));
    for (const WorkerState& worker : served->isolation()->workers()) kill(worker.pid, SIGKILL);
    const size_t count = served->isolation()->workers().size();
    ASSERT_TRUE(await_that([&] { return restarts(*served) == count; }));
    const auto jobs = make_jobs(8);
    for (const auto& job : jobs) served->submit(job);
    expect_same(collect_all(jobs));
  }
}

// A request that brings down every worker that computes it fails alone.
TEST(crash, poison) {
  for (const models::Token token : {kCrashToken, kStrayStoreToken})
    for (const auto& partition : {kPartitions[0], kPartitions[1]}) {
      SCOPED_TRACE(partition.value_or("one worker"));
      const auto served = serve_test_model(isolated(partition));
      auto jobs = make_jobs(12);
      const auto poison = make_job(0, 60, 20);
      poison->decode.prompt[33] = token;
      for (size_t i = 0; i < jobs.size(); ++i) {
        if (i == 6) served->submit(poison);
        served->submit(jobs[i]);
      }
      const Answer failed = collect(*poison);
      ASSERT_TRUE(failed.error);
      EXPECT_EQ(failed.error->kind(), ErrorKind::kPeerLost);
      EXPECT_EQ(http_status(failed.error->kind()), 500);
      expect_same(collect_all(jobs));
      EXPECT_EQ(restarts(*served), 2u);
      expect_all_room_back(*served);
    }
}

TEST(crash, a_poisoned_embedding_fails_alone) {
  const auto served = serve_test_model(isolated("1:1"));
  const std::vector<text::Token> tokens = {1, kCrashToken, 2}, good = {1, 2, 3};
  try {
    served->embed(tokens);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kPeerLost);
  }
  EXPECT_EQ(served->embed(good), serve_test_model()->embed(good));
}

TEST(crash, three_in_a_minute_end_the_service) {
  for (const auto& partition : {kPartitions[0], kPartitions[1]}) {
    SCOPED_TRACE(partition.value_or("one worker"));
    ModelSet models;
    models.add(serve_test_model(isolated(partition, IsolationOptions{})));
    models.set_ready();
    ServedModel& served = *models.all().front();
    EXPECT_EQ(views::health(models)["status"], "ok");
    EXPECT_EQ(views::health(models)["workers"].size(), partition ? 2u : 1u);
    std::vector<std::shared_ptr<Job>> jobs;
    for (size_t i = 0; i < 4; ++i) {
      jobs.push_back(make_job(i, 20, 100));
      jobs.back()->decode.prompt[7] = kCrashToken;
      served.submit(jobs.back());
    }
    for (const auto& job : jobs) EXPECT_TRUE(collect(*job).error);
    ASSERT_TRUE(models.lost());
    EXPECT_EQ(models.lost()->kind(), ErrorKind::kPeerLost);
    EXPECT_EQ(views::health(models)["status"], "failed");
    // What still comes ends with an error too, and does not hang.
    const auto late = make_job(1, 20, 10);
    served.submit(late);
    EXPECT_TRUE(collect(*late).error);
  }
}

TEST(crash, deaths_of_long_ago_do_not_count) {
  IsolationOptions options;
  options.max_deaths = 2;
  options.death_window = std::chrono::nanoseconds(1);
  const auto served = serve_test_model(isolated(std::nullopt, options));
  for (uint64_t i = 0; i < 4; ++i) {
    kill(served->isolation()->workers().front().pid, SIGKILL);
    ASSERT_TRUE(await_that([&] { return restarts(*served) == i + 1; }));
  }
  EXPECT_FALSE(served->isolation()->lost());
}

// ---- starting

std::unique_ptr<Isolation> isolate_test_model(const IsolationOptions& options) {
  auto weights = std::make_unique<SharedWeights>();
  const auto model = load_test_model({.context = 256, .weights = &weights->arena});
  return std::make_unique<Isolation>(*model, std::move(weights), options);
}

void expect_no_start(const IsolationOptions& options, ErrorKind kind, const std::string& says) {
  try {
    isolate_test_model(options);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
  }
}

TEST(isolate, a_worker_that_cannot_start_says_why) {
  expect_no_start({.model = "/nowhere/model.gguf"}, ErrorKind::kNotFound, "/nowhere/model.gguf");
  // Another model than the one whose weights are there.
  const auto other = std::filesystem::path(testing::TempDir()) /
                     ("weft_isolate_" + std::to_string(getpid()) + ".gguf");
  std::ofstream(other) << "GGUF and no more";
  expect_no_start({.model = other}, ErrorKind::kUnsupported, other.string());
  std::filesystem::remove(other);
  expect_no_start({.model = test_model_path(), .kv_format = kernels::KvFormat::kInt8},
                  ErrorKind::kUnsupported, "in 16 bit");
  expect_no_start({.model = test_model_path(), .command = {"/bin/false", "false"}},
                  ErrorKind::kPeerLost, "ended with exit code 1 before it was ready");
  expect_no_start({.model = test_model_path(), .command = {"/nowhere/weft", "weft"}},
                  ErrorKind::kOutOfResources, "/nowhere/weft");
}

TEST(isolate, what_workers_do_not_know_is_refused) {
  const auto refused = [](text::TextModelOptions loading, bool tailor) {
    auto weights = std::make_unique<SharedWeights>();
    loading.weights = &weights->arena;
    loading.context = 256;
    const auto model = load_test_model(loading);
    if (tailor) model->add_vocab_head(nullptr, CoreSet());
    try {
      const Isolation isolation(*model, std::move(weights), {.model = test_model_path()});
      return std::string("no error");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
      return std::string(error.what());
    }
  };
  text::TextModelOptions narrow;
  narrow.kv = {.mode = text::KvMode::kDirect, .widths = {4, 4}};
  EXPECT_NE(refused(narrow, false).find("16 bit"), std::string::npos);
  EXPECT_NE(refused({}, true).find("whole vocabulary"), std::string::npos);
}

TEST(isolate, a_model_that_changes_is_noticed) {
  const auto copy = std::filesystem::path(testing::TempDir()) /
                    ("weft_isolate_copy_" + std::to_string(getpid()) + ".gguf");
  std::filesystem::copy_file(test_model_path(), copy);
  const auto isolation = isolate_test_model({.model = copy, .max_deaths = 2});
  std::ofstream(copy, std::ios::app) << "more";
  kill(isolation->workers().front().pid, SIGKILL);
  ASSERT_TRUE(await_that([&] { return isolation->lost().has_value(); }));
  EXPECT_NE(std::string(isolation->lost()->what()).find("has changed"), std::string::npos)
      << isolation->lost()->what();
  std::filesystem::remove(copy);
}

bool runs(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(stat, line)) return false;
  return line[line.rfind(')') + 2] != 'Z';  // dead, and nobody has asked how
}

TEST(crash, workers_end_with_the_front) {
  int out[2];
  ASSERT_EQ(pipe2(out, O_CLOEXEC), 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  std::string program = "front", role(kFrontRole);
  char* const argv[] = {program.data(), role.data(), nullptr};
  pid_t front = 0;
  ASSERT_EQ(posix_spawn(&front, "/proc/self/exe", &actions, nullptr, argv, environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  close(out[1]);
  std::FILE* const lines = fdopen(out[0], "r");
  pid_t workers[2] = {0, 0};
  ASSERT_EQ(std::fscanf(lines, "%d %d", &workers[0], &workers[1]), 2);
  std::fclose(lines);
  for (const pid_t worker : workers) EXPECT_TRUE(runs(worker));
  kill(front, SIGKILL);
  ASSERT_EQ(waitpid(front, nullptr, 0), front);
  for (const pid_t worker : workers) EXPECT_TRUE(await_that([worker] { return !runs(worker); }));
}

}  // namespace
}  // namespace weft::serve::isolate
