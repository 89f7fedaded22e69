#include "parallel/crew.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "parallel/exchange_named.h"
#include "parallel/exchange_trial.h"
#include "parallel/flash_overlap/team.h"

namespace weft::parallel {
namespace {

using models::LogitsWanted;
using models::SequenceInput;
using models::Token;

constexpr uint32_t kPassTag = 2;
enum class Order : uint32_t { kPass, kDismiss };

// ---- a pass, as rank 0 sends it

class Writer {
 public:
  template <typename T>
  void put(T value) {
    put_all(std::span<const T>(&value, 1));
  }
  template <typename T>
  void put_all(std::span<const T> values) {
    const size_t at = bytes_.size();
    bytes_.resize(at + values.size_bytes());
    if (!values.empty()) std::memcpy(bytes_.data() + at, values.data(), values.size_bytes());
  }
  std::vector<std::byte>& bytes() { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  T get() {
    T value;
    get_all(std::span<T>(&value, 1));
    return value;
  }
  template <typename T>
  void get_all(std::span<T> values) {
    WEFT_ASSERT(values.size_bytes() <= bytes_.size());  // rank 0 is this same program
    if (!values.empty()) std::memcpy(values.data(), bytes_.data(), values.size_bytes());
    bytes_ = bytes_.subspan(values.size_bytes());
  }

 private:
  std::span<const std::byte> bytes_;
};

struct PassInput {
  size_t sequence = 0;
  std::vector<uint32_t> blocks;
  size_t first_position = 0;
  LogitsWanted logits = LogitsWanted::kNone;
  std::vector<Token> tokens;
};
struct Pass {
  kernels::KvFormat format = kernels::KvFormat::kF16;
  size_t num_blocks = 0;
  bool spread = false;
  std::vector<BlockCopy> copies;
  std::vector<PassInput> inputs;
};

// A letter has one size that most passes of decoding fit into; what is longer comes in a second
// one.
constexpr size_t kLetterBytes = 2048;

void send_to_all(const comm::Communicator& ranks, std::vector<std::byte>& bytes) {
  const uint64_t size = bytes.size();
  std::vector<std::byte> letter(kLetterBytes);
  std::memcpy(letter.data(), &size, sizeof size);
  const size_t first = std::min(bytes.size(), kLetterBytes - sizeof size);
  std::memcpy(letter.data() + sizeof size, bytes.data(), first);
  std::vector<comm::Request> requests;
  for (size_t r = 1; r < ranks.size(); ++r) {
    requests.push_back(ranks.isend(letter, r, kPassTag));
    requests.push_back(ranks.isend(std::span(bytes).subspan(first), r, kPassTag));
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

Pass read_pass(Reader& reader) {
  Pass pass;
  pass.format = reader.get<kernels::KvFormat>();
  pass.num_blocks = reader.get<uint64_t>();
  pass.spread = reader.get<uint8_t>() != 0;
  pass.copies.resize(reader.get<uint64_t>());
  reader.get_all(std::span(pass.copies));
  pass.inputs.resize(reader.get<uint64_t>());
  for (PassInput& input : pass.inputs) {
    input.sequence = reader.get<uint64_t>();
    input.blocks.resize(reader.get<uint64_t>());
    reader.get_all(std::span(input.blocks));
    input.first_position = reader.get<uint64_t>();
    input.logits = reader.get<LogitsWanted>();
    input.tokens.resize(reader.get<uint64_t>());
    reader.get_all(std::span(input.tokens));
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

void run_pass(Crew& crew, const models::LanguageModel& share, SharedPages& pages, bool spread,
              std::span<const SequenceInput> batch, float* logits, models::Workspace& workspace,
              const CoreSet& cores) {
  if (spread)
    spread_pass(*crew.spread, share, pages, batch.front(), logits, workspace, cores);
  else
    share.forward(batch, pages, logits, workspace, cores);
}

// ---- rank 0

class LeadingModel final : public models::LanguageModel {
 public:
  LeadingModel(std::shared_ptr<Crew> crew, std::unique_ptr<models::LanguageModel> share)
      : crew_(std::move(crew)), share_(std::move(share)) {}

  ~LeadingModel() override {
    if (lost_) return;
    try {
      Writer writer;
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

  void forward(std::span<const SequenceInput> batch, kernels::KvStore& cache, float* logits,
               models::Workspace& workspace, const CoreSet& cores) const override {
    const std::scoped_lock lock(mutex_);
    if (lost_) fail(ErrorKind::kPeerLost, "a rank was lost before: start the job again");
    auto* const pages = dynamic_cast<LeadingPages*>(&cache);
    const bool transforms = std::any_of(batch.begin(), batch.end(), [&](const SequenceInput& input) {
      return cache.transform(0, input.sequence).any();
    });
    if (pages == nullptr || transforms)
      fail(ErrorKind::kUnsupported, "several ranks need a KV cache of 16 bit throughout");
    for (const SequenceInput& input : batch)
      for (const Token token : input.tokens)  // before anybody begins
        if (token < 0 || static_cast<size_t>(token) >= config().vocab_size)
          fail(ErrorKind::kInvalidInput, "token {} is outside the model's vocabulary of {}", token,
               config().vocab_size);
    const bool spread = is_spread(batch);
    try {
      announce(batch, *pages, spread);
      run_pass(*crew_, *share_, *pages, spread, batch, logits, workspace, cores);
    } catch (...) {
      lost_ = true;  // the others are in the middle of a pass
      throw;
    }
  }

 private:
  bool is_spread(std::span<const SequenceInput> batch) const {
    return crew_->spread && batch.size() == 1 && batch[0].hidden == nullptr &&
           batch[0].logits != LogitsWanted::kAll &&
           batch[0].tokens.size() >= kSpreadTokens * crew_->plan.sequence;
  }

  void announce(std::span<const SequenceInput> batch, LeadingPages& pages, bool spread) const {
    Writer writer;
    writer.put(Order::kPass);
    writer.put(pages.format());
    writer.put<uint64_t>(pages.num_blocks());
    writer.put<uint8_t>(spread);
    const std::vector<BlockCopy> copies = pages.take_copies();
    writer.put<uint64_t>(copies.size());
    writer.put_all(std::span<const BlockCopy>(copies));
    writer.put<uint64_t>(batch.size());
    for (const SequenceInput& input : batch) {
      const auto blocks = pages.blocks(input.sequence);
      writer.put<uint64_t>(input.sequence);
      writer.put<uint64_t>(blocks.size());
      writer.put_all(blocks);
      writer.put<uint64_t>(input.first_position);
      writer.put(input.logits);
      writer.put<uint64_t>(input.tokens.size());
      writer.put_all(input.tokens);
    }
    send_to_all(crew_->ranks, writer.bytes());
  }

  std::shared_ptr<Crew> crew_;
  std::unique_ptr<models::LanguageModel> share_;
  mutable std::mutex mutex_;  // ranks meet in one order of passes
  mutable bool lost_ = false;
};

}  // namespace

std::string RankPlan::describe() const {
  std::string out = fmt::format("tensor {}", tensor);
  if (tensor > 1) out += overlap ? " (overlapped)" : " (plain)";
  if (sequence > 1) out += fmt::format(" x sequence {} ({})", sequence, exchange);
  return out;
}

std::shared_ptr<Crew> make_crew(const comm::Communicator& ranks, const RankPlan& plan) {
  if (plan.tensor == 0 || plan.sequence == 0 || plan.tensor * plan.sequence != ranks.size())
    fail(ErrorKind::kInvalidInput,
         "--tensor-parallel {} times --sequence-parallel {} is not the number of ranks, {}",
         plan.tensor, plan.sequence, ranks.size());
  auto crew = std::make_shared<Crew>(Crew{.ranks = ranks, .plan = plan, .team = {}, .spread = {}});
  const size_t row = ranks.rank() / plan.tensor, column = ranks.rank() % plan.tensor;
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

void spread_pass(ExchangedAttention& spread, const models::LanguageModel& model, SharedPages& pages,
                 const SequenceInput& whole, float* logits, models::Workspace& workspace,
                 const CoreSet& cores) {
  spread.begin(pages, whole.sequence, whole.first_position, whole.tokens.size());
  const auto part = own_part(spread, whole);
  workspace.spread = &spread;
  try {
    model.forward(part, pages, logits, workspace, cores);
  } catch (...) {
    workspace.spread = nullptr;
    throw;
  }
  workspace.spread = nullptr;
}

void follow(Crew& crew, const models::LanguageModel& share, const CoreSet& cores) {
  const auto workspace = share.make_workspace();
  std::optional<FollowingPages> pages;
  const bool with_logits = crew.ranks.rank() < crew.plan.tensor;  // of rank 0's team
  while (true) {
    const std::vector<std::byte> letter = receive_from_leader(crew.ranks);
    Reader reader(letter);
    if (reader.get<Order>() == Order::kDismiss) return;
    const Pass pass = read_pass(reader);
    if (!pages)
      pages.emplace(share.config().num_layers, share.kv_shape(), pass.format, pass.num_blocks);
    for (const BlockCopy& copy : pass.copies) pages->copy(copy);
    std::vector<SequenceInput> batch;
    for (const PassInput& input : pass.inputs) {
      pages->set_sequence(input.sequence, input.blocks, input.first_position);
      batch.push_back({.sequence = input.sequence,
                       .tokens = input.tokens,
                       .first_position = input.first_position,
                       .logits = with_logits ? input.logits : LogitsWanted::kNone});
    }
    run_pass(crew, share, *pages, pass.spread, batch, nullptr, *workspace, cores);
  }
}

}  // namespace weft::parallel
