// Megrez2's forward pass against the NumPy reference of tests/data/megrez2, with and without
// pre-gating, with experts of each layer's own and shared by three.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "formats/random_model.h"
#include "models/router.h"
#include "text/mixture_model.h"

namespace weft::text {
namespace {

using models::Token;

constexpr size_t kMoeLayers = 6, kTop = 2;  // of the fixture

struct Expected : ReferenceSequence {
  std::vector<int32_t> chosen;  // (kMoeLayers, tokens, kTop)
};

std::vector<Expected> read_expected(int frequency, bool pre_gate) {
  return read_reference<Expected>(
      kMegrez2Data / ("shared_" + std::to_string(frequency)) /
          (pre_gate ? "logits_on.bin" : "logits_off.bin"),
      [](FixtureReader& reader, Expected& sequence) {
        sequence.chosen = reader.take<int32_t>(kMoeLayers * sequence.tokens.size() * kTop);
      });
}

// |got - want| / |want| of all logits together.
double relative_difference(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double difference = 0, size = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    difference += std::pow(double{got[i]} - want[i], 2);
    size += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(difference / size);
}

// f32 against float64: seven layers of sums over 64 features err by some 1e-6 of the logits' size.
// Keys and values are f16 on both sides; where the difference tips a rounding (some 18 times among
// the 18000 of a sequence), one value moves by 2^-11 of its size, which is 1e-5 of all logits or
// so. The reference shows that every wrong model differs by 0.2 and more.
constexpr double kTolerance = 1e-4;

class Megrez2 : public ::testing::TestWithParam<std::tuple<int, bool>> {
 protected:
  int frequency() const { return std::get<0>(GetParam()); }
  bool pre_gate() const { return std::get<1>(GetParam()); }
  std::vector<Expected> expected() const { return read_expected(frequency(), pre_gate()); }
  std::filesystem::path folder() const { return megrez2_folder(scratch_, frequency(), pre_gate()); }
  ScratchFolder scratch_;
};

// Notes which experts are visited, in front of those that are in memory.
class Recorder final : public models::ExpertStore {
 public:
  explicit Recorder(std::unique_ptr<models::ExpertStore> store) : store_(std::move(store)) {}
  std::unique_ptr<models::ExpertPass> make_pass() override {
    return std::make_unique<Pass>(*this, store_->make_pass());
  }
  size_t memory_bytes() const override { return store_->memory_bytes(); }

  std::vector<std::vector<uint32_t>> visits;  // in order
  std::vector<std::pair<size_t, std::vector<uint32_t>>> expected;

 private:
  class Pass final : public models::ExpertPass {
   public:
    Pass(Recorder& recorder, std::unique_ptr<models::ExpertPass> pass)
        : recorder_(recorder), pass_(std::move(pass)) {}
    void expect(size_t layer, std::span<const uint32_t> experts) override {
      recorder_.expected.emplace_back(layer, std::vector<uint32_t>(experts.begin(), experts.end()));
      pass_->expect(layer, experts);
    }
    void visit(size_t layer, std::span<const uint32_t> experts) override {
      recorder_.visits.emplace_back(experts.begin(), experts.end());
      if (!recorder_.expected.empty()) {  // announced exactly as it is visited
        EXPECT_EQ(recorder_.expected[recorder_.visits.size() - 1].first, layer);
        EXPECT_EQ(recorder_.expected[recorder_.visits.size() - 1].second, recorder_.visits.back());
      }
      pass_->visit(layer, experts);
    }
    std::span<const Arrival> next(Wait wait) override { return pass_->next(wait); }
    void end() noexcept override { pass_->end(); }

   private:
    Recorder& recorder_;
    std::unique_ptr<models::ExpertPass> pass_;
  };
  std::unique_ptr<models::ExpertStore> store_;
};

TEST_P(Megrez2, logits_equal_the_reference) {
  ModelRunner runner(folder());
  for (const Expected& sequence : expected())
    EXPECT_LE(relative_difference(runner.run(sequence.tokens, 512), sequence.logits), kTolerance);
}

TEST_P(Megrez2, experts_are_those_of_the_reference) {
  Recorder* recorder = nullptr;
  ModelRunner runner(
      folder(), 1,
      [&](const models::ExpertTable& table, const formats::Checkpoint&, const CoreSet& cores,
          const ProgressFn&) {
        std::vector<models::Mlp> mlps;
        for (const models::ExpertMatrices& m : table.experts)
          mlps.push_back({kernels::Linear::pack(m.gate, cores), kernels::Linear::pack(m.up, cores),
                          kernels::Linear::pack(m.down, cores)});
        auto made = std::make_unique<Recorder>(make_resident_experts(table, std::move(mlps)));
        recorder = made.get();
        return made;
      });
  for (const Expected& sequence : expected()) {
    recorder->visits.clear();
    recorder->expected.clear();
    const auto logits = runner.run(sequence.tokens, 1);
    EXPECT_LE(relative_difference(logits, sequence.logits), kTolerance);
    const size_t n = sequence.tokens.size();
    ASSERT_EQ(recorder->visits.size(), n * kMoeLayers);
    EXPECT_EQ(recorder->expected.size(), pre_gate() ? n * kMoeLayers : 0);
    for (size_t t = 0; t < n; ++t)
      for (size_t layer = 0; layer < kMoeLayers; ++layer) {
        const int32_t* const want = sequence.chosen.data() + (layer * n + t) * kTop;
        const auto& visit = recorder->visits[t * kMoeLayers + layer];
        EXPECT_EQ(std::set<int32_t>(visit.begin(), visit.end()),
                  std::set<int32_t>(want, want + kTop))
            << "token " << t << ", layer " << layer;
      }
  }
}

TEST_P(Megrez2, chunks_batches_and_cores_give_the_same_bits) {
  const auto sequences = expected();
  ModelRunner alone(folder());
  std::vector<std::vector<float>> want;
  for (const Expected& sequence : sequences) want.push_back(alone.run(sequence.tokens, 512));
  for (const size_t chunk : {size_t{1}, size_t{7}, size_t{32}})
    EXPECT_EQ(alone.run(sequences[0].tokens, chunk), want[0]) << "chunks of " << chunk;
  const size_t vocab = alone.model->config().vocab_size;
  for (const size_t threads : {1, 2, 3}) {
    ModelRunner runner(folder(), threads);
    const size_t a = runner.cache.create(), b = runner.cache.create();
    const std::span<const Token> first = sequences[0].tokens, second = sequences[1].tokens;
    std::vector<float> got_a, got_b;
    const auto pass = [&](size_t a_begin, size_t a_count, size_t b_begin, size_t b_count) {
      const auto out = runner.pass(
          {{a, first.subspan(a_begin, a_count)}, {b, second.subspan(b_begin, b_count)}});
      const auto middle = out.begin() + static_cast<ptrdiff_t>(a_count * vocab);
      got_a.insert(got_a.end(), out.begin(), middle);
      got_b.insert(got_b.end(), middle, out.end());
    };
    pass(0, 20, 0, 14);
    pass(20, 1, 14, 1);
    pass(21, 18, 15, 1);
    pass(39, 1, 16, 1);
    EXPECT_EQ(got_a, want[0]) << threads << " threads";
    EXPECT_EQ(got_b, want[1]) << threads << " threads";
  }
}

INSTANTIATE_TEST_SUITE_P(megrez2, Megrez2,
                         ::testing::Combine(::testing::Values(1, 3), ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<1>(info.param) ? "pre_gated" : "plain") +
                                  "_shared_by_" + std::to_string(std::get<0>(info.param));
                         });

TEST(megrez2, the_same_model_as_gguf) {
  for (const int frequency : {1, 3}) {
    ScratchFolder scratch;
    ModelRunner runner(megrez2_gguf(scratch, frequency, "f16"));
    for (const Expected& sequence : read_expected(frequency, true))
      EXPECT_LE(relative_difference(runner.run(sequence.tokens, 64), sequence.logits), kTolerance);
  }
}

TEST(megrez2, memory_plan_is_what_loading_takes) {
  for (const char* type : {"f16", "q8_0", "q4_0"}) {
    ScratchFolder scratch;
    ModelRunner runner(megrez2_gguf(scratch, 3, type));
    const models::MemoryPlan plan =
        models::plan_memory(*runner.checkpoint, kernels::KvFormat::kF16, 16);
    EXPECT_GE(plan.weight_bytes, runner.model->weight_bytes());
    EXPECT_LE(plan.weight_bytes, runner.model->weight_bytes() + 8192);
    EXPECT_EQ(plan.expert_bytes, runner.model->experts()->memory_bytes());
    EXPECT_EQ(plan.num_experts, 16U);
  }
}

// Each layer with a copy of its group's experts, and a frequency of 1.
GgufChanges unshared() {
  GgufChanges changes;
  changes.numbers["expert_shared_frequency"] = 1;
  for (size_t layer = 1; layer <= kMoeLayers; ++layer)
    for (const std::string matrix : {"gate", "up", "down"})
      if ((layer - 1) % 3 != 0)
        changes.copies[fmt::format("blk.{}.ffn_{}_exps.weight", layer, matrix)] =
            fmt::format("blk.{}.ffn_{}_exps.weight", 1 + (layer - 1) / 3 * 3, matrix);
  return changes;
}

TEST(megrez2, unsharing_changes_no_bit) {
  for (const char* type : {"f16", "q8_0", "q4_0"}) {
    ScratchFolder scratch;
    const auto shared = megrez2_gguf(scratch, 3, type);
    const auto apart = scratch.path / "apart.gguf";
    rewrite_gguf(shared, apart, unshared());
    const auto tokens = read_expected(3, true)[0].tokens;
    EXPECT_EQ(ModelRunner(shared).run(tokens, 16), ModelRunner(apart).run(tokens, 16)) << type;
  }
}

TEST(megrez2, sharing_is_derived_where_the_key_is_missing) {
  ScratchFolder scratch;
  // A shorter last group: five layers with experts in groups of three.
  const auto shared = megrez2_gguf(scratch, 3, "f16"), shorter = scratch.path / "shorter.gguf";
  GgufChanges changes;
  changes.numbers["block_count"] = 6;
  const formats::GgufFile file = formats::GgufFile::open(shared);
  for (const auto& tensor : file.tensors())
    if (tensor.name.starts_with("blk.6.")) changes.without.push_back(tensor.name);
  rewrite_gguf(shared, shorter, changes);
  ModelRunner runner(shorter);
  EXPECT_EQ(runner.run(read_expected(3, true)[1].tokens, 64).size(), 17U * 96);
}

TEST(megrez2, random_mixtures_load_in_mixed_types) {
  for (const char* shape : {"megrez2-tiny", "megrez2-mini"})
    for (const char* type : {"q4_0", "q4_K_M", "bf16"}) {
      ScratchFolder scratch;
      const auto path = scratch.path / "random.gguf";
      formats::write_random_model(path, shape, formats::quant_mix(type), 1, CoreSet());
      ModelRunner runner(path, 2);
      const std::vector<Token> tokens = {1, 2, 3, 4, 5};
      const auto logits = runner.run(tokens, 5);
      EXPECT_TRUE(
          std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }))
          << shape << " " << type;
      EXPECT_EQ(runner.run(tokens, 2), logits) << shape << " " << type;
    }
}

std::string message_of(const std::filesystem::path& path) {
  try {
    ModelRunner runner(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "(loaded)";
}

TEST(megrez2, bad_files_are_refused_by_name) {
  struct Case {
    const char* name;
    GgufChanges changes;
    const char* says;
  };
  GgufChanges beside = unshared();
  beside.numbers["expert_shared_frequency"] = 3;
  GgufChanges nan_bias, nan_gate;
  nan_bias.edit = [](const std::string& name, std::vector<uint8_t>& bytes) {
    const float nan = NAN;
    if (name == "blk.4.exp_probs_b.bias") std::memcpy(bytes.data() + 12, &nan, 4);
  };
  nan_gate.edit = [](const std::string& name, std::vector<uint8_t>& bytes) {
    const float infinity = INFINITY;
    if (name == "blk.2.ffn_gate_inp.weight") std::memcpy(bytes.data() + 400, &infinity, 4);
  };
  const Case cases[] = {
      {"leader without experts",
       {.without = {"blk.4.ffn_gate_exps.weight"}},
       "so layer 4 must hold experts, but its tensor 'blk.4.ffn_gate_exps.weight' is missing"},
      {"experts in a layer that shares", beside,
       "so layer 2 must hold none, but its tensor 'blk.2.ffn_gate_exps.weight' is there"},
      {"half an expert", {.without = {"blk.4.ffn_up_exps.weight"}}, "'blk.4.ffn_up_exps'"},
      {"too many chosen",
       {.numbers = {{"expert_used_count", 9}}},
       "'expert_used_count' is 9, expected at most expert_count = 8"},
      {"another number of experts",
       {.numbers = {{"expert_count", 7}}},
       "'blk.1.ffn_gate_inp.weight' is 8x64, but the hyper-parameters need 7x64"},
      {"softmax", {.numbers = {{"expert_gating_func", 1}}}, "only 2 (sigmoid) is supported"},
      {"no dense layer",
       {.numbers = {{"leading_dense_block_count", 0}}},
       "the first layer must be dense"},
      {"only dense layers",
       {.numbers = {{"leading_dense_block_count", 7}}},
       "'leading_dense_block_count' is 7, expected less than block_count = 7"},
      {"heads", {.numbers = {{"attention.head_count_kv", 3}}}, "'attention.head_count_kv' is 3"},
      {"bias that is no number", nan_bias, "'blk.4.exp_probs_b.bias' holds nan at 3"},
      {"gate that is no number", nan_gate, "'blk.2.ffn_gate_inp.weight' holds inf at 100"},
  };
  ScratchFolder scratch;
  const auto good = megrez2_gguf(scratch, 3, "f16"), bad = scratch.path / "bad.gguf";
  for (const Case& c : cases) {
    rewrite_gguf(good, bad, c.changes);
    EXPECT_NE(message_of(bad).find(c.says), std::string::npos) << c.name << ": " << message_of(bad);
  }
  EXPECT_EQ(message_of(good), "(loaded)");
}

std::vector<std::pair<uint32_t, float>> chosen(const models::RouterShape& shape,
                                               const std::vector<float>& logits,
                                               const std::vector<float>& bias) {
  std::vector<uint32_t> ids(shape.experts_per_token);
  std::vector<float> weights(shape.experts_per_token), scratch;
  models::choose(shape, logits.data(), bias.data(), ids.data(), weights.data(), scratch);
  std::vector<std::pair<uint32_t, float>> out;
  for (size_t i = 0; i < ids.size(); ++i) out.emplace_back(ids[i], weights[i]);
  return out;
}

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

TEST(router, bias_takes_part_in_the_choice_alone) {
  const auto got =
      chosen({.num_experts = 4, .experts_per_token = 2}, {2, 1, 0, -1}, {0, 0, 0, 0.9f});
  ASSERT_EQ(got.size(), 2U);
  EXPECT_EQ(got[0].first, 0U);
  EXPECT_EQ(got[1].first, 3U);
  const float sum = sigmoid(2) + sigmoid(-1);
  EXPECT_FLOAT_EQ(got[0].second, sigmoid(2) / sum);
  EXPECT_FLOAT_EQ(got[1].second, sigmoid(-1) / sum);
}

TEST(router, ties_go_to_the_lower_expert_and_weights_scale) {
  const auto got =
      chosen({.num_experts = 4, .experts_per_token = 2, .normalise = false, .scale = 2},
             {1, 3, 3, 3}, {0, 0, 0, 0});
  EXPECT_EQ(got[0].first, 1U);
  EXPECT_EQ(got[1].first, 2U);
  EXPECT_FLOAT_EQ(got[0].second, 2 * sigmoid(3));
}

TEST(router, whole_groups_are_chosen_by_their_two_best) {
  // The best expert of all is in the first group, whose second is poor: the second group wins.
  const auto got =
      chosen({.num_experts = 6, .experts_per_token = 2, .num_groups = 2, .groups_used = 1},
             {4, -9, -9, 2, 2.5f, -9}, std::vector<float>(6));
  EXPECT_EQ(got[0].first, 3U);
  EXPECT_EQ(got[1].first, 4U);
}

TEST(router, no_numbers_choose_something_all_the_same) {
  const auto got =
      chosen({.num_experts = 4, .experts_per_token = 3}, {NAN, NAN, NAN, NAN}, {0, 0, 0, 0});
  EXPECT_EQ(got[0].first, 0U);
  EXPECT_EQ(got[2].first, 2U);
}

}  // namespace
}  // namespace weft::text
