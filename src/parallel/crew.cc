#include "parallel/crew.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "parallel/exchange_named.h"
#include "parallel/exchange_trial.h"
#include "parallel/flash_overlap/team.h"
#include "parallel/letter.h"
#include "parallel/overlap_switch.h"

namespace weft::parallel {
namespace {

using models::LogitsWanted;
using models::SequenceInput;
using models::Token;

constexpr uint32_t kPassTag = 2, kMemoryTag = 3;
enum class Order : uint32_t { kPass, kHead, kMemory, kOverlap, kDismiss };

// ---- a pass, as rank 0 sends it

struct PassInput {
  size_t sequence = 0;
  size_t first_position = 0;
  LogitsWanted logits = LogitsWanted::kNone;
  std::vector<Token> tokens;
};
struct Pass {
  std::vector<uint64_t> gone;  // caches
  uint64_t cache = 0;
  std::vector<std::byte> changes;  // of it
  bool spread = false;
  std::vector<PassInput> inputs;
};

// A letter has one size that most passes of decoding fit into; what is longer comes in a second
// one.
constexpr size_t kLetterBytes = 2048;

void send_to_all(const comm::Communicator& ranks, std::span<const std::byte> bytes) {
  const uint64_t size = bytes.size();
  std::vector<std::byte> letter(kLetterBytes);
  std::memcpy(letter.data(), &size, sizeof size);
  const size_t first = std::min(bytes.size(), kLetterBytes - sizeof size);
  std::memcpy(letter.data() + sizeof size, bytes.data(), first);
  std::vector<comm::Request> requests;
  for (size_t r = 1; r < ranks.size(); ++r) {
    requests.push_back(ranks.isend(letter, r, kPassTag));
    requests.push_back(ranks.isend(bytes.subspan(first), r, kPassTag));
  }
  for (comm::Request& request : requests) request.wait();
}

std::vector<std::byte> receive_from_leader(const comm::Communicator& ranks) {
  std::vector<std::byte> letter(kLetterBytes);
  ranks.ireceive(letter, 0, kPassTag).wait(comm::Patience::kEndless);
  uint64_t size = 0;
  std::memcpy(&size, letter.data(), sizeof size);
  std::vector<std::byte> bytes(size);
  const size_t first = std::min<size_t>(size, kLetterBytes - sizeof size);
  std::memcpy(bytes.data(), letter.data() + sizeof size, first);
  ranks.receive(std::span(bytes).subspan(first), 0, kPassTag);
  return bytes;
}

Pass read_pass(LetterReader& reader) {
  Pass pass;
  pass.gone = reader.get_counted<uint64_t>();
  pass.cache = reader.get<uint64_t>();
  pass.changes = reader.get_counted<std::byte>();
  pass.spread = reader.get<uint8_t>() != 0;
  pass.inputs.resize(reader.get<uint64_t>());
  for (PassInput& input : pass.inputs) {
    input.sequence = reader.get<uint64_t>();
    input.first_position = reader.get<uint64_t>();
    input.logits = reader.get<LogitsWanted>();
    input.tokens = reader.get_counted<Token>();
  }
  return pass;
}

// ---- one rank's part of a pass

// The tokens of one sequence that fall to this rank: two stretches, of which the last token's
// logits are one rank's to give.
std::vector<SequenceInput> own_part(const ExchangedAttention& spread, const SequenceInput& whole) {
  std::vector<SequenceInput> out;
  const size_t rank = spread.rank();
  for (const TokenRange& stretch :
       {spread.placement().front(rank), spread.placement().back(rank)}) {
    if (stretch.size() == 0) continue;
    const size_t first = stretch.begin - whole.first_position;
    const bool ends = first + stretch.size() == whole.tokens.size();
    out.push_back({.sequence = whole.sequence,
                   .tokens = whole.tokens.subspan(first, stretch.size()),
                   .first_position = stretch.begin,
                   .logits = ends ? whole.logits : LogitsWanted::kNone,
                   .last_hidden = ends ? whole.last_hidden : nullptr});
  }
  return out;
}

void forward_with(models::SpreadAttention& attention, const models::LanguageModel& model,
                  SharedPages& pages, std::span<const SequenceInput> batch, float* logits,
                  models::Workspace& workspace, const CoreSet& cores) {
  workspace.spread = &attention;
  try {
    model.forward(batch, pages, logits, workspace, cores);
  } catch (...) {
    workspace.spread = nullptr;
    throw;
  }
  workspace.spread = nullptr;
}

void run_pass(Crew& crew, const models::LanguageModel& share, SharedPages& pages, bool spread,
              std::span<const SequenceInput> batch, float* logits, models::Workspace& workspace,
              const CoreSet& cores) {
  if (spread)
    return spread_pass(*crew.spread, share, pages, batch.front(), logits, workspace, cores);
  if (pages.division() == 1) return share.forward(batch, pages, logits, workspace, cores);
  crew.divided->begin(pages, batch);
  forward_with(*crew.divided, share, pages, batch, logits, workspace, cores);
}

RankMemory memory_with(const models::LanguageModel& share) {
  return {.weight_bytes = share.weight_bytes(), .own_bytes = resident_memory().anonymous_bytes};
}

void switch_overlap(const Crew& crew, bool on) {
  if (auto* const team = dynamic_cast<flash_overlap::OverlappedTeam*>(crew.team.get()))
    team->set_overlap(on);
}

// ---- rank 0

class LeadingModel final : public models::LanguageModel {
 public:
  LeadingModel(std::shared_ptr<Crew> crew, std::unique_ptr<models::LanguageModel> share)
      : crew_(std::move(crew)), share_(std::move(share)) {}

  ~LeadingModel() override {
    if (lost_) return;
    try {
      LetterWriter writer;
      writer.put(Order::kDismiss);
      send_to_all(crew_->ranks, writer.bytes());
    } catch (const Error&) {  // then they are gone already
    }
  }

  const models::LanguageModelConfig& config() const override { return share_->config(); }
  kernels::KvShape kv_shape() const override { return share_->kv_shape(); }
  size_t weight_bytes() const override { return share_->weight_bytes(); }
  std::unique_ptr<models::Workspace> make_workspace() const override {
    return share_->make_workspace();
  }
  size_t packed_head_bytes() const override { return share_->packed_head_bytes(); }
  size_t embedding_bytes() const override { return share_->embedding_bytes(); }
  TensorView head_weight() const override { return share_->head_weight(); }
  void release_head_weight() const override { share_->release_head_weight(); }
  const Crew& crew() const { return *crew_; }

  std::vector<RankMemory> memory() const {
    const std::scoped_lock lock(mutex_);
    check_present();
    std::vector<RankMemory> out = {memory_with(*share_)};
    LetterWriter writer;
    writer.put(Order::kMemory);
    together([&] {
      send_to_all(crew_->ranks, writer.bytes());
      for (size_t r = 1; r < crew_->ranks.size(); ++r)
        crew_->ranks.receive(std::as_writable_bytes(std::span(&out.emplace_back(), 1)), r,
                             kMemoryTag);
    });
    return out;
  }

  void set_overlap(bool on) const {
    const std::scoped_lock lock(mutex_);
    check_present();
    LetterWriter writer;
    writer.put(Order::kOverlap);
    writer.put<uint8_t>(on);
    together([&] { send_to_all(crew_->ranks, writer.bytes()); });
    switch_overlap(*crew_, on);
  }

  void head(const float* hidden, size_t num_rows, float* logits, models::Workspace& workspace,
            const CoreSet& cores) const override {
    if (!crew_->team) return share_->head(hidden, num_rows, logits, workspace, cores);
    const std::scoped_lock lock(mutex_);
    check_present();
    LetterWriter writer;
    writer.put(Order::kHead);
    writer.put<uint64_t>(num_rows);
    writer.put_all(std::span(hidden, num_rows * config().hidden_size));
    together([&] {
      send_to_all(crew_->ranks, writer.bytes());
      share_->head(hidden, num_rows, logits, workspace, cores);
    });
  }

  void forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
               models::Workspace& workspace, const CoreSet& cores) const override {
    const std::scoped_lock lock(mutex_);
    check_present();
    auto* const pages = dynamic_cast<LeadingPages*>(&cache);
    if (pages == nullptr)
      fail(ErrorKind::kUnsupported,
           "several ranks cannot keep keys and values as this measurement does: start one process");
    for (const SequenceInput& input : batch)
      for (const Token token : input.tokens)  // before anybody begins
        if (token < 0 || static_cast<size_t>(token) >= config().vocab_size)
          fail(ErrorKind::kInvalidInput, "token {} is outside the model's vocabulary of {}", token,
               config().vocab_size);
    const bool spread = is_spread(batch, *pages);
    together([&] {
      announce(batch, *pages, spread);
      run_pass(*crew_, *share_, *pages, spread, batch, logits, workspace, cores);
    });
  }

 private:
  void check_present() const {
    if (lost_) fail(ErrorKind::kPeerLost, "a rank was lost before: start the job again");
  }

  template <typename Body>
  void together(Body&& body) const {
    try {
      body();
    } catch (...) {
      lost_ = true;  // the others are in the middle of it
      throw;
    }
  }

  bool is_spread(std::span<const SequenceInput> batch, const SharedPages& pages) const {
    // What somebody else has of the first new page would be missing.
    if (pages.division() != 1 && batch[0].first_position % kernels::kPageTokens != 0) return false;
    return crew_->spread && batch.size() == 1 && batch[0].hidden == nullptr &&
           batch[0].logits != LogitsWanted::kAll &&
           batch[0].tokens.size() >= kSpreadTokens * crew_->plan.sequence;
  }

  void announce(std::span<const SequenceInput> batch, LeadingPages& pages, bool spread) const {
    LetterWriter writer;
    writer.put(Order::kPass);
    writer.put_counted(std::span<const uint64_t>(take_gone()));
    writer.put<uint64_t>(id_of(pages));
    writer.put_counted(std::span<const std::byte>(pages.take_changes()));
    writer.put<uint8_t>(spread);
    writer.put<uint64_t>(batch.size());
    for (const SequenceInput& input : batch) {
      writer.put<uint64_t>(input.sequence);
      writer.put<uint64_t>(input.first_position);
      writer.put(input.logits);
      writer.put_counted(input.tokens);
    }
    send_to_all(crew_->ranks, writer.bytes());
  }

  // ---- caches that the others have copies of
  struct Known {
    std::weak_ptr<const void> life;
    uint64_t id;
  };
  std::vector<uint64_t> take_gone() const {
    std::vector<uint64_t> gone;
    for (const Known& known : caches_)
      if (known.life.expired()) gone.push_back(known.id);
    std::erase_if(caches_, [](const Known& known) { return known.life.expired(); });
    return gone;
  }
  uint64_t id_of(const LeadingPages& pages) const {
    const std::weak_ptr<const void> life = pages.life();
    for (const Known& known : caches_)
      if (!known.life.owner_before(life) && !life.owner_before(known.life)) return known.id;
    caches_.push_back({life, next_id_});
    return next_id_++;
  }

  std::shared_ptr<Crew> crew_;
  std::unique_ptr<models::LanguageModel> share_;
  mutable std::mutex mutex_;  // ranks meet in one order of passes; guards the rest
  mutable bool lost_ = false;
  mutable std::vector<Known> caches_;
  mutable uint64_t next_id_ = 0;
};

}  // namespace

std::string RankPlan::describe() const {
  std::string out = fmt::format("tensor {}", tensor);
  if (tensor > 1) out += overlap ? " (overlapped)" : " (plain)";
  if (sequence > 1)
    out += fmt::format(" x sequence {} ({}, {} cache)", sequence, exchange,
                       divide_cache ? "divided" : "whole");
  return out;
}

std::shared_ptr<Crew> make_crew(const comm::Communicator& ranks, const RankPlan& plan) {
  if (plan.tensor == 0 || plan.sequence == 0 || plan.tensor * plan.sequence != ranks.size())
    fail(ErrorKind::kInvalidInput,
         "--tensor-parallel {} times --sequence-parallel {} is not the number of ranks, {}",
         plan.tensor, plan.sequence, ranks.size());
  auto crew = std::make_shared<Crew>(
      Crew{.ranks = ranks, .plan = plan, .team = {}, .spread = {}, .divided = {}});
  const size_t row = crew->row(), column = ranks.rank() % plan.tensor;
  std::vector<size_t> members;
  if (plan.tensor > 1) {
    for (size_t i = 0; i < plan.tensor; ++i) members.push_back(row * plan.tensor + i);
    const comm::Communicator team = ranks.group(members, 1);
    if (plan.overlap)
      crew->team = std::make_shared<flash_overlap::OverlappedTeam>(team, plan.tunings, plan.notice);
    else
      crew->team = std::make_shared<PlainTeam>(team);
  }
  if (plan.sequence == 1) {
    if (plan.exchange != "auto") exchange_called(plan.exchange, 1, 1);
    return crew;
  }
  members.clear();
  for (size_t i = 0; i < plan.sequence; ++i) members.push_back(i * plan.tensor + column);
  const comm::Communicator line = ranks.group(members, 2);
  std::vector<std::string> hosts;
  for (size_t i = 0; i < plan.sequence; ++i) hosts.push_back(line.host(i));
  const size_t nodes = num_nodes(hosts);
  Exchange exchange;
  if (plan.exchange == "auto") {
    std::vector<NamedExchange> known = named_exchanges(plan.sequence, nodes);
    // Several lines of ranks may not choose alike: rank 0's says.
    uint64_t chosen = quickest(line, known);
    ranks.broadcast(std::as_writable_bytes(std::span(&chosen, 1)), 0);
    crew->plan.exchange = known[chosen].name;
    exchange = std::move(known[chosen].exchange);
  } else {
    exchange = exchange_called(plan.exchange, plan.sequence, nodes);
  }
  crew->spread = std::make_unique<ExchangedAttention>(line, std::move(exchange), true, true);
  crew->divided = std::make_unique<DividedAttention>(line);
  return crew;
}

std::string fingerprint(const formats::Checkpoint& checkpoint) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  const auto add = [&](const void* data, size_t size) {
    for (size_t i = 0; i < size; ++i) {
      hash ^= static_cast<const uint8_t*>(data)[i];
      hash *= 0x100000001b3;
    }
  };
  constexpr size_t kSample = 256;  // bytes at the beginning, in the middle and at the end
  for (const std::string& name : checkpoint.tensor_names()) {
    const TensorView tensor = checkpoint.require(name);
    add(name.data(), name.size());
    const uint32_t type = to_ggml(tensor.dtype);
    add(&type, sizeof type);
    for (size_t i = 0; i < tensor.shape.rank(); ++i) {
      const uint64_t dim = tensor.shape[i];
      add(&dim, sizeof dim);
    }
    const size_t bytes = tensor.bytes();
    const auto* const data = static_cast<const uint8_t*>(tensor.data);
    for (const size_t begin : {size_t{0}, bytes / 2, bytes - std::min(bytes, kSample)})
      add(data + begin, std::min(kSample, bytes - begin));
  }
  const std::string name = std::filesystem::path(checkpoint.name()).filename().string();
  return fmt::format("{} ({:016x})", name.substr(0, 90), hash);
}

std::unique_ptr<models::LanguageModel> lead(std::shared_ptr<Crew> crew,
                                            std::unique_ptr<models::LanguageModel> share) {
  return std::make_unique<LeadingModel>(std::move(crew), std::move(share));
}

size_t cache_division(const models::LanguageModel& model) {
  const auto* const leading = dynamic_cast<const LeadingModel*>(&model);
  return leading != nullptr && leading->crew().plan.divides_cache() ? leading->crew().plan.sequence
                                                                    : 1;
}

std::vector<RankMemory> memory_of_ranks(const models::LanguageModel& model) {
  const auto* const leading = dynamic_cast<const LeadingModel*>(&model);
  return leading == nullptr ? std::vector<RankMemory>{} : leading->memory();
}

void set_overlap(const models::LanguageModel& model, bool on) {
  if (const auto* const leading = dynamic_cast<const LeadingModel*>(&model))
    leading->set_overlap(on);
}

void spread_pass(ExchangedAttention& spread, const models::LanguageModel& model, SharedPages& pages,
                 const SequenceInput& whole, float* logits, models::Workspace& workspace,
                 const CoreSet& cores) {
  spread.begin(pages, whole.sequence, whole.first_position, whole.tokens.size());
  forward_with(spread, model, pages, own_part(spread, whole), logits, workspace, cores);
}

void follow(Crew& crew, const models::LanguageModel& share, CacheCopies& copies,
            const CoreSet& cores) {
  const auto workspace = share.make_workspace();
  const bool with_logits = crew.ranks.rank() < crew.plan.tensor;  // of rank 0's team
  while (true) {
    const std::vector<std::byte> letter = receive_from_leader(crew.ranks);
    LetterReader reader(letter);
    const auto order = reader.get<Order>();
    if (order == Order::kDismiss) return;
    if (order == Order::kHead) {
      if (!with_logits) continue;
      const size_t num_rows = reader.get<uint64_t>();
      std::vector<float> hidden(num_rows * share.config().hidden_size);
      reader.get_all(std::span(hidden));
      share.head(hidden.data(), num_rows, nullptr, *workspace, cores);
      continue;
    }
    if (order == Order::kMemory) {
      const RankMemory memory = memory_with(share);
      crew.ranks.send(std::as_bytes(std::span(&memory, 1)), 0, kMemoryTag);
      continue;
    }
    if (order == Order::kOverlap) {
      switch_overlap(crew, reader.get<uint8_t>() != 0);
      continue;
    }
    const Pass pass = read_pass(reader);
    for (const uint64_t cache : pass.gone) copies.drop(cache);
    SharedPages& pages = copies.apply(pass.cache, pass.changes);
    std::vector<SequenceInput> batch;
    for (const PassInput& input : pass.inputs)
      batch.push_back({.sequence = input.sequence,
                       .tokens = input.tokens,
                       .first_position = input.first_position,
                       .logits = with_logits ? input.logits : LogitsWanted::kNone});
    run_pass(crew, share, pages, pass.spread, batch, nullptr, *workspace, cores);
  }
}

}  // namespace weft::parallel
