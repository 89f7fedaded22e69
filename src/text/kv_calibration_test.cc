#include "text/kv_calibration.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "text/long_model.h"

namespace weft::text {
namespace {

using nlohmann::ordered_json;

std::vector<KvSensitivity> random_layers(size_t n, unsigned seed, int levels = 1000) {
  std::mt19937 random(seed);
  std::vector<KvSensitivity> layers(n);
  for (KvSensitivity& s : layers) {
    for (auto* side : {&s.k, &s.v}) {
      double sum = 0;
      for (double& x : *side) x = sum += static_cast<double>(random() % levels) / 1000;
    }
  }
  return layers;
}

double cost(const KvSensitivity& s, KvWidths w) {
  const auto side = [](const std::array<double, 3>& c, int bits) {
    return bits == 16 ? 0.0 : c[bits == 8 ? 0 : bits == 4 ? 1 : 2];
  };
  return side(s.k, w.k) + side(s.v, w.v);
}

double cost(const std::vector<KvSensitivity>& layers, const std::vector<KvWidths>& widths) {
  double sum = 0;
  for (size_t i = layers.size(); i-- > 0;) sum += cost(layers[i], widths[i]);
  return sum;
}

size_t bits(const std::vector<KvWidths>& widths) {
  size_t sum = 0;
  for (const KvWidths w : widths) sum += size_t{w.k} + w.v;
  return sum;
}

// Every assignment of three layers.
double best_of_all(const std::vector<KvSensitivity>& layers, size_t total, uint8_t least) {
  double best = 1e300;
  std::vector<KvWidths> widths(layers.size());
  const std::function<void(size_t)> choose = [&](size_t i) {
    if (i == layers.size()) {
      if (bits(widths) <= total) best = std::min(best, cost(layers, widths));
      return;
    }
    for (const uint8_t k : {16, 8, 4, 2})
      for (const uint8_t v : {16, 8, 4, 2}) {
        if (k < least || v < least) continue;
        widths[i] = {k, v};
        choose(i + 1);
      }
  };
  choose(0);
  return best;
}

TEST(kv_calibration, allocation_is_the_best_of_all) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto layers = random_layers(3, seed);
    for (const uint8_t least : {2, 4}) {
      for (size_t total = size_t{6} * least; total <= 100; total += 7) {
        const auto widths = allocate_kv(layers, total, least);
        EXPECT_LE(bits(widths), total);
        EXPECT_EQ(cost(layers, widths), best_of_all(layers, total, least))
            << "seed " << seed << ", " << total << " bits";
      }
    }
  }
}

TEST(kv_calibration, ties_go_to_lower_layers) {
  const std::vector<KvSensitivity> layers(4, {{0.1, 0.2, 0.4}, {0.1, 0.2, 0.4}});
  const auto widths = allocate_kv(layers, 4 * 2 * 3, 2);
  for (size_t i = 1; i < widths.size(); ++i)
    EXPECT_GE(widths[i - 1].k + widths[i - 1].v, widths[i].k + widths[i].v);
  EXPECT_THROW(allocate_kv(layers, 15, 2), Error);
  EXPECT_EQ(allocate_kv(layers, 1000, 2), std::vector<KvWidths>(4, {16, 16}));
}

class Folder {
 public:
  Folder()
      : path_(std::filesystem::temp_directory_path() / ("weft_kvq_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

constexpr const char* kModel = WEFT_SOURCE_DIR "/tests/data/parity/llama3_tied";

KvCalibration example(const formats::Checkpoint& checkpoint) {
  const auto config = models::read_config(checkpoint);
  KvCalibration c;
  c.model = "tiny";
  c.model_hash = kv_model_hash(checkpoint);
  c.num_kv_heads = config.num_kv_heads;
  c.head_dim = config.head_dim;
  c.group = config.head_dim;
  c.text_hash = kv_text_hash("a text");
  c.text_tokens = 1024;
  c.layers = random_layers(config.num_layers, 1);
  const size_t features = config.num_kv_heads * config.head_dim;
  for (size_t i = 0; i < config.num_layers; ++i)
    c.smoothing.push_back({.alpha = 0.25,
                           .error = 0.125,
                           .plain_error = 0.5,
                           .factors = std::vector<float>(features, 0.3f + static_cast<float>(i))});
  return c;
}

TEST(kv_calibration, a_file_comes_back) {
  const Folder folder;
  const auto checkpoint = formats::open_checkpoint(kModel);
  const KvCalibration c = example(*checkpoint);
  save_kv_calibration(c, folder / "m.kvq.json");
  const KvCalibration back = load_kv_calibration(folder / "m.kvq.json", *checkpoint);
  EXPECT_EQ(back.model, c.model);
  EXPECT_EQ(back.text_hash, c.text_hash);
  EXPECT_EQ(back.text_tokens, c.text_tokens);
  ASSERT_EQ(back.layers.size(), c.layers.size());
  for (size_t i = 0; i < c.layers.size(); ++i) {
    EXPECT_EQ(back.layers[i].k, c.layers[i].k);
    EXPECT_EQ(back.layers[i].v, c.layers[i].v);
    EXPECT_EQ(back.smoothing[i].alpha, c.smoothing[i].alpha);
    EXPECT_EQ(back.smoothing[i].error, c.smoothing[i].error);
    EXPECT_EQ(back.smoothing[i].plain_error, c.smoothing[i].plain_error);
  }
  EXPECT_EQ(factors(back), factors(c));
  EXPECT_THROW(load_kv_calibration(folder / "none.kvq.json", *checkpoint), Error);
  // Another model of this size.
  const auto other = formats::open_checkpoint(WEFT_SOURCE_DIR "/tests/data/parity/mistral");
  EXPECT_THROW(load_kv_calibration(folder / "m.kvq.json", *other), Error);
  KvCalibration strange = c;
  strange.model_hash ^= 1;
  save_kv_calibration(strange, folder / "n.kvq.json");
  try {
    load_kv_calibration(folder / "n.kvq.json", *checkpoint);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("model_hash"), std::string::npos) << error.what();
  }
}

TEST(kv_calibration, bad_files_are_named) {
  const Folder folder;
  const auto checkpoint = formats::open_checkpoint(kModel);
  save_kv_calibration(example(*checkpoint), folder / "m.kvq.json");
  std::ifstream file(folder / "m.kvq.json");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const ordered_json good = ordered_json::parse(text);
  struct Case {
    const char* field;  // the message names it
    std::function<void(ordered_json&)> spoil;
  };
  const Case cases[] = {
      {"schema", [](auto& j) { j["schema"] = 1; }},
      {"schema", [](auto& j) { j.erase("schema"); }},
      {"model", [](auto& j) { j["model"] = 7; }},
      {"model_hash", [](auto& j) { j["model_hash"] = "xyz"; }},
      {"model_hash", [](auto& j) { j["model_hash"] = 12; }},
      {"text_hash", [](auto& j) { j.erase("text_hash"); }},
      {"num_layers", [](auto& j) { j["num_layers"] = 0; }},
      {"num_layers", [](auto& j) { j["num_layers"] = -1; }},
      {"num_layers", [](auto& j) { j["num_layers"] = 1e18; }},
      {"sensitivities", [](auto& j) { j["sensitivities"].erase(0); }},
      {"sensitivities", [](auto& j) { j["sensitivities"] = "none"; }},
      {"'k'", [](auto& j) { j["sensitivities"][0].erase("k"); }},
      {"'v'",
       [](auto& j) {
         j["sensitivities"][0]["v"] = {1, 2};
       }},
      {"'v'", [](auto& j) { j["sensitivities"][0]["v"][1] = -0.5; }},
      {"'k'", [](auto& j) { j["sensitivities"][0]["k"][2] = nullptr; }},
      {"smoothing", [](auto& j) { j.erase("smoothing"); }},
      {"smoothing", [](auto& j) { j["smoothing"].erase(0); }},
      {"alpha", [](auto& j) { j["smoothing"][0]["alpha"] = 1.5; }},
      {"plain_error", [](auto& j) { j["smoothing"][0].erase("plain_error"); }},
      {"factors", [](auto& j) { j["smoothing"][0]["factors"].erase(0); }},
      {"factor of 0", [](auto& j) { j["smoothing"][0]["factors"][1] = 0; }},
      {"factor of -1", [](auto& j) { j["smoothing"][0]["factors"][1] = -1; }},
      {"factor of null", [](auto& j) { j["smoothing"][0]["factors"][1] = nullptr; }},
      {"factor of 1e+300", [](auto& j) { j["smoothing"][0]["factors"][1] = 1e300; }},
      {"group", [](auto& j) { j["group"] = "64"; }},
      {"head_dim", [](auto& j) { j["head_dim"] = 100000; }},
  };
  for (const Case& c : cases) {
    ordered_json json = good;
    c.spoil(json);
    try {
      parse_kv_calibration(json.dump(), "m.kvq.json");
      ADD_FAILURE() << "accepted a bad " << c.field;
    } catch (const Error& error) {
      const std::string what = error.what();
      EXPECT_NE(what.find(c.field), std::string::npos) << what;
      EXPECT_NE(what.find("m.kvq.json"), std::string::npos) << what;
    }
  }
  for (const size_t cut : {size_t{0}, size_t{1}, text.size() / 2, text.size() - 3})
    EXPECT_THROW(parse_kv_calibration(text.substr(0, cut), "m.kvq.json"), Error) << cut;
}

TEST(kv_calibration, narrower_sides_cost_more) {
  const LongModel model(kModel);
  std::vector<models::Token> tokens(520);
  std::mt19937 random(5);
  for (models::Token& t : tokens)
    t = static_cast<models::Token>(random() % model.config().vocab_size);
  EXPECT_THROW(calibrate_kv(model, std::span(tokens).first(257), CoreSet()), Error);
  const KvCalibration c = calibrate_kv(model, tokens, CoreSet());
  ASSERT_EQ(c.layers.size(), model.config().num_layers);
  for (const KvSensitivity& s : c.layers) {
    for (const auto* side : {&s.k, &s.v}) {
      EXPECT_GE((*side)[0], 0);
      EXPECT_LT((*side)[0], (*side)[2]);
    }
  }
}

}  // namespace
}  // namespace weft::text
