// Tailored vocabularies as a server's users meet them: fields, usage, and what is refused.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>

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

text::TextModel load_wide(models::HeadLoading head) {
  const fs::path path =
      fs::path(::testing::TempDir()) / ("weft_vocab_" + std::to_string(getpid()) + ".gguf");
  formats::write_random_model(path, "tiny-wide", formats::quant_mix("q8_0"), 1, CoreSet());
  text::TextModel model = text::TextModel::load(path, {.context = 256, .head = head}, CoreSet());
  fs::remove(path);
  return model;
}

text::VocabProfile profile(const text::TextModel& model, const std::string& name, uint32_t first) {
  text::VocabProfile out;
  out.name = name;
  out.tokenizer = text::tokenizer_hash(model.tokenizer());
  out.vocab_size = model.model().config().vocab_size;
  for (uint32_t id = first; id < first + 300; ++id) out.ids.push_back(id);
  out.df.assign(out.ids.size(), 1);
  return out;
}

ServedModel& served() {
  static const std::unique_ptr<ServedModel> made = [] {
    auto model = std::make_unique<text::TextModel>(load_wide(models::HeadLoading::kWhenNeeded));
    for (const auto& [name, first] : {std::pair{"first", 1000u}, {"second", 2000u}}) {
      const text::VocabProfile p = profile(*model, name, first);
      model->add_vocab_head(&p, CoreSet());
    }
    model->set_vocab_default(text::VocabMode::kHybrid, CoreSet());
    auto executor = make_unified_executor(model->make_decoder(CoreSet(), {.capacity_tokens = 2048}),
                                          model->tokenizer(), {}, CoreSet(),
                                          std::make_shared<Turns>());
    return std::make_unique<ServedModel>("wide", std::move(model), std::move(executor));
  }();
  return *made;
}

// `fields`: the inside of an object, over what every request here has.
openai::AnswerRequest request(const std::string& fields) {
  Json body = {{"prompt", "Once upon"}, {"max_tokens", 20}, {"temperature", 0}};
  body.update(openai::parse_body("{" + fields + "}"));
  return openai::parse_completion_request(body, served().model(), {});
}

Json answer(const std::string& more) {
  Answer answer(served(), request(more));
  openai::WholeResponse whole(answer);
  while (!answer.done())
    for (const Answer::Piece& piece : answer.wait(std::chrono::milliseconds(1000))) whole.add(piece);
  return whole.body(openai::new_head(answer), answer);
}

TEST(served_vocabulary, usage_tells_of_the_set) {
  const Json usage = answer("")["usage"]["vocabulary"];
  EXPECT_EQ(usage["mode"], "hybrid");
  EXPECT_EQ(usage["profile"], "first");
  EXPECT_EQ(usage["static"].get<size_t>() + usage["dynamic"].get<size_t>(), usage["size"]);
  EXPECT_GT(usage["static"].get<size_t>(), 300u);
  EXPECT_EQ(usage["whole_head"], false);
  EXPECT_EQ(answer(R"("vocab_profile": "second")")["usage"]["vocabulary"]["profile"], "second");
  EXPECT_FALSE(answer(R"("vocab_mode": "off")")["usage"].contains("vocabulary"));
}

TEST(served_vocabulary, drafts_answer_as_without) {
  for (const char* more : {"", R"(, "n": 3, "temperature": 1.5, "seed": 5)"}) {
    const Json off = answer(std::string(R"("vocab_mode": "off")") + more);
    const Json drafted = answer(std::string(R"("vocab_mode": "draft")") + more);
    EXPECT_EQ(drafted["choices"], off["choices"]);
    EXPECT_EQ(drafted["usage"]["completion_tokens"], off["usage"]["completion_tokens"]);
  }
}

TEST(served_vocabulary, what_is_not_there_is_a_400_that_names_it) {
  const auto refused = [](const std::string& more) {
    try {
      request(more);
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400);
      return std::string(error.what());
    }
    ADD_FAILURE() << "taken: " << more;
    return std::string();
  };
  EXPECT_NE(refused(R"("vocab_profile": "third")").find("'first', 'second'"), std::string::npos);
  EXPECT_NE(refused(R"("vocab_mode": "fast")").find("verify"), std::string::npos);
  refused(R"("vocab_mode": 3)");
  refused(R"("vocab_profile": ["first"])");

  const text::TextModel untailored = load_wide(models::HeadLoading::kNow);
  EXPECT_THROW(openai::parse_completion_request(
                   openai::parse_body(R"({"prompt": "x", "vocab_mode": "hybrid"})"), untailored, {}),
               ApiError);
}

TEST(served_vocabulary, logprobs_are_the_whole_models) {
  const Json off = answer(R"("vocab_mode": "off", "logprobs": 3, "max_tokens": 1)");
  const Json tailored = answer(R"("logprobs": 3, "max_tokens": 1)");
  EXPECT_EQ(tailored["choices"][0]["logprobs"]["top_logprobs"],
            off["choices"][0]["logprobs"]["top_logprobs"]);
}

TEST(served_vocabulary, shows_in_metrics) {
  answer("");
  ModelSet models;
  auto model = std::make_unique<text::TextModel>(load_wide(models::HeadLoading::kWhenNeeded));
  model->add_vocab_head(nullptr, CoreSet());
  auto executor = make_unified_executor(model->make_decoder(CoreSet()), model->tokenizer(), {},
                                        CoreSet(), std::make_shared<Turns>());
  models.add(std::make_unique<ServedModel>("wide", std::move(model), std::move(executor)));
  models.set_ready();
  const std::string text = views::metrics(models);
  for (const char* name : {"weft_vocab_steps_total", "weft_vocab_escapes_total",
                           "weft_vocab_packed_bytes", "weft_memory_anonymous_bytes"})
    EXPECT_NE(text.find(name), std::string::npos) << name;
  EXPECT_EQ(views::state(models)["vocabulary"]["whole_head_packed_bytes"], 0);
}

}  // namespace
}  // namespace weft::serve
