// Which layers of a model may keep their keys and values in fewer bits, and what that costs:
// measured once, forward passes only, kept in a file beside the model (*.kvq.json).
//
// Sensitivity: for each layer, side (K, V) and width, the mean KL divergence of the next-token
// distribution from the 16-bit cache's when that side of that layer alone is narrow (pm-kvq.md
// §3.6; the paper takes gradients). Allocation: the pair of widths of each layer that makes the sum
// of sensitivities least within a budget of bits, exactly, by dynamic programming.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/interrupt.h"
#include "base/progress.h"
#include "base/thread_pool.h"
#include "formats/checkpoint.h"
#include "models/language_model.h"
#include "text/kv_replay.h"
#include "text/kv_smoothing.h"

namespace weft::text {

// Mean KL when one layer's keys (or values) are in 8, 4 and 2 bit.
struct KvSensitivity {
  std::array<double, 3> k{}, v{};
};

struct KvCalibration {
  uint64_t model_hash = 0;
  std::string model;  // name, for people
  size_t num_kv_heads = 0, head_dim = 0, group = 0;
  uint64_t text_hash = 0;
  size_t text_tokens = 0;
  std::vector<KvSensitivity> layers;
  std::vector<KvSmoothing> smoothing;  // of each layer
};

// Of the configuration and the first layer's key weights: enough to tell a fine-tune from its base.
uint64_t kv_model_hash(const formats::Checkpoint& checkpoint);
uint64_t kv_text_hash(std::string_view text);

// Fills `layers` and `text_tokens`; search_smoothing() gives the rest. `tokens`: 258 at least, for the first 256 positions see only
// exact keys. kInvalidInput as replay_kv().
KvCalibration calibrate_kv(const models::LanguageModel& model,
                           std::span<const models::Token> tokens, const CoreSet& cores,
                           StopToken stop = {}, const ProgressFn& progress = {});

// Widths of 16 (cost 0), 8, 4 and 2 bit, none below `least`, whose sum over layers and sides is at
// most `total_bits`, with the least sum of sensitivities. Of equal sums, the one whose lower layers
// keep more bits. kInvalidInput: `total_bits` too small for `least` everywhere.
std::vector<KvWidths> allocate_kv(std::span<const KvSensitivity> layers, size_t total_bits,
                                      size_t least);

// As KvPolicyOptions take them: sensitivities, and smoothing factors.
std::vector<KvPolicyOptions::Sensitivity> sensitivities(const KvCalibration& calibration);
std::vector<std::vector<float>> factors(const KvCalibration& calibration);

// The file. Loading names the file, the field, what it holds and what is needed: kInvalidInput for
// anything but what save_kv_calibration() writes for this model, kNotFound.
void save_kv_calibration(const KvCalibration& calibration, const std::filesystem::path& path);
KvCalibration load_kv_calibration(const std::filesystem::path& path,
                                  const formats::Checkpoint& checkpoint);
KvCalibration parse_kv_calibration(std::string_view text, const std::string& name);

}  // namespace weft::text
