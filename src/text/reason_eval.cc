#include "text/reason_eval.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/seconds.h"

namespace weft::text {
namespace {

struct Task {
  tasks::ReasonProblem problem;
  DecodeRequest request;
  size_t most = 0;  // tokens of its answer, after which it is cut
  std::vector<Token> said;
};

std::vector<Token> encode(const TextModel& model, const std::string& prompt) {
  if (!model.has_chat_template()) return model.encode_prompt(prompt);
  return model.encode_chat(std::array{ChatMessage{.role = "user", .content = prompt}});
}

std::vector<Task> make_tasks(const TextModel& model, const ReasonEvalOptions& options) {
  std::vector<Task> out;
  for (uint64_t index = 0; index < options.num_problems; ++index) {
    Task task;
    task.problem = tasks::make_reason(options.task, options.split, options.seed, index);
    const tasks::ReasonPieces pieces = tasks::write_reason(task.problem, options.seed, index);
    const size_t right = model.tokenizer()
                             .encode(tasks::join_pieces(pieces.completion), {.add_special = false})
                             .size() +
                         1;
    DecodeRequest& request = task.request;
    request.prompt = encode(model, tasks::join_pieces(pieces.prompt));
    request.sampling = {.temperature = static_cast<float>(options.temperature),
                        .top_k = 0,
                        .top_p = 1,
                        .min_p = 0,
                        .seed = options.seed};
    request.random_stream = index;
    task.most = 2 * right;
    if (request.prompt.size() + right > model.context_length())
      fail(
          ErrorKind::kInvalidInput,
          "reason: problem {} has {} tokens and its answer {}; the context is {}. Ask for a longer "
          "one (--context) or for fewer steps.",
          index, request.prompt.size(), right, model.context_length());
    out.push_back(std::move(task));
  }
  return out;
}

}  // namespace

size_t ReasonScore::num_right() const {
  return static_cast<size_t>(std::count_if(answers.begin(), answers.end(),
                                           [](const ReasonAnswer& a) { return a.verdict.right; }));
}

size_t ReasonScore::num_unfinished() const {
  return static_cast<size_t>(
      std::count_if(answers.begin(), answers.end(),
                    [](const ReasonAnswer& a) { return a.cut || !a.verdict.finished; }));
}

size_t ReasonScore::num_tokens() const {
  size_t sum = 0;
  for (const ReasonAnswer& a : answers) sum += a.tokens;
  return sum;
}

size_t ReasonScore::token_quantile(double share) const {
  std::vector<size_t> lengths;
  for (const ReasonAnswer& a : answers) lengths.push_back(a.tokens);
  std::sort(lengths.begin(), lengths.end());
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(lengths.size())));
  return lengths.at(rank == 0 ? 0 : rank - 1);
}

double ReasonScore::tokens_per_second() const {
  return seconds > 0 ? static_cast<double>(num_tokens()) / seconds : 0;
}

ReasonScore eval_reason(const TextModel& model, const ReasonEvalOptions& options,
                        const CoreSet& cores, StopToken stop, const ProgressFn& progress) {
  if (options.batch == 0) fail(ErrorKind::kInvalidInput, "reason: a batch of 0 problems");
  std::vector<Task> all = make_tasks(model, options);
  size_t longest = 0;
  for (const Task& task : all)
    longest = std::max(longest, std::min(task.request.prompt.size() + task.most,
                                         model.context_length()));
  constexpr size_t kPage = kernels::kPageTokens;
  const auto decoder = model.make_decoder(
      cores, {.capacity_tokens = options.batch * ((longest + kPage - 1) / kPage) * kPage,
              .keep_prefixes = false});
  const formats::Tokenizer& tokenizer = model.tokenizer();
  ReasonScore out;
  out.answers.resize(all.size());
  size_t started = 0, done = 0;
  std::vector<RequestId> ended;
  const auto start = std::chrono::steady_clock::now();
  while (done < all.size()) {
    stop.throw_if_stopped();
    for (; started < all.size() && started - done < options.batch; ++started)
      decoder->start(started, std::move(all[started].request));
    ended.clear();
    for (const DecodedToken& decoded : decoder->step({})) {
      if (decoded.error) throw *decoded.error;
      const RequestId id = decoded.request;
      ReasonAnswer& answer = out.answers[id];
      ++answer.tokens;
      const bool end = tokenizer.is_end(decoded.sampled.token);
      if (!end) all[id].said.push_back(decoded.sampled.token);
      const bool enough = decoded.last || answer.tokens == all[id].most;
      answer.cut = enough && !end;
      if (end || enough) ended.push_back(id);
    }
    for (const RequestId id : ended) {
      decoder->finish(id);
      Task& task = all[id];
      out.answers[id].steps = task.problem.steps.size();
      out.answers[id].verdict = tasks::check_reason(task.problem, tokenizer.decode(task.said));
      ++done;
      if (progress) progress(done, all.size());
    }
  }
  out.seconds = seconds_since(start);
  return out;
}

}  // namespace weft::text
