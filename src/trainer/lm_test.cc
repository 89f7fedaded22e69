#include "trainer/lm.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/checkpoint.h"
#include "formats/tokenizer.h"
#include "train/export.h"
#include "train/snapshot.h"
#include "train/weights.h"
#include "trainer/adamw.h"

namespace weft::trainer {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Folder {
  fs::path path;
  Folder() {
    static std::atomic<int> count{0};
    path = fs::path(::testing::TempDir()) / fmt::format("weft_lm_{}_{}", getpid(), count++);
    fs::create_directories(path);
    std::ofstream data(path / "lines.jsonl");
    for (int i = 0; i < 8; ++i)
      data << ordered_json{{"prompt", fmt::format("line {} says", i)},
                           {"completion",
                            fmt::format(" {} and {} and no more", i * 7 % 8, i * 3 % 8)}}
                  .dump()
           << "\n";
  }
  ~Folder() { fs::remove_all(path); }
};

train::Config small(const Folder& folder, const std::string& run, const std::string& architecture,
                    std::vector<std::string> settings = {}) {
  const ordered_json config = {{"out", (folder.path / run).string()},
                               {"tokenizer", WEFT_SOURCE_DIR "/tests/data/hf_tokenizer/smollm"},
                               {"data", {(folder.path / "lines.jsonl").string()}},
                               {"context", 64},
                               {"batch_tokens", 256},
                               {"steps", 12},
                               {"lr", 1e-2},
                               {"device", "cpu"},
                               {"gguf", "none"},
                               {"model",
                                {{"architecture", architecture},
                                 {"num_hidden_layers", 2},
                                 {"hidden_size", 64},
                                 {"intermediate_size", 96},
                                 {"num_attention_heads", 4},
                                 {"num_key_value_heads", 2},
                                 {"n_routed_experts", architecture == "megrez2" ? 4 : 0},
                                 {"num_experts_per_tok", 2},
                                 {"moe_intermediate_size", 32}}}};
  return train::parse_config(config.dump(), "test", settings);
}

std::vector<ordered_json> records(const fs::path& run) {
  std::vector<ordered_json> out;
  std::ifstream log(run / "log.jsonl");
  for (std::string line; std::getline(log, line);) out.push_back(ordered_json::parse(line));
  return out;
}

TEST(lm, a_tiny_model_learns_eight_lines_by_heart) {
  constexpr struct {
    const char *architecture, *dtype;
  } kCases[] = {{"llama", "dtype=f32"}, {"megrez2", "dtype=bf16"}};
  for (const auto& c : kCases) {
    const Folder folder;
    train_lm(
        small(folder, "run", c.architecture,
              {"steps=300", "lr=2e-3", "warmup=0.1", "schedule=wsd", "weight_decay=0", c.dtype}),
        {}, {});
    const auto log = records(folder.path / "run");
    ASSERT_EQ(log.size(), 300U);
    EXPECT_GT(log.front()["loss"].get<double>(), 5) << "ln 322 = 5.8 at first";
    EXPECT_LT(log.back()["loss"].get<double>(), 0.05) << c.architecture << ", " << c.dtype;
  }
}

TEST(lm, a_mixture_tells_what_its_routers_choose_and_is_balanced_when_asked_to) {
  const Folder folder;
  const auto fullest = [&](const std::string& run, std::vector<std::string> settings) {
    settings.insert(settings.end(), {"steps=60", "lr=2e-3", "eval_every=60"});
    train::Config config = small(folder, run, "megrez2", settings);
    config.eval = config.data;
    train_lm(config, {}, {});
    const auto log = records(folder.path / run);
    const ordered_json& routing = log.back();
    EXPECT_EQ(routing["routing_of"], config.eval[0]);
    EXPECT_EQ(routing["layers"].size(), 1u);
    const ordered_json& layer = routing["layers"][0];
    EXPECT_EQ(layer["layer"], 1);
    EXPECT_FALSE(layer.contains("as_layer_before")) << "the first of its group";
    EXPECT_GT(layer["as_token_before"], 0);
    EXPECT_LT(layer["emptiest"], 1);
    return layer["fullest"].get<double>();
  };
  const double left_alone = fullest("alone", {"router_bias_rate=0"});
  EXPECT_GT(left_alone, 1.1);
  EXPECT_LT(fullest("loss", {"router_bias_rate=0", "router_aux_loss=1"}), left_alone);
  EXPECT_LT(fullest("bias", {"router_bias_rate=1e-2"}), left_alone);
}

TEST(lm, resuming_is_bit_identical) {
  for (const char* architecture : {"llama", "megrez2"}) {
    const Folder folder;
    const auto settings =
        std::vector<std::string>{"checkpoint_every=5", "accumulate=2", "router_aux_loss=0.01"};
    train_lm(small(folder, "whole", architecture, settings), {}, {});
    const fs::path whole = folder.path / "whole", part = folder.path / "part";
    ASSERT_TRUE(fs::exists(train::checkpoint_path(whole, 10)));
    EXPECT_FALSE(fs::exists(train::checkpoint_path(whole, 5))) << "the last two are kept";
    fs::create_directories(part);
    fs::copy_file(train::checkpoint_path(whole, 10), train::checkpoint_path(part, 10));
    fs::copy_file(whole / "log.jsonl", part / "log.jsonl");
    // A newer one that was cut short is passed over.
    fs::copy_file(train::checkpoint_path(whole, 10), train::checkpoint_path(part, 11));
    fs::resize_file(train::checkpoint_path(part, 11), 5000);
    train_lm(small(folder, "part", architecture, settings), {.command = "", .resume = true}, {});
    const auto want = train::read_snapshot(train::checkpoint_path(whole, 12));
    const auto got = train::read_snapshot(train::checkpoint_path(part, 12));
    EXPECT_FALSE(fs::exists(train::checkpoint_path(part, 11))) << "it is none of the last two";
    EXPECT_EQ(got.arrays, want.arrays) << architecture;
    EXPECT_EQ(got.state["next_example"], want.state["next_example"]);
    const auto whole_log = records(whole), part_log = records(part);
    ASSERT_EQ(part_log.size(), whole_log.size());
    for (size_t i = 0; i < whole_log.size(); ++i)
      EXPECT_EQ(part_log[i]["loss"], whole_log[i]["loss"]) << i;
    EXPECT_EQ(read_file(part / "model/model.safetensors"),
              read_file(whole / "model/model.safetensors"));
  }
}

TEST(lm, resuming_needs_a_checkpoint_of_the_same_model) {
  const Folder folder;
  EXPECT_THROW(train_lm(small(folder, "run", "llama"), {.command = "", .resume = true}, {}), Error);
  train_lm(small(folder, "run", "llama"), {}, {});
  try {
    train_lm(small(folder, "run", "qwen3", {"steps=13"}), {.command = "", .resume = true}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("Resume with the config"), std::string::npos);
  }
}

TEST(lm, a_run_does_not_begin_among_another_ones_checkpoints) {
  const Folder folder;
  train_lm(small(folder, "run", "llama"), {}, {});
  try {
    train_lm(small(folder, "run", "llama"), {}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the last is of step 12"), std::string::npos);
  }
  EXPECT_EQ(records(folder.path / "run").size(), 12U) << "nothing was touched";
}

TEST(lm, stopping_writes_a_checkpoint_and_tells_how_to_go_on) {
  const Folder folder;
  const std::atomic<bool> stop{true};
  try {
    train_lm(small(folder, "run", "llama"), {.command = "weft train lm c.json"}, StopToken(&stop));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCancelled);
    EXPECT_NE(std::string(error.what()).find("To go on: weft train lm c.json --resume"),
              std::string::npos);
  }
  EXPECT_TRUE(fs::exists(train::checkpoint_path(folder.path / "run", 0)));
}

TEST(lm, the_best_weights_are_kept) {
  const Folder folder;
  // At this rate the loss goes up and down.
  train_lm(small(folder, "run", "llama",
                 {"eval=" + (folder.path / "lines.jsonl").string(), "eval_every=1", "lr=1",
                  "schedule=constant"}),
           {}, {});
  double best = INFINITY, last = 0;
  for (const auto& record : records(folder.path / "run"))
    if (record.contains("eval_loss"))
      best = std::min(best, last = record["eval_loss"].get<double>());
  EXPECT_LT(best, last) << "or the test says nothing";
  EXPECT_NEAR(train::read_snapshot(folder.path / "run/best.weft").state["loss"].get<double>(), best,
              1e-6 * best);  // the log has seven digits
}

TEST(lm, three_steps_without_a_finite_loss_end_the_run) {
  const Folder folder;
  train::Config config = small(folder, "run", "llama");
  const train::ModelShape shape = train::shape_of(config, 322);
  const train::ParameterTable table = train::parameters_of(shape);
  train::Weights weights = train::random_weights(shape, table, 1);
  weights.values[table.at("model.norm.weight").offset] = NAN;
  train::write_hf_folder(folder.path / "bad", shape, table, weights.values, {},
                         {.is_bf16 = false, .tokenizer = ""});
  config.init = (folder.path / "bad").string();
  try {
    train_lm(config, {}, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("3 steps in a row"), std::string::npos);
  }
  for (const int step : {1, 2, 3}) {
    const fs::path dump = folder.path / "run" / fmt::format("bad-step-{}.jsonl", step);
    EXPECT_NE(read_file(dump).find("line"), std::string::npos);
  }
}

// The bytes: a value that is no number equals itself too.
std::string bits_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

// One line of sixteen holds a token whose embedding is no number.
TEST(lm, a_step_without_a_finite_loss_is_skipped_and_the_run_goes_on) {
  const Folder folder;
  const auto line = [](int i) { return fmt::format("line {} says{}", i, i == 5 ? " #" : ""); };
  std::ofstream data(folder.path / "lines.jsonl");
  for (int i = 0; i < 16; ++i)
    data << ordered_json{{"prompt", line(i)}, {"completion", " no more"}}.dump() << "\n";
  data.close();
  // In f32: a model whose weights are no numbers is not written in bf16, nor is it at the end of a
  // run.
  const auto train_to_the_end = [](const train::Config& c) {
    try {
      train_lm(c, {}, {});
      ADD_FAILURE() << "a model with a weight that is no number was written";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("of model.embed_tokens.weight is nan"),
                std::string::npos)
          << error.what();
    }
  };
  train::Config config = small(folder, "watched", "llama",
                               {"steps=24", "schedule=constant", "warmup=0", "batch_tokens=64",
                                "lr=1e-3", "dtype=f32", "model.tie_word_embeddings=false"});
  const auto tokenizer = formats::load_tokenizer(config.tokenizer);
  const formats::Token token = tokenizer->encode("#").back();
  const auto tokens = tokenizer->encode(line(5));
  ASSERT_NE(std::find(tokens.begin(), tokens.end(), token), tokens.end());

  const train::ModelShape shape = train::shape_of(config, 322);
  const train::ParameterTable table = train::parameters_of(shape);
  train::Weights weights = train::random_weights(shape, table, 1);
  weights.values[table.at("model.embed_tokens.weight").offset +
                 static_cast<size_t>(token) * shape.hidden_size] = NAN;
  train::write_hf_folder(folder.path / "bad", shape, table, weights.values, {},
                         {.is_bf16 = false, .tokenizer = ""});
  config.init = (folder.path / "bad").string();
  train_to_the_end(config);

  std::vector<size_t> bad;
  std::vector<double> losses;
  for (const ordered_json& record : records(folder.path / "watched")) {
    const size_t step = record["step"];
    const fs::path dump = folder.path / "watched" / fmt::format("bad-step-{}.jsonl", step);
    EXPECT_EQ(fs::exists(dump), record["loss"].is_null()) << step;
    if (record["loss"].is_null()) {
      EXPECT_NE(read_file(dump).find("says #"), std::string::npos) << step;
      if (step > 1) bad.push_back(step);
    } else {
      losses.push_back(record["loss"]);
    }
  }
  ASSERT_FALSE(bad.empty()) << "or the test says nothing";
  ASSERT_GE(losses.size(), 8U);
  EXPECT_LT(losses.back(), losses.front());

  // Nothing of such a step stays but that its data are over.
  config.out = (folder.path / "until").string();
  config.steps = bad.front();
  config.checkpoint_every = 1;
  train_to_the_end(config);
  const auto before = train::read_snapshot(train::checkpoint_path(config.out, bad.front() - 1));
  const auto after = train::read_snapshot(train::checkpoint_path(config.out, bad.front()));
  for (const auto& [name, values] : before.arrays)
    EXPECT_EQ(bits_of(after.arrays.at(name)), bits_of(values)) << name;
  EXPECT_GT(after.state["next_example"].get<uint64_t>(),
            before.state["next_example"].get<uint64_t>());
}

TEST(lm, fine_tuning_begins_with_the_model_it_is_given) {
  const Folder folder;
  train_lm(small(folder, "first", "llama", {"steps=60", "dtype=f32"}), {}, {});
  train::Config config = small(folder, "second", "llama", {"steps=1", "dtype=f32", "lr=0"});
  config.init = (folder.path / "first/model").string();
  config.tokenizer.clear();
  train_lm(config, {}, {});
  const auto first = records(folder.path / "first");
  EXPECT_LT(records(folder.path / "second").front()["loss"].get<double>(),
            2 * first.back()["loss"].get<double>() + 0.05);
  EXPECT_EQ(read_file(folder.path / "first/model/model.safetensors"),
            read_file(folder.path / "second/model/model.safetensors"));
}

// f32 takes the loop over memory, f64 the operations of tensors.
TEST(adamw, both_ways_agree_with_the_formula_and_skip_what_is_no_number) {
  const AdamWOptions options{.weight_decay = 0.1, .clip = 1, .decayed = 3};
  const std::vector<double> start = {0.5, -1, 2, 0.25, 3}, slope = {1, -2, 0.5, 4, 0.1};
  at::Tensor narrow = at::tensor(start).to(at::kFloat), wide = at::tensor(start);
  AdamW of_narrow(narrow, options), of_wide(wide, options);
  std::vector<double> w = start, m(5), v(5);
  double norm = 0;
  for (const double g : slope) norm += g * g;
  norm = std::sqrt(norm);
  for (int step = 1; step <= 5; ++step) {
    at::Tensor g = at::tensor(slope).to(at::kFloat), g_wide = at::tensor(slope);
    of_narrow.step(narrow, g, 0.01);
    EXPECT_NEAR(of_wide.step(wide, g_wide, 0.01)[0].item<double>(), norm, 1e-6);
    for (size_t i = 0; i < 5; ++i) {
      const double x = slope[i] / norm;
      m[i] = 0.9 * m[i] + 0.1 * x;
      v[i] = 0.95 * v[i] + 0.05 * x * x;
      const double change =
          m[i] / (1 - std::pow(0.9, step)) / (std::sqrt(v[i] / (1 - std::pow(0.95, step))) + 1e-8);
      w[i] = w[i] * (i < 3 ? 1 - 0.01 * 0.1 : 1) - 0.01 * change;
    }
  }
  for (size_t i = 0; i < 5; ++i) {
    const auto at = static_cast<int64_t>(i);
    EXPECT_NEAR(wide[at].item<double>(), w[i], 1e-7);    // the norm's 1e-6 in clipping
    EXPECT_NEAR(narrow[at].item<double>(), w[i], 1e-6);  // and f32
  }
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    const at::Tensor narrow_before = narrow.clone(), wide_before = wide.clone();
    const at::Tensor mean_before = of_wide.mean().clone(),
                     square_before = of_narrow.square().clone();
    std::vector<double> slope_now = slope;
    slope_now[1] = bad;
    at::Tensor g = at::tensor(slope_now).to(at::kFloat), g_wide = at::tensor(slope_now);
    EXPECT_EQ(of_narrow.step(narrow, g, 0.01)[1].item<float>(), 0);
    EXPECT_EQ(of_wide.step(wide, g_wide, 0.01)[1].item<float>(), 0);
    EXPECT_TRUE(at::equal(narrow, narrow_before));
    EXPECT_TRUE(at::equal(wide, wide_before));
    EXPECT_TRUE(at::equal(of_wide.mean(), mean_before));
    EXPECT_TRUE(at::equal(of_narrow.square(), square_before));
  }
}

}  // namespace
}  // namespace weft::trainer
