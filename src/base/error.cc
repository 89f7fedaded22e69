#include "base/error.h"

#include <array>
#include <cstdio>
#include <cstdlib>

namespace weft {
namespace {

struct KindRow {
  ErrorKind kind;
  const char* name;
  int exit_code;
  int http_status;
};

constexpr std::array<KindRow, 8> kKinds = {{
    {ErrorKind::kInvalidInput, "invalid_input", 2, 400},
    {ErrorKind::kNotFound, "not_found", 3, 404},
    {ErrorKind::kUnsupported, "unsupported", 4, 400},
    {ErrorKind::kOutOfResources, "out_of_resources", 5, 503},
    {ErrorKind::kIo, "io", 6, 500},
    {ErrorKind::kTimeout, "timeout", 7, 504},
    {ErrorKind::kCancelled, "cancelled", 130, 499},
    {ErrorKind::kPeerLost, "peer_lost", 8, 500},
}};

const KindRow& row(ErrorKind kind) { return kKinds[static_cast<size_t>(kind)]; }

}  // namespace

const char* name(ErrorKind kind) { return row(kind).name; }
int exit_code(ErrorKind kind) { return row(kind).exit_code; }
int http_status(ErrorKind kind) { return row(kind).http_status; }

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "weft: internal error: %s is false at %s:%d. Please report this.\n",
               condition, file, line);
  std::abort();
}

}  // namespace weft
