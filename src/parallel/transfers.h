// One rank's messages of an exchange. All are posted at once: what comes finds its place ready, and
// a piece is passed on as soon as it is here, whatever its holder computes meanwhile. (Step by
// step, all ranks would wait for the slowest piece of each step, and links idle while somebody
// computes.)
//
// The room for that: every rank's pieces, of one layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "comm/communicator.h"
#include "parallel/exchange.h"

namespace weft::parallel {

class Transfers {
 public:
  struct Piece {
    uint16_t source = 0, piece = 0;
    std::span<std::byte> bytes;
  };
  using PieceBytes = std::function<size_t(size_t source, size_t piece)>;

  // `room`, made or made larger where it is too small, may be another's when this one is done. The
  // exchange has no fault and outlives it.
  Transfers(comm::Communicator ranks, const Exchange& exchange, const PieceBytes& piece_bytes,
            std::shared_ptr<Buffer>& room);
  // Before finish(), that is after an error: gives up what is under way.
  ~Transfers();
  Transfers(const Transfers&) = delete;
  Transfers& operator=(const Transfers&) = delete;

  std::span<std::byte> own(size_t piece) const { return own_[piece].bytes; }
  const std::vector<Piece>& coming(size_t step) const { return coming_[step]; }

  // Once all of own() are filled. On all ranks.
  void begin();
  void wait(size_t step);  // until all of coming(step) is here; steps in their order
  void finish();           // until everything has gone out

 private:
  comm::Communicator ranks_;
  const Exchange& exchange_;
  std::shared_ptr<Buffer> room_;
  std::vector<Piece> own_;
  std::vector<std::vector<Piece>> coming_;            // by step
  std::vector<std::vector<comm::Request>> receives_;  // the same order
  std::vector<comm::Request> sends_;
};

}  // namespace weft::parallel
