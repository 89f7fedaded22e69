// What a worker process does: it maps weights and cache, and computes one step after another until
// the front ends it or ends itself. It keeps nothing between two steps but what makes them quick.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "models/language_model.h"

namespace weft::serve::isolate {

// For tests: called before each pass, in the worker.
struct WorkerHooks {
  std::function<void(std::span<const models::SequenceInput> batch, const uint8_t* weights)>
      before_pass = {};
};

// How the front starts this same program as a worker; the role and its own number follow.
std::vector<std::string> worker_command();

// Whether the program was started so. Then run_worker() is all that it does, and gives its exit
// code.
bool is_worker(int argc, char** argv);
int run_worker(int argc, char** argv, const WorkerHooks& hooks = {});

// Of the file, or of the files in the folder: changes when they do.
uint64_t fingerprint(const std::string& model);

}  // namespace weft::serve::isolate
