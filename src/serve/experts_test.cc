// Streamed experts as a server's users meet them: usage, metrics, and a disk that fails.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/file.h"
#include "formats/random_model.h"
#include "serve/openai/answer.h"
#include "serve/openai/responses.h"
#include "serve/unified_executor.h"
#include "serve/views.h"

namespace weft::serve {
namespace {

namespace fs = std::filesystem;
using openai::Answer;
using openai::ApiError;
using openai::Json;

class ServedExperts : public ::testing::Test {
 protected:
  ServedExperts() {
    fs::create_directories(folder_);
    formats::write_random_model(path_, "megrez2-tiny", formats::quant_mix("q8_0"), 1, CoreSet());
  }
  ~ServedExperts() override { fs::remove_all(folder_); }

  // `memory`: of the experts, empty for all.
  std::unique_ptr<ServedModel> serve(std::string_view memory,
                                     text::ExpertIo io = text::ExpertIo::kCached) {
    text::TextModelOptions how{.context = 256};
    if (!memory.empty()) {
      text::ExpertMemoryOptions& experts = how.experts.emplace();
      experts.budget = text::parse_expert_budget(memory);
      experts.io = io;
    }
    auto model = std::make_unique<text::TextModel>(text::TextModel::load(path_, how, CoreSet()));
    auto executor =
        make_unified_executor(model->make_decoder(CoreSet(), {.capacity_tokens = 1024}),
                              model->tokenizer(), {}, CoreSet(), std::make_shared<Turns>());
    return std::make_unique<ServedModel>("tiny", std::move(model), std::move(executor));
  }

  static std::unique_ptr<Answer> ask(ServedModel& served, const char* prompt) {
    const Json body = {{"prompt", prompt}, {"max_tokens", 12}, {"temperature", 0}};
    return std::make_unique<Answer>(served,
                                    openai::parse_completion_request(body, served.model(), {}));
  }
  static Json whole(Answer& answer) {
    openai::WholeResponse whole(answer);
    while (!answer.done())
      for (const Answer::Piece& piece : answer.wait(std::chrono::milliseconds(1000)))
        whole.add(piece);
    return whole.body(openai::new_head(answer), answer);
  }
  static Json answer(ServedModel& served, const char* prompt) {
    return whole(*ask(served, prompt));
  }

  void lose_and_find_the_pack(text::ExpertIo io) {
    const auto served = serve("20%", io);
    const Json before = answer(*served, "Hello");
    const std::string good = read_file(pack_);
    fs::resize_file(pack_, 4096);
    try {
      answer(*served, "Something else");
      FAIL();
    } catch (const ApiError& error) {
      EXPECT_NE(std::string(error.what()).find("shorter since it was opened"), std::string::npos)
          << error.what();
    }
    // The same file again: it is held open.
    fs::resize_file(pack_, good.size());
    std::FILE* const file = std::fopen(pack_.c_str(), "r+b");
    ASSERT_NE(file, nullptr);
    std::fwrite(good.data(), 1, good.size(), file);
    std::fclose(file);
    EXPECT_EQ(answer(*served, "Hello")["choices"], before["choices"]);
  }

  const fs::path folder_ =
      fs::path(::testing::TempDir()) / ("weft_served_experts_" + std::to_string(getpid()));
  const fs::path path_ = folder_ / "tiny.gguf", pack_ = folder_ / "tiny.gguf.experts";
};

TEST_F(ServedExperts, answers_are_the_same_and_usage_tells_what_was_read) {
  const auto all = serve(""), half = serve("50%");
  const Json want = answer(*all, "Once upon a time"), got = answer(*half, "Once upon a time");
  EXPECT_EQ(got["choices"][0]["text"], want["choices"][0]["text"]);
  EXPECT_FALSE(want["usage"].contains("experts"));
  const Json usage = got["usage"]["experts"];
  EXPECT_GT(usage["misses"].get<size_t>(), 0U);
  EXPECT_GT(usage["bytes_read"].get<size_t>(), 0U);
  EXPECT_GT(usage["hit_rate"].get<double>(), 0);
  EXPECT_LT(usage["hit_rate"].get<double>(), 1);
}

TEST_F(ServedExperts, several_requests_at_once_answer_as_alone) {
  const char* const prompts[] = {"Once upon a time", "Seven days", "A third one", "x"};
  const auto all = serve(""), few = serve("25%");
  std::vector<std::unique_ptr<Answer>> answers;
  for (const char* prompt : prompts) answers.push_back(ask(*few, prompt));
  for (size_t i = 0; i < std::size(prompts); ++i)
    EXPECT_EQ(whole(*answers[i])["choices"], answer(*all, prompts[i])["choices"]) << prompts[i];
  EXPECT_GT(few->model().experts()->counters().misses, 0U);
}

TEST_F(ServedExperts, a_budget_that_holds_all_streams_nothing) {
  const auto all = serve("100%");
  EXPECT_EQ(all->model().experts(), nullptr);
  EXPECT_FALSE(fs::exists(pack_));
}

TEST_F(ServedExperts, a_disk_that_fails_fails_the_request_and_the_server_lives) {
  for (const text::ExpertIo io :
       {text::ExpertIo::kCached, text::ExpertIo::kDirect, text::ExpertIo::kMmap})
    lose_and_find_the_pack(io);
}

TEST_F(ServedExperts, too_little_memory_says_how_much_is_needed) {
  try {
    serve("1K");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfResources);
    EXPECT_NE(std::string(error.what()).find("At least"), std::string::npos) << error.what();
  }
}

TEST_F(ServedExperts, metrics_tell_of_slots_and_reads) {
  ModelSet models;
  models.add(serve("50%"));
  models.set_ready();
  answer(*models.all().front(), "x");
  const std::string text = views::metrics(models);
  const Json experts = views::state(models)["experts"];
  EXPECT_EQ(experts["slots"], 8);
  EXPECT_GT(experts["misses"].get<size_t>(), 0U);
  EXPECT_NE(text.find("weft_expert_slots{model=\"tiny\"} 8\n"), std::string::npos) << text;
  for (const char* name : {"weft_expert_hits_total", "weft_expert_misses_total",
                           "weft_expert_late_total", "weft_expert_read_bytes_total",
                           "weft_expert_stall_seconds_total", "weft_expert_failures_total"})
    EXPECT_NE(text.find(name), std::string::npos) << name;
}

}  // namespace
}  // namespace weft::serve
