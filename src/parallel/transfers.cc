#include "parallel/transfers.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"

namespace weft::parallel {
namespace {

// Of the i-th transfer of a step.
uint32_t tag_of(size_t step, size_t i) { return static_cast<uint32_t>(step << 14 | i); }

}  // namespace

Transfers::Transfers(comm::Communicator ranks, const Exchange& exchange,
                     const PieceBytes& piece_bytes, std::shared_ptr<Buffer>& room)
    : ranks_(std::move(ranks)), exchange_(exchange), coming_(exchange.steps.size()) {
  size_t bytes = 0;
  for (size_t source = 0; source < exchange.num_ranks; ++source)
    for (size_t piece = 0; piece < exchange.num_pieces; ++piece)
      bytes += piece_bytes(source, piece);
  // One that is not this caller's alone still belongs to messages that were given up.
  if (!room || room.use_count() > 1 || room->bytes() < bytes)
    room = std::make_shared<Buffer>(bytes, "pieces of keys and values");
  room_ = room;
  std::span<std::byte> left = std::as_writable_bytes(std::span(room_->data(), room_->bytes()));
  const auto place = [&](uint16_t source, uint16_t piece) {
    const size_t size = piece_bytes(source, piece);
    const Piece out{source, piece, left.first(size)};
    left = left.subspan(size);
    return out;
  };
  const auto rank = static_cast<uint16_t>(ranks_.rank());
  for (uint16_t piece = 0; piece < exchange.num_pieces; ++piece) own_.push_back(place(rank, piece));
  for (size_t step = 0; step < exchange.steps.size(); ++step)
    for (const Transfer& t : exchange.steps[step])
      if (t.to == rank) coming_[step].push_back(place(t.source, t.piece));
}

Transfers::~Transfers() {
  for (comm::Request& send : sends_) send.abandon(room_);  // first: they may wait for receives
  for (auto& step : receives_)
    for (comm::Request& receive : step) receive.abandon(room_);
}

void Transfers::begin() {
  const size_t rank = ranks_.rank();
  receives_.resize(exchange_.steps.size());
  for (size_t step = 0; step < exchange_.steps.size(); ++step) {
    const auto& transfers = exchange_.steps[step];
    for (size_t i = 0; i < transfers.size(); ++i)
      if (transfers[i].to == rank)
        receives_[step].push_back(ranks_.ireceive(coming_[step][receives_[step].size()].bytes,
                                                  transfers[i].from, tag_of(step, i)));
  }
  // A rank's own pieces could all go at once; each waits for the one before on its link, as it
  // would have the link to itself in a step.
  const comm::Request nothing;
  std::vector<std::optional<size_t>> last_to(ranks_.size());
  for (size_t step = 0; step < exchange_.steps.size(); ++step) {
    const auto& transfers = exchange_.steps[step];
    for (size_t i = 0; i < transfers.size(); ++i) {
      const Transfer& t = transfers[i];
      if (t.from != rank) continue;
      std::span<const std::byte> bytes = own_[t.piece].bytes;
      const comm::Request* before = last_to[t.to] ? &sends_[*last_to[t.to]] : &nothing;
      if (t.source != rank) {
        const auto& held = coming_[step - 1];
        const auto it = std::find_if(held.begin(), held.end(), [&](const Piece& p) {
          return p.source == t.source && p.piece == t.piece;
        });
        bytes = it->bytes;
        before = &receives_[step - 1][static_cast<size_t>(it - held.begin())];
      }
      last_to[t.to] = sends_.size();
      sends_.push_back(ranks_.isend_after(*before, bytes, t.to, tag_of(step, i)));
    }
  }
}

void Transfers::wait(size_t step) {
  for (comm::Request& receive : receives_[step]) receive.wait();
}

void Transfers::finish() {
  for (comm::Request& send : sends_) send.wait();
}

}  // namespace weft::parallel
