// generate, chat and perplexity as a user runs them, on a tiny random model.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/random_model.h"
#include "tests/process.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTemplate =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";

class Answers : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = fs::path(::testing::TempDir()) / ("weft_answers_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    formats::write_random_model(plain(), "tiny", formats::quant_mix("q8_0"), 1, CoreSet());
    formats::write_random_model(chatty(), "tiny", formats::quant_mix("q8_0"), 1, CoreSet(), {}, {},
                                kTemplate);
  }
  static void TearDownTestSuite() { fs::remove_all(folder_); }

  static fs::path plain() { return folder_ / "plain.gguf"; }
  static fs::path chatty() { return folder_ / "chatty.gguf"; }
  static fs::path write(const std::string& name, std::string_view text) {
    AtomicFile file(folder_ / name);
    file.write(text);
    file.commit();
    return folder_ / name;
  }
  // The command with the model and one thread.
  static Finished run(std::vector<std::string> arguments, std::string_view input = "",
                      const fs::path& model = chatty()) {
    for (const char* more : {"--threads", "1", "--model"}) arguments.emplace_back(more);
    arguments.push_back(model.string());
    return run_weft(arguments, input);
  }
  static fs::path folder_;
};
fs::path Answers::folder_;

TEST_F(Answers, the_same_seed_gives_the_same_answer_on_any_number_of_threads) {
  const std::vector<std::string> base = {"generate", "Hello", "--seed", "7", "--max-tokens", "24"};
  const Finished first = run(base);
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(first.err, "");
  EXPECT_GT(first.out.size(), 1u);
  EXPECT_EQ(run(base).out, first.out);
  auto more_threads = base;
  more_threads.insert(more_threads.end(), {"--model", chatty().string(), "--threads", "3"});
  EXPECT_EQ(run_weft(more_threads).out, first.out);
  auto other = base;
  other[3] = "8";
  EXPECT_NE(run(other).out, first.out);
}

TEST_F(Answers, the_prompt_comes_from_an_argument_a_file_or_standard_input) {
  const auto with = [](std::vector<std::string> source, std::string_view input = "") {
    source.insert(source.begin(), "generate");
    source.insert(source.end(), {"--temp", "0", "--max-tokens", "8"});
    return run(source, input);
  };
  const Finished argument = with({"What is it?"});
  EXPECT_EQ(argument.exit_code, 0) << argument.err;
  EXPECT_EQ(with({"--stdin"}, "What is it?").out, argument.out);
  EXPECT_EQ(with({"-f", write("prompt.txt", "What is it?").string()}).out, argument.out);
  EXPECT_NE(with({"--raw", "What is it?"}).out, argument.out) << "without the template";
  EXPECT_NE(with({"--system", "Be brief.", "What is it?"}).out, argument.out);
}

TEST_F(Answers, json_tells_everything) {
  const Finished finished =
      run({"generate", "Hello", "--json", "--seed", "3", "--max-tokens", "5"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const json out = json::parse(finished.out);
  EXPECT_EQ(out["completion_tokens"], 5);
  EXPECT_EQ(out["finish_reason"], "length");
  EXPECT_EQ(out["seed"], 3);
  EXPECT_GT(out["prompt_tokens"], 5);
  EXPECT_GT(out["decode_tokens_per_second"], 0);
  EXPECT_EQ(out["text"].get<std::string>() + "\n",
            run({"generate", "Hello", "--seed", "3", "--max-tokens", "5"}).out);
}

TEST_F(Answers, a_stop_string_ends_the_answer_before_it) {
  const std::vector<std::string> base = {"generate", "Hello",        "--json", "--seed",
                                         "3",        "--max-tokens", "30"};
  const std::string whole = json::parse(run(base).out)["text"];
  ASSERT_GT(whole.size(), 12u);
  // A piece of the middle that is ASCII, so that it can be an argument.
  size_t at = whole.size() / 2;
  while (at + 1 < whole.size() && static_cast<unsigned char>(whole[at]) >= 0x80) ++at;
  const std::string stop = whole.substr(at, 1);
  auto stopped = base;
  stopped.insert(stopped.end(), {"--stop", stop});
  const json out = json::parse(run(stopped).out);
  EXPECT_EQ(out["text"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(out["finish_reason"], "stop");
}

TEST_F(Answers, a_bias_changes_the_answer) {
  std::vector<std::string> arguments = {"generate", "Hello", "--temp", "0", "--max-tokens", "1"};
  const std::string first = run(arguments).out;
  arguments.insert(arguments.end(), {"--logit-bias", "65=100"});
  EXPECT_NE(run(arguments).out, first);
}

TEST_F(Answers, verbose_prints_the_plan_and_the_sampling) {
  const Finished finished =
      run({"generate", "Hello", "--verbose", "--max-tokens", "2", "--seed", "11"});
  EXPECT_NE(finished.err.find("MiB of weights"), std::string::npos) << finished.err;
  EXPECT_NE(finished.err.find("seed 11"), std::string::npos);
  EXPECT_NE(finished.err.find("answer: 2 tokens"), std::string::npos);
}

TEST_F(Answers, a_chat_remembers_and_saves) {
  const fs::path saved = folder_ / "saved.json";
  const Finished finished =
      run({"chat", "--temp", "0", "--max-tokens", "6", "--verbose"},
          "Hello\n/unknown\n\n/system Be brief.\nAnd now?\n/save " + saved.string() + "\n/exit\n");
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_NE(finished.err.find("unknown command '/unknown'"), std::string::npos);
  const json messages = json::parse(read_file(saved));
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_EQ(messages[0]["role"], "system");
  EXPECT_EQ(messages[1]["content"], "Hello");
  EXPECT_EQ(messages[2]["role"], "assistant");
  EXPECT_EQ(messages[3]["content"], "And now?");
  EXPECT_EQ(finished.out, messages[2]["content"].get<std::string>() + "\n" +
                              messages[4]["content"].get<std::string>() + "\n");
  EXPECT_EQ(finished.out.find('\033'), std::string::npos) << "colours are for terminals";
}

TEST_F(Answers, a_chat_reads_only_what_is_new) {
  std::string message = "This is the first of two messages";  // several pages of the cache
  for (int i = 0; i < 4; ++i) message += ", and it goes on for a while";
  const Finished finished =
      run({"chat", "--temp", "0", "--max-tokens", "6", "--verbose"}, message + "\nSecond.\n");
  const size_t first = finished.err.find(" prompt tokens were new");
  const size_t second = finished.err.find(" prompt tokens were new", first + 1);
  ASSERT_NE(second, std::string::npos) << finished.err;
  const std::string line = finished.err.substr(finished.err.rfind('\n', second) + 1);
  const int fresh = std::stoi(line), all = std::stoi(line.substr(line.find("of ") + 3));
  EXPECT_LT(fresh, all / 2) << line;
}

TEST_F(Answers, a_full_chat_drops_the_oldest_turns) {
  std::string input;
  for (int i = 0; i < 8; ++i)
    input += "A message of some length, number " + std::to_string(i) + "\n";
  const Finished finished =
      run({"chat", "--temp", "0", "--max-tokens", "8", "--context", "160"}, input);
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_NE(finished.err.find("messages were dropped"), std::string::npos) << finished.err;
}

TEST_F(Answers, perplexity_of_random_weights_is_near_the_vocabulary) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += "Some text that no random model can know. ";
  const fs::path file = write("text.txt", text);
  const Finished finished =
      run({"perplexity", file.string(), "--json", "--context", "128"}, "", plain());
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const json out = json::parse(finished.out);
  EXPECT_GT(out["perplexity"], 256);
  EXPECT_LT(out["perplexity"], 1024);
  EXPECT_EQ(out["tokens_scored"], out["windows"].get<int>() * 63);
}

struct Mistake {
  std::vector<std::string> arguments;
  ErrorKind kind;
  const char* complaint;
};

TEST_F(Answers, mistakes_are_one_line_each) {
  const std::string model = chatty().string(), no_template = plain().string();
  const std::string broken = write("broken.gguf", "no model").string();
  const std::string latin1 = write("latin1.txt", "caf\xe9").string();
  const std::string short_text = write("short.txt", "a few words").string();
  const std::string long_prompt(3000, 'x');
  const Mistake mistakes[] = {
      {{"generate", "--model", model}, ErrorKind::kInvalidInput, "the prompt is empty"},
      {{"generate", "", "--model", model}, ErrorKind::kInvalidInput, "the prompt is empty"},
      {{"generate", "--stdin", "--model", model}, ErrorKind::kInvalidInput, "the prompt is empty"},
      {{"generate", "a", "--stdin", "--model", model}, ErrorKind::kInvalidInput, "prompt once"},
      {{"generate", long_prompt, "--model", model},
       ErrorKind::kInvalidInput,
       "the context holds 512"},
      {{"generate", "a", "--context", "9999", "--model", model},
       ErrorKind::kInvalidInput,
       "the model's limit is 512"},
      {{"generate", "caf\xe9", "--model", model},
       ErrorKind::kInvalidInput,
       "not valid UTF-8 (byte 3"},
      {{"generate", "-f", latin1, "--model", model}, ErrorKind::kInvalidInput, "not valid UTF-8"},
      {{"generate", "-f", "/no/such", "--model", model}, ErrorKind::kNotFound, "/no/such"},
      {{"generate", "a", "--model", "/no/such.gguf"},
       ErrorKind::kNotFound,
       "/no/such.gguf: no such file"},
      {{"generate", "a", "--model", broken}, ErrorKind::kInvalidInput, "broken.gguf"},
      {{"generate", "a", "--chat", "--model", no_template},
       ErrorKind::kUnsupported,
       "has no chat template"},
      {{"generate", "a", "--chat", "--raw", "--model", model},
       ErrorKind::kInvalidInput,
       "exclude each other"},
      {{"generate", "a", "--temp", "-1", "--model", model},
       ErrorKind::kInvalidInput,
       "temperature"},
      {{"generate", "a", "--temp", "x", "--model", model}, ErrorKind::kInvalidInput, "--temp"},
      {{"generate", "a", "--top-p", "2", "--model", model}, ErrorKind::kInvalidInput, "top_p"},
      {{"generate", "a", "--kv", "q4", "--model", model}, ErrorKind::kInvalidInput, "--kv"},
      {{"generate", "a", "--threads", "0", "--model", model},
       ErrorKind::kInvalidInput,
       "--threads"},
      {{"generate", "a", "--stop", "", "--model", model},
       ErrorKind::kInvalidInput,
       "stop string is empty"},
      {{"generate", "a", "--logit-bias", "9999=1", "--model", model},
       ErrorKind::kInvalidInput,
       "9999"},
      {{"chat", "--model", no_template}, ErrorKind::kUnsupported, "has no chat template"},
      {{"perplexity", short_text, "--model", model}, ErrorKind::kInvalidInput, "need 1024"},
      {{"perplexity", "/no/such", "--model", model}, ErrorKind::kNotFound, "/no/such"},
  };
  for (const Mistake& mistake : mistakes) {
    const Finished finished = run_weft(mistake.arguments);
    EXPECT_EQ(finished.exit_code, exit_code(mistake.kind)) << mistake.complaint << finished.err;
    EXPECT_EQ(finished.out, "") << mistake.complaint;
    EXPECT_NE(finished.err.find(mistake.complaint), std::string::npos)
        << "no '" << mistake.complaint << "' in: " << finished.err;
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1) << finished.err;
  }
}

TEST_F(Answers, without_a_default_model_the_message_says_how_to_get_one) {
  const Finished finished =
      run_weft({"generate", "a"}, "", {"WEFT_MODEL=" + (folder_ / "absent.gguf").string()});
  EXPECT_EQ(finished.exit_code, exit_code(ErrorKind::kNotFound));
  EXPECT_NE(finished.err.find("./run"), std::string::npos) << finished.err;
  EXPECT_NE(finished.err.find("--model FILE"), std::string::npos);
}

}  // namespace
}  // namespace weft::tests
