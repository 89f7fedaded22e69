// `weft train` as a user runs it: it learns lines by heart, is killed, goes on, and what it leaves
// recites them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/file.h"
#include "tests/process.h"
#include "train/snapshot.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Folder {
  fs::path path =
      fs::path(::testing::TempDir()) / ("weft_train_program_" + std::to_string(getpid()));
  Folder() {
    fs::create_directories(path);
    std::ofstream data(path / "lines.jsonl");
    for (int i = 0; i < 8; ++i)
      data << ordered_json{{"prompt", "line " + std::to_string(i) + " says"},
                           {"completion", " " + answer(i)}}
                  .dump()
           << "\n";
  }
  ~Folder() { fs::remove_all(path); }
  static std::string answer(int i) {
    return std::to_string(i * 7 % 8) + " and " + std::to_string(i * 3 % 8) + " and no more";
  }
  fs::path config(const std::string& run, ordered_json changes = ordered_json::object()) const {
    ordered_json config = {
        {"out", (path / run).string()},
        {"tokenizer", WEFT_SOURCE_DIR "/tests/data/hf_tokenizer/smollm"},
        {"data", (path / "lines.jsonl").string()},
        {"context", 64},
        {"batch_tokens", 256},
        {"steps", 300},
        {"lr", 2e-3},
        {"warmup", 0.1},
        {"schedule", "wsd"},
        {"weight_decay", 0},
        {"device", "cpu"},
        {"gguf", "f32"},
        {"model", {{"num_hidden_layers", 2}, {"hidden_size", 64}, {"intermediate_size", 96}}}};
    config.update(changes);
    std::ofstream(path / (run + ".json")) << config.dump();
    return path / (run + ".json");
  }
};

// Killed as soon as its third checkpoint is there, resumed, it ends with the bits of a run that
// nobody killed.
TEST(train_program, kill_9_loses_nothing_but_the_steps_since_the_last_checkpoint) {
  const Folder folder;
  const ordered_json often = {{"steps", 30}, {"checkpoint_every", 1}};
  ASSERT_EQ(run_weft({"train", "lm", folder.config("whole", often).string()}).exit_code, 0);

  const std::string config = folder.config("killed", often).string(), program = WEFT_PROGRAM;
  std::vector<std::string> words = {program, "train", "lm", config};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t quiet;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  ASSERT_EQ(posix_spawn(&child, program.c_str(), &quiet, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&quiet);
  while (!fs::exists(train::checkpoint_path(folder.path / "killed", 3)) &&
         waitpid(child, nullptr, WNOHANG) == 0)
    std::this_thread::yield();
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status)) << "it was done before it could be killed";

  const Finished resumed = run_weft({"train", "lm", config, "--resume"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("going on after step"), std::string::npos);
  for (const char* file : {"model/model.safetensors", "model.gguf"})
    EXPECT_EQ(read_file(folder.path / "killed" / file), read_file(folder.path / "whole" / file))
        << file;
}

// While it lives, no file that we or our children write grows beyond `bytes`: a write fails as on a
// full disk.
class FullDisk {
 public:
  explicit FullDisk(size_t bytes) {
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FullDisk() { setrlimit(RLIMIT_FSIZE, &before_); }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;

 private:
  rlimit before_{};
};

// Best weights take 4 bytes a parameter, a checkpoint 12, the model 2: there is room for the model
// alone. What is lost are files, not steps: the model is that of the last weights, which are better
// than the best that could be kept, and with room again the run goes on from its last checkpoint.
TEST(train_program, a_full_disk_costs_what_could_not_be_written_and_not_the_run) {
  const Folder folder;
  const auto train = [&](size_t steps, const char* resume) {
    const fs::path config = folder.config("run", {{"steps", steps},
                                                  {"schedule", "constant"},
                                                  {"warmup", 0},
                                                  {"gguf", "none"},
                                                  {"checkpoint_every", 10},
                                                  {"eval", (folder.path / "lines.jsonl").string()},
                                                  {"eval_every", 10}});
    std::vector<std::string> arguments = {"train", "lm", config.string()};
    if (resume != nullptr) arguments.emplace_back(resume);
    return run_weft(arguments);
  };
  const fs::path run = folder.path / "run";
  const Finished first = train(10, nullptr);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const std::string best = read_file(run / "best.weft");
  {
    const FullDisk disk(best.size() * 3 / 4);
    const Finished full = train(30, "--resume");
    ASSERT_EQ(full.exit_code, 0) << full.err;
    for (const char* line :
         {"no best weights at step 20: ", "no best weights at step 30: ",
          "no checkpoint at step 20: ", "no checkpoint at step 30: ", "weights of step 30"})
      EXPECT_NE(full.err.find(line), std::string::npos) << line << "\n" << full.err;
  }
  EXPECT_EQ(read_file(run / "best.weft"), best) << "those of step 10 are still there";
  for (const auto& entry : fs::recursive_directory_iterator(run))
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
  const std::string model = read_file(run / "model/model.safetensors");

  const Finished again = train(30, "--resume");
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_NE(again.err.find("going on after step 10"), std::string::npos) << again.err;
  EXPECT_EQ(read_file(run / "model/model.safetensors"), model);
  EXPECT_EQ(train::read_snapshot(run / "best.weft").state.at("step"), 30);
}

TEST(train_program, what_was_learnt_by_heart_is_recited) {
  const Folder folder;
  ASSERT_EQ(run_weft({"train", "lm", folder.config("run").string()}).exit_code, 0);
  for (const char* model : {"run/model", "run/model.gguf"})
    for (const int line : {0, 3, 7}) {
      const Finished answer =
          run_weft({"generate", "--model", (folder.path / model).string(), "--raw", "--temp", "0",
                    "line " + std::to_string(line) + " says"});
      EXPECT_NE(answer.out.find(Folder::answer(line)), std::string::npos)
          << answer.out << answer.err;
    }
}

TEST(train_program, bad_input_is_one_line) {
  const Folder folder;
  std::ofstream(folder.path / "bad.jsonl") << "{\"text\": \"a b c\"}\n{\"txt\": 1}\n";
  const struct {
    std::vector<std::string> arguments;
    std::string expected;
  } kCases[] = {
      {{"train"}, "See 'weft train --help'"},
      {{"train", "lm"}, "no config given"},
      {{"train", "lm", "/no/such.json"}, "/no/such.json"},
      {{"train", "lm", folder.config("a", {{"step", 3}}).string()}, "The nearest is 'steps'"},
      {{"train", "lm", folder.config("b", {{"data", "/no/data.txt"}}).string()}, "/no/data.txt"},
      {{"train", "lm",
        folder.config("c", {{"data", (folder.path / "bad.jsonl").string()}}).string()},
       "bad.jsonl:2: holds neither"},
      {{"train", "lm", folder.config("d", {{"tokenizer", "/no/tokenizer"}}).string()},
       "/no/tokenizer"},
      {{"train", "lm", folder.config("e", {{"init", "/no/model"}}).string()}, "/no/model"},
      {{"train", "lm", folder.config("f", {{"gguf", "q9"}}).string()}, "q9"},
      {{"train", "lm", folder.config("g").string(), "--resume"}, "no checkpoint to resume from"},
  };
  for (const auto& c : kCases) {
    const Finished result = run_weft(c.arguments);
    EXPECT_NE(result.exit_code, 0) << c.expected;
    EXPECT_NE(result.err.find(c.expected), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }
}

}  // namespace
}  // namespace weft::tests
