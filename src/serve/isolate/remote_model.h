// A language model whose forward pass is computed by a worker process, over the same weights and
// the same pages of keys and values. Bookkeeping stays here: what a pass has stored counts once the
// worker has said that it is done, so a pass that was lost is computed again and gives the same.
//
// When a worker dies, the batch is computed again one input at a time by the next one. An input at
// which that one dies too is taken for the cause and fails alone (Workspace::failure); after too
// many deaths all inputs fail.
//
// One decoder at a time (its logits lie in the worker's memory until its next step), and embeddings
// between its steps.
#pragma once

#include <memory>
#include <vector>

#include "base/core_share.h"
#include "models/language_model.h"
#include "serve/isolate/channel.h"
#include "serve/isolate/worker_process.h"
#include "text/kv_cache.h"

namespace weft::serve::isolate {

struct RemoteModelOptions {
  std::vector<std::shared_ptr<text::KvPool>> pools;  // that the worker maps, in its order
  // Where the phase's cores come from its process drives them; else null.
  CoreShare* share = nullptr;
  Phase phase = Phase::kPrefill;
};

// `local`: the same model here, for its configuration. The others outlive it.
std::shared_ptr<const models::LanguageModel> make_remote_model(
    std::shared_ptr<const models::LanguageModel> local, Channel& channel, WorkerProcess& worker,
    RemoteModelOptions options);

}  // namespace weft::serve::isolate
