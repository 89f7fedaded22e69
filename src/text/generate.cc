#include "text/generate.h"

#include <chrono>

#include "base/seconds.h"
#include "text/stop_strings.h"

namespace weft::text {
namespace {

using Clock = std::chrono::steady_clock;

// The decoder's only request, finished whatever happens.
struct RunningRequest {
  static constexpr RequestId kId = 0;
  Decoder& decoder;
  RunningRequest(Decoder& d, DecodeRequest request) : decoder(d) {
    decoder.start(kId, std::move(request));
  }
  ~RunningRequest() { decoder.finish(kId); }
  RunningRequest(const RunningRequest&) = delete;
  RunningRequest& operator=(const RunningRequest&) = delete;
};

// The only request's tokens one by one, however many a step brings.
class Steps {
 public:
  explicit Steps(Decoder& decoder) : decoder_(decoder) {}
  DecodedToken next() {
    while (next_ == got_.size()) {
      next_ = 0;
      got_ = decoder_.step({});
    }
    return got_[next_++];
  }

 private:
  Decoder& decoder_;
  std::span<const DecodedToken> got_;
  size_t next_ = 0;
};

// Steps through the prompt. Nothing if it was stopped on the way.
std::optional<DecodedToken> prefill(Decoder& decoder, const GenerateOptions& options,
                                    StopToken stop, const ProgressFn& progress,
                                    size_t prompt_tokens) {
  while (true) {
    const auto decoded = decoder.step({.max_prompt_tokens = options.chunk_tokens});
    if (progress)
      progress(prompt_tokens - decoder.prompt_tokens_left(RunningRequest::kId), prompt_tokens);
    if (!decoded.empty()) return decoded[0];
    if (stop.stop_requested()) return std::nullopt;
  }
}

}  // namespace

const char* name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "";
}

double Generation::prefill_tokens_per_second() const {
  const auto computed = static_cast<double>(prompt_tokens - reused_prompt_tokens);
  return prefill_seconds > 0 ? computed / prefill_seconds : 0;
}

double Generation::decode_tokens_per_second() const {
  return decode_seconds > 0 ? static_cast<double>(num_sampled - 1) / decode_seconds : 0;
}

Generation generate(Decoder& decoder, const formats::Tokenizer& tokenizer,
                    std::span<const Token> prompt, const GenerateOptions& options,
                    const TextFn& on_text, StopToken stop, const ProgressFn& progress) {
  Generation result;
  result.prompt_tokens = prompt.size();
  StopStrings stop_strings(options.stop);
  formats::TokenStream stream(tokenizer, false, options.leading_space);
  bool wanted = true;
  const auto show = [&](std::string_view piece) {
    if (piece.empty()) return;
    result.text += piece;
    if (on_text && !on_text(piece)) wanted = false;
  };

  const auto start = Clock::now();
  const RunningRequest running(decoder, {.prompt = {prompt.begin(), prompt.end()},
                                         .sampling = options.sampling,
                                         .max_tokens = options.max_tokens,
                                         .filter = options.filter,
                                         .vocab = options.vocab});
  result.reused_prompt_tokens = decoder.reused_prompt_tokens(RunningRequest::kId);
  result.reason = FinishReason::kLength;
  if (options.max_tokens == 0) return result;
  std::optional<DecodedToken> decoded = prefill(decoder, options, stop, progress, prompt.size());
  result.prefill_seconds = seconds_since(start);
  const auto first = Clock::now();
  Steps steps(decoder);
  while (true) {
    if (!decoded) {
      result.reason = FinishReason::kCancelled;
      break;
    }
    if (decoded->error) throw *decoded->error;
    ++result.num_sampled;
    result.decode_seconds = seconds_since(first);
    const Token token = decoded->sampled.token;
    if (tokenizer.is_end(token)) {
      result.reason = FinishReason::kStop;
      break;
    }
    result.tokens.push_back(token);
    show(stop_strings.push(stream.push(token)));
    if (stop_strings.stopped()) {
      result.reason = FinishReason::kStop;
      break;
    }
    if (decoded->last) {
      if (decoded->complete) result.reason = FinishReason::kStop;
      break;
    }
    if (!wanted || stop.stop_requested())
      decoded.reset();
    else
      decoded = steps.next();
  }
  result.vocab = decoder.vocab_use(RunningRequest::kId);
  if (wanted) {
    show(stop_strings.push(stream.finish()));
    show(stop_strings.finish());
  }
  return result;
}

}  // namespace weft::text
