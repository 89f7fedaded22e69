// Whether the client of a request still listens. The HTTP library tells only when something is
// written, but a client that goes away while its prompt is read should free its place at once.
#pragma once

#include <httplib.h>

#include <chrono>

namespace weft::serve {

class ClientConnection {
 public:
  // Finds the request's socket among those of this process, by its peer's address. Lives no longer
  // than the request.
  explicit ClientConnection(const httplib::Request& request);
  bool gone() const;  // false when the socket was not found
  // Reads no more requests from it. What the client still sends is thrown away until it closes, or for
  // so long: closed at once, the system would tell it of an error, and not of the answer.
  void close_after(std::chrono::milliseconds patience) const;

 private:
  int socket_ = -1;
};

}  // namespace weft::serve
