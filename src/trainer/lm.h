// `weft train lm`: pre-training and fine-tuning of language models.
#pragma once

#include <string>

#include "base/interrupt.h"
#include "train/config.h"

namespace weft::trainer {

struct RunOptions {
  std::string command;  // that goes on with the run, for messages
  bool resume = false;  // from the newest checkpoint in the run's folder
};

// Runs until the config's end, or until Ctrl-C: then a checkpoint is written, and kCancelled tells
// how to go on. Leaves in `config.out`: model/ (a Hugging Face folder), model.gguf, log.jsonl,
// report.html, checkpoints. kInvalidInput and kNotFound name the key or FILE:LINE; kOutOfResources
// if three steps in a row had no finite gradient (their batches are kept beside the log).
void train_lm(const train::Config& config, const RunOptions& options, StopToken stop);

}  // namespace weft::trainer
