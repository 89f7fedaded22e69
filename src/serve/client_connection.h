// Whether the client of a request still listens. The HTTP library tells only when something is
// written, but a client that goes away while its prompt is read should free its place at once.
#pragma once

#include <httplib.h>

namespace weft::serve {

class ClientConnection {
 public:
  // Finds the request's socket among those of this process, by its peer's address. Lives no longer
  // than the request.
  explicit ClientConnection(const httplib::Request& request);
  bool gone() const;  // false when the socket was not found

 private:
  int socket_ = -1;
};

}  // namespace weft::serve
