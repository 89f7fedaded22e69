// Experts in slots: bit for bit the model whose experts are all in memory, whatever the slots,
// policy, reads and faults.
#include "text/expert_stream/expert_stream.h"

#include <gtest/gtest.h>

#include <fstream>
#include <latch>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/random.h"
#include "text/expert_stream/expert_memory.h"
#include "text/expert_stream/expert_trace.h"
#include "text/mixture_model.h"

namespace weft::text {
namespace {

namespace fs = std::filesystem;
using models::Token;

std::vector<Token> some_tokens(size_t count) {
  std::vector<Token> tokens;
  for (size_t i = 0; i < count; ++i)
    tokens.push_back(
        static_cast<Token>(philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, {1, 2})[0] % 96));
  return tokens;
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// Lets a test watch, delay or fail reads.
class TestSource final : public RecordSource {
 public:
  using Before = std::function<void(size_t group, size_t expert)>;
  TestSource(std::unique_ptr<RecordSource> source, Before before)
      : source_(std::move(source)), before_(std::move(before)) {}
  Record read(size_t group, size_t expert, uint8_t* room) override {
    before_(group, expert);
    return source_->read(group, expert, room);
  }
  std::optional<Error> check(size_t group, size_t expert, const uint8_t* record,
                             size_t half) const override {
    return source_->check(group, expert, record, half);
  }
  std::string describe() const override { return "a test's"; }

 private:
  std::unique_ptr<RecordSource> source_;
  Before before_;
};

struct Streamed {
  ExpertStreamOptions options;
  ExpertStream* stream = nullptr;
  TestSource::Before before = {};

  // Records packed from the model's file.
  models::OpenExperts opener() {
    return [this](const models::ExpertTable& table, const formats::Checkpoint& checkpoint,
                  const CoreSet&, const ProgressFn&) {
      const RecordTable records(table);
      auto source = open_slice_source(table, checkpoint, records, ExpertIo::kCached);
      if (before) source = std::make_unique<TestSource>(std::move(source), before);
      auto made = std::make_unique<ExpertStream>(table, records, std::move(source), options);
      stream = made.get();
      return made;
    };
  }
};

constexpr size_t kAll = 16, kTop = 2;  // experts of the fixture, and of a token in a layer

TEST(expert_stream, is_bit_equal_to_all_in_memory) {
  ScratchFolder scratch;
  const auto tokens = some_tokens(kSanitized ? 12 : 24);
  for (const char* type : {"f16", "q8_0"}) {
    const auto path = megrez2_gguf(scratch, 3, type);
    const auto want = ModelRunner(path).run(tokens, 512);
    for (const size_t slots : {size_t{1}, kTop, 2 * kTop, kAll / 2, kAll})
      for (const ExpertPolicy policy : {ExpertPolicy::kExpected, ExpertPolicy::kLru,
                                        ExpertPolicy::kLfu, ExpertPolicy::kLeastStale})
        for (const bool prefetch : {true, false}) {
          Streamed streamed{{.num_slots = slots,
                             .policy = policy,
                             .prefetch = prefetch,
                             .num_readers = 1 + (slots + (prefetch ? 1 : 0)) % 3}};
          ModelRunner runner(path, 1, streamed.opener());
          for (const size_t chunk : {size_t{1}, size_t{7}, size_t{512}})
            ASSERT_EQ(runner.run(tokens, chunk), want)
                << type << ", " << slots << " slots, " << name(policy) << ", "
                << (prefetch ? "pre-gated" : "on demand") << ", chunks of " << chunk;
          const ExpertCounters counters = streamed.stream->counters();
          EXPECT_GT(counters.hits + counters.misses, 0U);
          if (slots == kAll) {
            EXPECT_LE(counters.misses, kAll) << "each is read once";
          }
        }
  }
}

TEST(expert_stream, batches_of_four_are_bit_equal) {
  ScratchFolder scratch;
  const auto path = megrez2_gguf(scratch, 3, "q8_0");
  const auto tokens = some_tokens(40);
  std::vector<std::span<const Token>> parts;
  for (size_t i = 0; i < 4; ++i)
    parts.push_back(std::span<const Token>(tokens).subspan(10 * i, 10));
  const auto run = [&](ModelRunner& runner) {
    std::vector<size_t> ids;
    for (size_t i = 0; i < 4; ++i) ids.push_back(runner.cache.create());
    std::vector<float> all;
    const std::vector<std::pair<size_t, size_t>> steps = {{0, 6}, {6, 1}, {7, 1}, {8, 2}};
    for (const auto& [at, count] : steps) {
      std::vector<ModelRunner::Piece> pieces;
      for (size_t i = 0; i < 4; ++i) pieces.push_back({ids[i], parts[i].subspan(at, count)});
      const auto logits = runner.pass(pieces);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  };
  ModelRunner resident(path);
  const auto want = run(resident);
  for (const size_t slots : {size_t{1}, size_t{3}, size_t{9}})
    for (const size_t threads : {1, 2}) {
      Streamed streamed{{.num_slots = slots}};
      ModelRunner runner(path, threads, streamed.opener());
      EXPECT_EQ(run(runner), want) << slots << " slots, " << threads << " threads";
    }
}

TEST(expert_stream, a_chunk_reads_each_expert_once_if_a_group_fits) {
  ScratchFolder scratch;
  Streamed streamed{{.num_slots = kAll / 2}};
  ModelRunner runner(megrez2_gguf(scratch, 3, "q8_0"), 1, streamed.opener());
  runner.run(some_tokens(200), 200);
  EXPECT_LE(streamed.stream->counters().misses, kAll);
}

TEST(expert_stream, the_live_counters_are_the_replayed_ones) {
  ScratchFolder scratch;
  const auto path = megrez2_gguf(scratch, 3, "q8_0");
  const auto tokens = some_tokens(60);
  for (const bool prefetch : {true, false})
    for (const ExpertPolicy policy : {ExpertPolicy::kExpected, ExpertPolicy::kLru,
                                      ExpertPolicy::kLfu, ExpertPolicy::kLeastStale})
      for (const size_t slots : {2 * kTop, 2 * kTop + 3, kAll - 2}) {
        ExpertTrace trace{{6, 3, 2, 8}, {}};
        Streamed streamed{{.num_slots = slots,
                           .policy = policy,
                           .prefetch = prefetch,
                           .on_visit = [&](size_t layer, std::span<const uint32_t> experts) {
                             trace.visits.push_back({layer, {experts.begin(), experts.end()}});
                           }}};
        ModelRunner runner(path, 1, streamed.opener());
        runner.run(tokens, 1);
        ASSERT_EQ(trace.visits.size(), 60U * 6);
        const ExpertCounters live = streamed.stream->counters();
        const ReplayCounts again = replay(trace, slots, policy, prefetch);
        EXPECT_EQ(again.hits, live.hits) << name(policy) << ", " << slots << " slots";
        EXPECT_EQ(again.misses, live.misses) << name(policy) << ", " << slots << " slots";
        EXPECT_LE(replay_optimum(trace, slots, prefetch).misses, again.misses) << name(policy);
      }
}

// ---- faults ----

struct Failing {
  std::atomic<int> left{0};  // reads of the expert that still fail; < 0: all
  size_t group = 0, expert = 0;
  std::atomic<int> reads{0};
  void operator()(size_t g, size_t e) {
    if (g != group || e != expert) return;
    ++reads;
    if (left == 0) return;
    if (left > 0) --left;
    fail(ErrorKind::kIo, "model.gguf: cannot read 4096 bytes at 77: Input/output error");
  }
};

// Which expert of group 1 one of the sequences chooses in its last token, and the other never does.
TEST(expert_stream, a_read_that_fails_for_good_fails_those_alone_who_need_it) {
  ScratchFolder scratch;
  const auto path = megrez2_gguf(scratch, 3, "q8_0");
  const std::vector<Token> a = {5}, b = {6};
  std::map<size_t, std::set<uint32_t>> wanted[2];  // by group
  for (const size_t s : {0, 1}) {
    Streamed watch{
        {.num_slots = kAll, .on_visit = [&](size_t layer, std::span<const uint32_t> experts) {
           wanted[s][layer / 3].insert(experts.begin(), experts.end());
         }}};
    ModelRunner(path, 1, watch.opener()).run(s == 0 ? a : b, 1);
  }
  std::optional<uint32_t> only_a;
  for (const uint32_t e : wanted[0][1])
    if (!wanted[1][1].contains(e)) only_a = e;
  ASSERT_TRUE(only_a) << "choose other tokens for this test";

  Failing failing{.left = -1, .group = 1, .expert = *only_a};
  for (const size_t slots : {size_t{1}, size_t{6}}) {
    failing.left = -1;
    Streamed streamed{{.num_slots = slots}, nullptr, [&](size_t g, size_t e) { failing(g, e); }};
    ModelRunner runner(path, 1, streamed.opener());
    const auto want_b = ModelRunner(path).run(b, 1);
    const size_t ids[] = {runner.cache.create(), runner.cache.create()};
    const auto logits = runner.pass({{ids[0], a, true}, {ids[1], b, true}});
    ASSERT_NE(runner.workspace->failure(0), nullptr);
    EXPECT_NE(std::string(runner.workspace->failure(0)->what()).find("Input/output error"),
              std::string::npos);
    EXPECT_EQ(runner.workspace->failure(1), nullptr);
    EXPECT_EQ(std::vector<float>(logits.begin() + 96, logits.end()), want_b);
    EXPECT_GE(streamed.stream->counters().failures, 1U);
    // Who does not ask for errors gets an exception, and the stream goes on when the disk does.
    runner.cache.release(ids[0]);
    EXPECT_THROW(runner.run(a, 1), Error);
    failing.left = 0;
    EXPECT_EQ(runner.run(a, 1), ModelRunner(path).run(a, 1));
  }
}

TEST(expert_stream, a_read_that_fails_once_is_tried_again) {
  ScratchFolder scratch;
  const auto path = megrez2_gguf(scratch, 3, "q8_0");
  const auto tokens = some_tokens(20);
  Failing failing{.left = 1};
  for (size_t e = 0; e < 8; ++e) {
    failing.expert = e;
    failing.left = 1;
    Streamed streamed{{.num_slots = 4}, nullptr, [&](size_t g, size_t x) { failing(g, x); }};
    ModelRunner runner(path, 1, streamed.opener());
    EXPECT_EQ(runner.run(tokens, 7), ModelRunner(path).run(tokens, 7));
    EXPECT_EQ(streamed.stream->counters().failures, 0U);
  }
  EXPECT_GT(failing.reads.load(), 8);
}

TEST(expert_stream, waiting_for_an_expert_has_an_end) {
  ScratchFolder scratch;
  std::latch go(1);
  Streamed streamed{{.num_slots = 4, .patience = std::chrono::seconds(0)},
                    nullptr,
                    [&](size_t, size_t) { go.wait(); }};
  {
    ModelRunner runner(megrez2_gguf(scratch, 3, "q8_0"), 1, streamed.opener());
    try {
      runner.run(some_tokens(1), 1);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kTimeout);
    }
    go.count_down();
  }
}

// ---- packs ----

struct PackTest : ::testing::Test {
  ScratchFolder scratch;
  fs::path model = megrez2_gguf(scratch, 3, "q8_0");
  fs::path pack = model.string() + ".experts";
  std::vector<Token> tokens = some_tokens(20);

  std::vector<float> run(ExpertMemoryOptions options, size_t slots = 5,
                         ExpertCounters* counters = nullptr) {
    ExpertStream* stream = nullptr;
    ModelRunner runner(model, 1, open_expert_stream(options, slots, model, &stream));
    auto logits = runner.run(tokens, 7);
    if (counters != nullptr) *counters = stream->counters();
    return logits;
  }
  std::string refusal(ExpertMemoryOptions options) {
    try {
      run(std::move(options));
    } catch (const Error& error) {
      return error.what();
    }
    return "(ran)";
  }
  void shrink(ExpertIo io) {
    ModelRunner runner(model, 1, open_expert_stream({.io = io}, 1, model, nullptr));
    const auto want = runner.run(tokens, 7);
    const auto size = fs::file_size(pack);
    fs::resize_file(pack, 4096);
    try {
      runner.run(tokens, 7);
      FAIL();
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("shorter since it was opened"), std::string::npos);
    }
    fs::resize_file(pack, size);  // zeros: refused by their checksums
    EXPECT_THROW(runner.run(tokens, 7), Error);
    fs::remove(pack);
  }
  void flip(size_t at) {
    std::fstream file(pack, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
  }
};

TEST_F(PackTest, every_way_of_reading_gives_the_same_bits) {
  const auto want = ModelRunner(model).run(tokens, 7);
  for (const ExpertIo io :
       {ExpertIo::kAuto, ExpertIo::kDirect, ExpertIo::kCached, ExpertIo::kMmap}) {
    ExpertCounters counters;
    EXPECT_EQ(run({.io = io}, 5, &counters), want);
    EXPECT_GT(counters.bytes_read, 0U);
    EXPECT_EQ(run({.io = io, .pack = "none"}), want) << "from the model's file";
  }
}

TEST_F(PackTest, a_folder_of_tensors_streams_too) {
  const fs::path folder = kMegrez2Data / "shared_3";
  const auto want = ModelRunner(folder).run(tokens, 7);
  for (const ExpertIo io : {ExpertIo::kDirect, ExpertIo::kCached, ExpertIo::kMmap}) {
    ModelRunner runner(folder, 1,
                       open_expert_stream({.io = io, .pack = "none"}, 5, folder, nullptr));
    EXPECT_EQ(runner.run(tokens, 7), want);
  }
}

TEST_F(PackTest, built_twice_is_the_same_file) {
  run({});
  const std::string first = read_file(pack);
  fs::remove(pack);
  run({});
  EXPECT_EQ(read_file(pack), first);
  EXPECT_EQ(first.size() % 4096, (16 * 32 + 4) % 4096) << "records of whole pages, then the index";
}

TEST_F(PackTest, a_flipped_byte_is_named_and_never_computed_with) {
  const auto want = run({});
  const size_t record = (fs::file_size(pack) - 4096 - 516) / 16;
  flip(4096 + 9 * record + 100);  // group 1, expert 1
  for (const ExpertIo io : {ExpertIo::kDirect, ExpertIo::kCached, ExpertIo::kMmap}) {
    const std::string message = refusal({.io = io});
    EXPECT_NE(message.find("expert 1 of group 1"), std::string::npos) << message;
    EXPECT_NE(message.find(fmt::format("byte {}", 4096 + 9 * record)), std::string::npos)
        << message;
  }
  flip(4096 + 9 * record + 100);
  EXPECT_EQ(run({}), want);
}

TEST_F(PackTest, foreign_and_damaged_packs_are_refused) {
  run({});
  const std::string good = read_file(pack);
  const auto put = [&](const std::string& bytes) {
    std::ofstream(pack, std::ios::binary) << bytes;
  };
  struct Case {
    const char* what;
    std::function<void()> damage;
    const char* says;
  };
  const Case cases[] = {
      {"empty", [&] { put(""); }, "too short"},
      {"cut off", [&] { put(good.substr(0, good.size() - 1)); }, "cut off"},
      {"longer", [&] { put(good + "x"); }, "extended"},
      {"no pack", [&] { put(std::string(8192, 'x')); }, "no pack of experts"},
      {"another version", [&] { flip(8); }, "another version"},
      {"another layout", [&] { flip(12); }, "another version"},
      {"another model", [&] { flip(16); }, "another model"},
      {"index", [&] { flip(good.size() - 10); }, "damaged index"},
  };
  for (const Case& c : cases) {
    put(good);
    c.damage();
    const std::string message = refusal({});
    EXPECT_NE(message.find(c.says), std::string::npos) << c.what << ": " << message;
    EXPECT_NE(message.find("Delete it"), std::string::npos) << message;
  }
  put(good);
  EXPECT_EQ(refusal({}), "(ran)");
  // Weights of the same shapes, but others.
  const fs::path other = scratch.path / "other.gguf";
  rewrite_gguf(model, other, {.edit = [](const std::string& name, std::vector<uint8_t>& bytes) {
                 if (name == "blk.4.ffn_up_exps.weight") bytes[20] ^= 1;
               }});
  model = other;
  EXPECT_NE(refusal({.pack = pack}).find("another model"), std::string::npos);
}

TEST_F(PackTest, where_no_pack_can_be_made_the_model_is_read) {
  std::string log;
  const fs::path nowhere = scratch.path / "gone" / "model.gguf";
  ModelRunner runner(model, 1,
                     open_expert_stream({.log = [&](const std::string& line) { log = line; }}, 5,
                                        nowhere, nullptr));
  EXPECT_EQ(runner.run(tokens, 7), ModelRunner(model).run(tokens, 7));
  EXPECT_NE(log.find("packed after each read"), std::string::npos) << log;
  EXPECT_NE(log.find("no pack could be made"), std::string::npos) << log;
  // One that was asked for by name is not left out silently.
  EXPECT_NE(refusal({.pack = nowhere}).find("cannot create"), std::string::npos);
}

TEST_F(PackTest, packing_that_is_stopped_leaves_nothing_behind) {
  run({});
  const size_t records_end = fs::file_size(pack) - 516;  // what progress counts up to
  fs::remove(pack);
  const auto files = [this] {
    return std::distance(fs::directory_iterator(scratch.path), fs::directory_iterator());
  };
  const auto before = files();
  const std::atomic<bool> stopped{true};
  const auto stop_half_way = [&](size_t done, size_t total) {
    if (total == records_end && done > total / 2) StopToken(&stopped).throw_if_stopped();
  };
  try {
    models::load_language_model(formats::open_checkpoint(model), CoreSet(), stop_half_way,
                                models::HeadLoading::kNow, nullptr,
                                open_expert_stream({}, 5, model, nullptr));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCancelled);
  }
  EXPECT_EQ(files(), before);
  EXPECT_EQ(run({}), ModelRunner(model).run(tokens, 7));
}

TEST_F(PackTest, a_record_that_came_damaged_is_read_again) {
  const auto want = run({});
  // Each record comes with a wrong byte the first time.
  struct ErringDisk final : RecordSource {
    std::unique_ptr<RecordSource> source;
    const RecordTable records;
    std::mutex mutex;
    std::set<std::pair<size_t, size_t>> seen;
    std::atomic<bool> for_good{false};
    ErringDisk(std::unique_ptr<RecordSource> from, const RecordTable& table)
        : source(std::move(from)), records(table) {}
    Record read(size_t group, size_t expert, uint8_t* room) override {
      const Record record = source->read(group, expert, room);
      const std::lock_guard lock(mutex);
      if (seen.insert({group, expert}).second || for_good)
        room[records.layouts[group].bytes - 9] ^= 4;
      return record;
    }
    std::optional<Error> check(size_t group, size_t expert, const uint8_t* record,
                               size_t half) const override {
      return source->check(group, expert, record, half);
    }
    std::string describe() const override { return "an erring disk"; }
  };
  ErringDisk* disk = nullptr;
  ExpertStream* stream = nullptr;
  ModelRunner runner(
      model, 2,
      [&](const models::ExpertTable& table, const formats::Checkpoint& checkpoint, const CoreSet&,
          const ProgressFn&) {
        const RecordTable records(table);
        auto made = std::make_unique<ErringDisk>(
            open_pack_source(pack, records, model_identity(checkpoint, table), ExpertIo::kCached),
            records);
        disk = made.get();
        auto store = std::make_unique<ExpertStream>(table, records, std::move(made),
                                                    ExpertStreamOptions{.num_slots = 5});
        stream = store.get();
        return store;
      });
  EXPECT_EQ(runner.run(tokens, 7), want);
  EXPECT_EQ(stream->counters().failures, 0U);
  disk->for_good = true;
  EXPECT_THROW(runner.run(tokens, 7), Error);
  EXPECT_GT(stream->counters().failures, 0U);
  disk->for_good = false;
  // What was read ahead for the pass that failed lies in its slot, damaged: each of the 5 slots may
  // fail one more pass before it is read anew.
  std::optional<decltype(runner.run(tokens, 7))> got;
  for (int attempt = 0; attempt < 6 && !got; ++attempt) try {
      got = runner.run(tokens, 7);
    } catch (const Error&) {
    }
  EXPECT_EQ(got, want);
}

TEST_F(PackTest, a_file_that_shrinks_fails_the_pass_and_says_so) {
  for (const ExpertIo io : {ExpertIo::kCached, ExpertIo::kDirect, ExpertIo::kMmap}) shrink(io);
}

TEST_F(PackTest, an_emulated_disk_gives_the_same_bits) {
  const auto want = run({});
  ModelRunner runner(
      model, 1,
      [&](const models::ExpertTable& table, const formats::Checkpoint& checkpoint, const CoreSet&,
          const ProgressFn&) {
        const RecordTable records(table);
        return std::make_unique<ExpertStream>(
            table, records,
            open_emulated_disk(pack, records, model_identity(checkpoint, table), 1e9),
            ExpertStreamOptions{.num_slots = 5});
      });
  EXPECT_EQ(runner.run(tokens, 7), want);
}

// ---- several passes at once ----

// A store of experts of one page each whose reads are delayed and reordered, and whose slots say
// whose they are.
TEST(expert_stream, stress_of_passes_in_several_threads) {
  constexpr size_t kExperts = 12, kLayers = 6, kGroups = 2, kThreads = 3;
  const size_t steps = kSanitized ? 3000 : 100000 / kThreads;
  std::vector<float> nothing(16 * 16);
  models::ExpertTable table;
  table.num_layers = kLayers;
  table.layers_per_group = 3;
  table.num_groups = kGroups;
  table.experts_per_group = kExperts;
  const TensorView view{DType::kF32, {16, 16}, nothing.data()};
  table.experts.assign(kGroups * kExperts, {view, view, view});

  struct NumberedSource final : RecordSource {
    std::atomic<uint32_t> reads{0};
    Record read(size_t group, size_t expert, uint8_t* room) override {
      const uint32_t n = reads++;
      const auto random = philox4x32({n, 0, 0, 0}, {3, 4});
      auto* values = reinterpret_cast<float*>(room);
      const float number = static_cast<float>(group * kExperts + expert);
      std::fill_n(values, 512, -1.0f);
      for (uint32_t i = 0; i < random[0] % 4; ++i) std::this_thread::yield();
      if (random[1] % 64 == 0) fail(ErrorKind::kIo, "random failure {}", n);
      std::fill_n(values, 1024, number);
      return {room, 4096};
    }
    std::optional<Error> check(size_t group, size_t expert, const uint8_t* record,
                               size_t half) const override {
      // A slot that is checked holds what was read for it.
      const float number = static_cast<float>(group * kExperts + expert);
      if (reinterpret_cast<const float*>(record)[half * 512] != number)
        return Error(ErrorKind::kInvalidInput, "another's record");
      return std::nullopt;
    }
    std::string describe() const override { return "numbers"; }
  };
  for (const size_t slots : {size_t{1}, size_t{2}, size_t{7}, size_t{23}}) {
    ExpertStream stream(table, RecordTable(table), std::make_unique<NumberedSource>(),
                        {.num_slots = slots, .num_readers = 2});
    std::atomic<size_t> wrong{0}, computed{0}, failed{0};
    const auto work = [&](uint32_t thread) {
      const auto pass = stream.make_pass();
      for (uint32_t step = 0; step < steps / 4; ++step) {
        const auto random = philox4x32({step, thread, 0, 0}, {5, static_cast<uint32_t>(slots)});
        const size_t layer = step % kLayers;
        const auto choose = [&](uint32_t seed, size_t count) {
          std::vector<uint32_t> experts;
          for (uint32_t i = 0; experts.size() < count; ++i) {
            const uint32_t e = philox4x32({seed, i, thread, 9}, {7, 8})[0] % kExperts;
            if (std::find(experts.begin(), experts.end(), e) == experts.end()) experts.push_back(e);
          }
          return experts;
        };
        const auto now = choose(step, 1 + step % 7 % kExperts);
        const auto next = choose(step + 1, 1 + (step + 1) % 7 % kExperts);
        if (layer + 1 < kLayers && random[0] % 8 != 0) pass->expect(layer + 1, next);
        pass->visit(layer, now);
        if (random[1] % 32 == 0) {  // the pass is given up
          pass->next(models::ExpertPass::Wait::kNo);
          pass->end();
          continue;
        }
        size_t seen = 0;
        for (auto wait = models::ExpertPass::Wait::kNo; seen < now.size();
             wait = models::ExpertPass::Wait::kForOne)
          for (const auto& arrival : pass->next(wait)) {
            ++seen;
            if (arrival.mlp == nullptr) {
              ++failed;
              continue;
            }
            const auto* values = reinterpret_cast<const float*>(arrival.mlp->gate.panel(0));
            const float number = static_cast<float>(layer / 3 * kExperts + arrival.expert);
            ++computed;
            for (const size_t i : {0, 100, 255, 700, 1023})
              if (values[i] != number) ++wrong;
          }
        if (layer + 1 == kLayers) pass->end();
      }
      pass->end();
    };
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < kThreads; ++t) threads.emplace_back(work, t);
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong.load(), 0U) << slots << " slots";
    EXPECT_GT(computed.load(), steps / 4) << slots << " slots";
    // Two reads fail in a row now and then.
    EXPECT_LT(failed.load(), computed.load() / 20);
  }
}

}  // namespace
}  // namespace weft::text
