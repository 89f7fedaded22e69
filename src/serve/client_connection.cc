#include "serve/client_connection.h"

#include <dirent.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstdlib>
#include <memory>
#include <string>

namespace weft::serve {
namespace {

bool is_peer(int socket, const std::string& address, const std::string& port) {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return false;
  char host[NI_MAXHOST], service[NI_MAXSERV];
  return getnameinfo(reinterpret_cast<sockaddr*>(&storage), length, host, sizeof host, service,
                     sizeof service, NI_NUMERICHOST | NI_NUMERICSERV) == 0 &&
         port == service && address == host;
}

}  // namespace

ClientConnection::ClientConnection(const httplib::Request& request) {
  const std::string port = std::to_string(request.remote_port);
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), closedir);
  if (!folder) return;
  while (const dirent* const entry = readdir(folder.get())) {
    const int descriptor = std::atoi(entry->d_name);
    if (descriptor > 2 && is_peer(descriptor, request.remote_addr, port)) {
      socket_ = descriptor;
      return;
    }
  }
}

bool ClientConnection::gone() const {
  if (socket_ < 0) return false;
  pollfd state{socket_, POLLRDHUP, 0};
  return poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

void ClientConnection::close_after(std::chrono::milliseconds patience) const {
  if (socket_ < 0) return;
  shutdown(socket_, SHUT_WR);
  const auto deadline = std::chrono::steady_clock::now() + patience;
  char thrown_away[16384];
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd state{socket_, POLLIN, 0};
    if (left.count() <= 0 || poll(&state, 1, static_cast<int>(left.count())) <= 0) break;
    if (recv(socket_, thrown_away, sizeof thrown_away, MSG_DONTWAIT) <= 0) break;
  }
  shutdown(socket_, SHUT_RD);
}

}  // namespace weft::serve
