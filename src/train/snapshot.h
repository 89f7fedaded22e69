// A training run's state in a file, to go on from after a stop of any kind.
//
//   "WEFTRUN1", u64 header_bytes, header (JSON: "state", "arrays": [{"name", "count"}]),
//   the arrays, f32, one behind the other; u64 checksum of all before it. Little-endian.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace weft::train {

struct Snapshot {
  nlohmann::ordered_json state;
  std::map<std::string, std::vector<float>> arrays;
};

using NamedArrays = std::vector<std::pair<std::string, std::span<const float>>>;

// The file appears whole or not at all: kIo (a full disk, say) leaves what was there.
void write_snapshot(const std::filesystem::path& path, const nlohmann::ordered_json& state,
                    const NamedArrays& arrays);
// kInvalidInput: truncated, damaged, or no such file at all.
Snapshot read_snapshot(const std::filesystem::path& path);

// The checkpoints of a run: checkpoint-STEP.weft in its folder.
std::filesystem::path checkpoint_path(const std::filesystem::path& folder, size_t step);
std::vector<size_t> checkpoint_steps(const std::filesystem::path& folder);  // the newest first
void keep_last_checkpoints(const std::filesystem::path& folder, size_t count);
// The newest that can be read; `refused` tells why newer ones could not. Nothing: there is none.
std::optional<Snapshot> last_checkpoint(const std::filesystem::path& folder,
                                        std::vector<std::string>& refused);

}  // namespace weft::train
