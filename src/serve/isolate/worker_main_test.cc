// The test program is its own worker: it starts itself again in that role. Some tokens in a prompt
// bring the worker into trouble.
#include "serve/isolate/worker_main.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "serve/isolate/trouble.h"
#include "serve/test_model.h"

namespace weft::serve::isolate {
namespace {

void get_into_trouble(std::span<const models::SequenceInput> batch, const uint8_t* weights) {
  for (const models::SequenceInput& input : batch)
    for (const models::Token token : input.tokens) {
      if (token == kCrashToken) raise(SIGKILL);
      if (token == kHangToken) raise(SIGSTOP);
      if (token == kStrayStoreToken) {
        std::signal(SIGSEGV, SIG_DFL);  // a sanitizer would print a report and exit
        *const_cast<volatile uint8_t*>(weights) = 1;
        std::fprintf(stderr, "the store did not fault\n");
      }
    }
}

// A server that the test kills: prints its workers, and waits.
int run_front() {
  const auto served = serve_test_model({.partition = "1:1", .isolation = IsolationOptions{}});
  for (const WorkerState& worker : served->isolation()->workers()) std::printf("%d\n", worker.pid);
  std::fclose(stdout);
  while (true) pause();
}

}  // namespace
}  // namespace weft::serve::isolate

int main(int argc, char** argv) {
  using namespace weft::serve::isolate;
  if (is_worker(argc, argv)) return run_worker(argc, argv, {.before_pass = get_into_trouble});
  if (argc == 2 && std::string_view(argv[1]) == kFrontRole) return run_front();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
