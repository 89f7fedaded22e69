#include "serve/isolate/channel.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace weft::serve::isolate {
namespace {

// Each part begins on a page of its own.
constexpr size_t kAlign = 4096;
size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

constexpr size_t kSetupAt = kAlign;
static_assert(sizeof(Channel::Header) <= kSetupAt);
constexpr size_t kPartsAt = kSetupAt + (sizeof(WorkerSetup) + kAlign - 1) / kAlign * kAlign;

size_t total_bytes(const ChannelSizes& s) {
  return kPartsAt + aligned(s.logit_rows * s.vocab_size * sizeof(float)) +
         aligned(s.tokens * s.hidden_size * sizeof(float)) +
         aligned(s.sequences * sizeof(SequenceRecord)) + aligned(s.tokens * sizeof(models::Token)) +
         aligned(s.blocks * sizeof(text::KvBlock));
}

}  // namespace

void ErrorRecord::set(ErrorKind k, const char* text) {
  const size_t length = std::min(std::strlen(text), sizeof message - 1);
  std::memcpy(message, text, length);
  message[length] = 0;
  kind = static_cast<int32_t>(k);
}

std::optional<Error> ErrorRecord::get() const {
  const int32_t k = kind;
  if (k < 0 || k > static_cast<int32_t>(ErrorKind::kPeerLost)) return std::nullopt;
  return Error(static_cast<ErrorKind>(k), std::string(message, strnlen(message, sizeof message)));
}

Channel::Channel(SharedMemory& memory, const WorkerSetup& setup)
    : memory_(memory.append(total_bytes(setup.sizes))) {
  new (memory_.data()) Header;
  new (memory_.data() + kSetupAt) WorkerSetup(setup);
  lay_out(setup.sizes);
}

Channel::Channel(const SharedMemory& memory)
    : memory_(memory.map(0, memory.bytes(), SharedMemory::Access::kReadWrite)) {
  lay_out(reinterpret_cast<WorkerSetup*>(memory_.data() + kSetupAt)->sizes);
}

void Channel::lay_out(const ChannelSizes& sizes) {
  sizes_ = sizes;
  header_ = memory_.as<Header>();
  setup_ = reinterpret_cast<WorkerSetup*>(memory_.data() + kSetupAt);
  uint8_t* at = memory_.data() + kPartsAt;
  const auto take = [&at](auto*& part, size_t count) {
    part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(at);
    at += aligned(count * sizeof *part);
  };
  take(logits_, sizes.logit_rows * sizes.vocab_size);
  take(hidden_, sizes.tokens * sizes.hidden_size);
  take(sequences_, sizes.sequences);
  take(tokens_, sizes.tokens);
  take(blocks_, sizes.blocks);
}

}  // namespace weft::serve::isolate
