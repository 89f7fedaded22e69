// The seam that VocabTailor enters by: the head apart from the layers, and one that stays in the file
// until it is needed.
#include <gtest/gtest.h>

#include <vector>

#include "models/language_model.h"
#include "text/kv_cache.h"
#include "text/test_model.h"

namespace weft::text {
namespace {

using models::HeadLoading;
using models::LogitsWanted;

struct Pass {
  std::vector<float> logits, last_hidden;
};

Pass forward(const models::LanguageModel& model, LogitsWanted wanted) {
  const std::vector<Token> tokens = {5, 3, 3, 90, 17, 0, 95};
  const auto& c = model.config();
  KvCache cache({.num_layers = c.num_layers, .shape = model.kv_shape(), .capacity_tokens = 32});
  const SequenceId sequence = cache.create();
  EXPECT_TRUE(cache.reserve(sequence, tokens.size()));
  Pass pass{std::vector<float>(c.vocab_size), std::vector<float>(c.hidden_size)};
  const auto workspace = model.make_workspace();
  const models::SequenceInput input[] = {{.sequence = sequence,
                                          .tokens = tokens,
                                          .logits = wanted,
                                          .last_hidden = pass.last_hidden.data()}};
  model.forward(input, cache, pass.logits.data(), *workspace, CoreSet());
  return pass;
}

TEST(head, apart_from_the_layers_gives_the_same_logits) {
  for (const char* name : {"llama3_tied", "mistral", "qwen2", "qwen3"}) {
    const auto model = load_parity_model(name, HeadLoading::kNow);
    const Pass whole = forward(*model, LogitsWanted::kLast);
    const Pass apart = forward(*model, LogitsWanted::kNone);
    EXPECT_EQ(whole.last_hidden, apart.last_hidden) << name;
    std::vector<float> logits(whole.logits.size());
    const auto workspace = model->make_workspace();
    model->head(apart.last_hidden.data(), 1, logits.data(), *workspace, CoreSet());
    EXPECT_EQ(logits, whole.logits) << name;
    EXPECT_EQ(model->head_weight().shape, (Shape{model->config().vocab_size,
                                                 model->config().hidden_size}));
  }
}

TEST(head, stays_in_the_file_until_it_is_needed) {
  for (const char* name : {"llama3_tied", "mistral"}) {  // tied, untied
    const auto now = load_parity_model(name, HeadLoading::kNow), later = load_parity_model(name, HeadLoading::kWhenNeeded);
    EXPECT_GT(now->packed_head_bytes(), 0u);
    EXPECT_EQ(later->packed_head_bytes(), 0u);
    EXPECT_EQ(later->weight_bytes() + now->packed_head_bytes(), now->weight_bytes());
    EXPECT_EQ(forward(*later, LogitsWanted::kNone).last_hidden,
              forward(*now, LogitsWanted::kNone).last_hidden)
        << name << ": embeddings from the map are those of the packed head";
    EXPECT_EQ(later->packed_head_bytes(), 0u);
    EXPECT_EQ(forward(*later, LogitsWanted::kLast).logits,
              forward(*now, LogitsWanted::kLast).logits);
    EXPECT_EQ(later->packed_head_bytes(), now->packed_head_bytes());
  }
}

}  // namespace
}  // namespace weft::text
