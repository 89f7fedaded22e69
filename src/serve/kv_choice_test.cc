// Widths of keys and values as a server's users choose them: fields, usage, and what is refused.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "formats/random_model.h"
#include "serve/openai/answer.h"
#include "serve/openai/responses.h"
#include "serve/unified_executor.h"

namespace weft::serve {
namespace {

namespace fs = std::filesystem;
using openai::Answer;
using openai::ApiError;
using openai::Json;

// Keeps the model's file for as long as it serves.
class Served {
 public:
  explicit Served(const text::KvPolicyOptions& kv = {})
      : path_(fs::path(::testing::TempDir()) / ("weft_kv_choice_" + std::to_string(getpid()) + ".gguf")) {
    formats::write_random_model(path_, "tiny", formats::quant_mix("q8_0"), 1, CoreSet());
    text::TextModelOptions options;
    options.context = 512;
    options.kv = kv;
    auto model = std::make_unique<text::TextModel>(text::TextModel::load(path_, options, CoreSet()));
    model->offer_kv_widths();
    auto executor = make_unified_executor(model->make_decoder(CoreSet(), {.capacity_tokens = 2048}),
                                          model->tokenizer(), {}, CoreSet(), std::make_shared<Turns>());
    served_ = std::make_unique<ServedModel>("tiny", std::move(model), std::move(executor));
  }
  ~Served() { fs::remove(path_); }

  Json answer(const std::string& fields) {
    Json prompt = Json::array();
    for (int i = 0; i < 300; ++i) prompt.push_back((i * i * 7 + i * 3) % 200);
    Json body = {{"prompt", prompt}, {"max_tokens", 8}, {"temperature", 0}};
    body.update(openai::parse_body("{" + fields + "}"));
    Answer answer(*served_, openai::parse_completion_request(body, served_->model(), {}));
    openai::WholeResponse whole(answer);
    while (!answer.done())
      for (const Answer::Piece& piece : answer.wait(std::chrono::milliseconds(1000))) whole.add(piece);
    return whole.body(openai::new_head(answer), answer);
  }

  // Field and message of a 400.
  std::pair<std::string, std::string> refused(const std::string& fields) {
    try {
      answer(fields);
    } catch (const ApiError& error) {
      EXPECT_EQ(error.status, 400) << error.what();
      return {error.param, error.what()};
    }
    ADD_FAILURE() << "taken: " << fields;
    return {};
  }

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  std::unique_ptr<ServedModel> served_;
};

TEST(served_kv, a_request_has_the_widths_that_it_asks_for) {
  Served served;
  EXPECT_FALSE(served.answer("")["usage"].contains("kv"));
  EXPECT_FALSE(served.answer(R"("kv": 16)")["usage"].contains("kv"));
  const Json usage = served.answer(R"("kv": "4")")["usage"]["kv"];
  EXPECT_EQ(usage["policy"], "4 bit");
  EXPECT_GT(usage["bytes"]["4"].get<size_t>(), 0u);
  EXPECT_EQ(served.answer(R"("kv": 8, "kv_v": "2")")["usage"]["kv"]["policy"], "K 8 bit, V 2 bit");
  EXPECT_EQ(served.answer(R"("kv_k": 8)")["usage"]["kv"]["policy"], "K 8 bit, V 16 bit");
}

TEST(served_kv, what_is_no_width_is_a_400_that_names_the_field) {
  Served served;
  for (const char* value : {"3", "\"progressive\"", "true", "[8]", "-8", "1e300", "\"\""}) {
    const auto [field, message] = served.refused(fmt::format("\"kv_v\": {}", value));
    EXPECT_EQ(field, "kv_v") << value;
    EXPECT_NE(message.find("16, 8, 4 and 2"), std::string::npos) << message;
  }
}

TEST(served_kv, more_bits_than_the_server_has_are_a_400_that_says_how_many) {
  Served served({.mode = text::KvMode::kDirect, .widths = {8, 4}});
  EXPECT_NE(served.refused(R"("kv": 16)").second.find("8 and 4 at most"), std::string::npos);
  EXPECT_EQ(served.refused(R"("kv_v": 8)").first, "kv_v");
  EXPECT_EQ(served.answer(R"("kv": 2)")["usage"]["kv"]["policy"], "2 bit");
  Served pressed({.mode = text::KvMode::kPressure, .widths = {4, 4}});
  EXPECT_EQ(pressed.refused(R"("kv": 4)").first, "kv");
}

TEST(served_kv, a_model_file_that_is_overwritten_is_noticed) {
  Served served;
  served.answer("");
  std::ofstream(served.path(), std::ios::app) << "x";
  try {
    served.answer("");
    FAIL() << "answered";
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 500);
    EXPECT_NE(std::string(error.what()).find("written to since"), std::string::npos);
  }
}

}  // namespace
}  // namespace weft::serve
