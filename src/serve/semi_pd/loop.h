// The half of SemiPdExecutor that both its loops have. Each belongs to its loop's thread.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "serve/batch.h"
#include "serve/running_job.h"
#include "text/text_model.h"

namespace weft::serve::semi_pd {

// A request between the two loops.
struct Moving {
  RunningJob job;
  std::unique_ptr<text::DetachedRequest> request;
};

// One of the two: a batch of requests and the cores that it computes on.
struct Loop {
  Loop(const text::TextModel& model, const text::TextModel::DecoderOptions& options, CoreSet cores,
       Metrics& metrics, const PromptOrder& order)
      : Loop(model.make_decoder(cores, options), model, metrics, order) {}

  void attach(Moving moving) {
    decoder.attach(std::move(moving.request));
    batch.add(std::move(moving.job));
  }
  Moving detach(text::RequestId id) {
    Moving moving{batch.remove(id), decoder.detach(id)};
    return moving;
  }
  std::vector<Moving> detach_answers() {
    std::vector<text::RequestId> ids;
    for (const RunningJob& job : batch.jobs())
      if (!job.in_prefill()) ids.push_back(job.id());
    std::vector<Moving> out;
    for (const text::RequestId id : ids) out.push_back(detach(id));
    return out;
  }

  text::PlainDecoder& decoder;
  Batch batch;

 private:
  Loop(std::unique_ptr<text::PlainDecoder> d, const text::TextModel& model, Metrics& metrics,
       const PromptOrder& order)
      : decoder(*d), batch(std::move(d), model.tokenizer(), metrics, order) {}
};

}  // namespace weft::serve::semi_pd
