#include "serve/isolate/worker_main.h"

#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "base/buffer.h"
#include "base/error.h"
#include "base/shared_memory.h"
#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "serve/isolate/channel.h"
#include "text/kv_cache.h"

namespace weft::serve::isolate {
namespace {

using models::SequenceInput;

constexpr std::string_view kWorker = "isolated-worker";

// The cache of one pool, as a model sees it: each layer's keys and values are a sign of life.
class BeatingStore final : public kernels::KvStore {
 public:
  BeatingStore(text::KvCache& cache, std::atomic<uint32_t>& beat) : cache_(cache), beat_(beat) {}
  void append(size_t layer, size_t sequence, size_t first_position, size_t num_tokens,
              const float* k, const float* v, size_t stride) override {
    beat_.fetch_add(1, std::memory_order_relaxed);
    cache_.append(layer, sequence, first_position, num_tokens, k, v, stride);
  }
  kernels::KvView view(size_t layer, size_t sequence) const override {
    return cache_.view(layer, sequence);
  }
  size_t piece_end(size_t layer, size_t sequence, size_t position) const override {
    return cache_.piece_end(layer, sequence, position);
  }

 private:
  text::KvCache& cache_;
  std::atomic<uint32_t>& beat_;
};

// Everything that a worker maps and has. Never destroyed: the process ends without.
struct Worker {
  explicit Worker(const Channel& channel)
      : setup(channel.setup()),
        weights(SharedMemory::inherit(kWeightsFd, "packed weights")),
        arena("packed weights", weights),
        kv(SharedMemory::inherit(kKvFd, "the KV cache")) {
    if (setup.role == CoreShareRole::kWhole) {
      pool.emplace(setup.num_cores);
      cores = pool->cores();
    } else {
      shares.emplace(SharedMemory::inherit(kSharesFd, "the cores' shares"));
      share_memory = shares->map(0, shares->bytes(), SharedMemory::Access::kReadWrite);
      share.emplace(CoreShareOptions{.num_cores = setup.num_cores,
                                     .role = setup.role,
                                     .memory = share_memory.data(),
                                     .beat = &channel.header().beat});
      const Phase phase = setup.role == CoreShareRole::kPrefill ? Phase::kPrefill : Phase::kDecode;
      cores = share->cores(phase);
      share->pin_driver(phase);
    }
    if (fingerprint(setup.model) != setup.fingerprint)
      fail(ErrorKind::kInvalidInput, "{} has changed since the server started: start it again",
           setup.model);
    model = models::load_language_model(formats::open_checkpoint(setup.model), CoreSet(), {},
                                        models::HeadLoading::kNow, &arena);
    workspace = model->make_workspace();
    for (const uint64_t tokens : setup.kv_tokens) {
      caches.push_back(std::make_unique<text::KvCache>(text::KvCacheOptions{
          .num_layers = model->config().num_layers,
          .shape = model->kv_shape(),
          .format = setup.kv_format,
          .capacity_tokens = tokens,
          .memory = [this](size_t bytes) {
            Buffer part = kv.map(kv_offset, bytes, SharedMemory::Access::kReadWrite);
            kv_offset += part.bytes();
            return part;
          }}));
      stores.emplace_back(std::make_unique<BeatingStore>(*caches.back(), channel.header().beat));
    }
  }

  void compute(const Channel& channel, const WorkerHooks& hooks);

  const WorkerSetup& setup;
  SharedMemory weights;
  Arena arena;
  SharedMemory kv;
  size_t kv_offset = 0;
  std::optional<SharedMemory> shares;
  Buffer share_memory;
  std::optional<ThreadPool> pool;
  std::optional<CoreShare> share;
  CoreSet cores;
  std::unique_ptr<models::LanguageModel> model;
  std::unique_ptr<models::Workspace> workspace;
  std::vector<std::unique_ptr<text::KvCache>> caches;
  std::vector<std::unique_ptr<BeatingStore>> stores;
  std::vector<SequenceInput> batch;
};

void Worker::compute(const Channel& channel, const WorkerHooks& hooks) {
  const Channel::Header& header = channel.header();
  const ChannelSizes& sizes = channel.sizes();
  const models::Token* tokens = channel.tokens();
  const text::KvBlock* blocks = channel.blocks();
  float* hidden = channel.hidden();
  text::KvCache& cache = *caches[header.pool];
  batch.clear();
  for (const SequenceRecord& record : std::span(channel.sequences(), header.num_sequences)) {
    cache.follow(record.sequence, {blocks, record.num_blocks}, record.first_position,
                 record.first_position + record.num_tokens);
    batch.push_back({.sequence = record.sequence,
                     .tokens = {tokens, record.num_tokens},
                     .first_position = record.first_position,
                     .logits = record.logits,
                     .hidden = record.hidden ? hidden : nullptr});
    tokens += record.num_tokens;
    blocks += record.num_blocks;
    hidden += record.num_tokens * sizes.hidden_size;
  }
  if (hooks.before_pass) {
    const Buffer sealed = weights.map(0, 1, SharedMemory::Access::kRead);
    hooks.before_pass(batch, sealed.data());
  }
  model->forward(batch, *stores[header.pool],
                 channel.logits() + header.first_logit_row * sizes.vocab_size, *workspace, cores);
}

// Ends with the front: the system sees to it, but for a moment at the start.
void follow_parent(const char* parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (std::to_string(getppid()) != parent) _exit(1);
}

void forget_what_is_not_ours() {
  close_range(kEndFd, ~0U, 0);  // the server's sockets
  // Ctrl-C and a service manager's SIGTERM reach all processes of a group: the front ends this one
  // when it has finished what is under way.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_IGN);
}

[[noreturn]] void serve(Worker& worker, const Channel& channel, const WorkerHooks& hooks) {
  Channel::Header& header = channel.header();
  uint32_t done = header.request.load();  // one that was lost is asked again
  const uint64_t one = 1;
  if (write(kReadyFd, &one, sizeof one) != sizeof one) _exit(1);
  while (true) {
    const uint32_t request = header.request.load();
    if (request == done) {
      header.request.wait(done);
      continue;
    }
    try {
      worker.compute(channel, hooks);
    } catch (const Error& error) {
      header.error.set(error.kind(), error.what());
    } catch (const std::bad_alloc&) {
      header.error.set(ErrorKind::kOutOfResources, "no memory to compute in");
    }
    done = request;
    header.response.store(request);
  }
}

}  // namespace

std::vector<std::string> worker_command() {
  return {"/proc/self/exe", "weft", std::string(kWorker)};
}

bool is_worker(int argc, char** argv) { return argc == 4 && argv[1] == kWorker; }

int run_worker(int argc, char** argv, const WorkerHooks& hooks) {
  WEFT_ASSERT(is_worker(argc, argv));
  follow_parent(argv[3]);
  forget_what_is_not_ours();
  prctl(PR_SET_NAME, (std::string("weft-") + argv[2]).c_str());
  const SharedMemory memory = SharedMemory::inherit(kChannelFd, "a worker's channel");
  const Channel channel(memory);
  try {
    serve(*new Worker(channel), channel, hooks);
  } catch (const Error& error) {
    channel.header().error.set(error.kind(), error.what());
    return exit_code(error.kind());
  }
}

uint64_t fingerprint(const std::string& model) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](uint64_t value) {
    for (int i = 0; i < 8; ++i) hash = (hash ^ (value >> 8 * i & 255)) * 0x100000001b3;
  };
  const auto add_file = [&](const std::filesystem::path& path) {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return;
    add(status.st_ino);
    add(static_cast<uint64_t>(status.st_size));
    add(static_cast<uint64_t>(status.st_mtim.tv_sec));
    add(static_cast<uint64_t>(status.st_mtim.tv_nsec));
  };
  std::error_code error;
  if (!std::filesystem::is_directory(model, error)) {
    add_file(model);
    return hash;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(model, error))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) add_file(file);
  return hash;
}

}  // namespace weft::serve::isolate
