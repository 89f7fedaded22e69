#include "train/snapshot.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/file.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
constexpr std::string_view kMagic = "WEFTRUN1";
constexpr uint64_t kMaxHeader = 1 << 20;

// Two interleaved multiply-rotate streams over 8-byte words: finds damage, keeps nobody out.
class Checksum {
 public:
  void add(const void* data, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes + i, 8);
      mix(word);
    }
    uint64_t rest = size - i;  // the length of the tail counts too
    for (; i < size; ++i) rest = rest << 8 | bytes[i];
    mix(rest);
  }
  uint64_t value() const { return a_ ^ std::rotl(b_, 32); }

 private:
  void mix(uint64_t word) {
    a_ = std::rotl((a_ ^ word) * 0x9E3779B97F4A7C15, 29);
    b_ = (b_ + word) * 0xC2B2AE3D27D4EB4F + 1;
  }
  uint64_t a_ = 0x243F6A8885A308D3, b_ = 0x13198A2E03707344;  // digits of pi
};

std::optional<size_t> step_of(const fs::path& file) {
  const std::string name = file.filename();
  constexpr std::string_view kBegin = "checkpoint-", kEnd = ".weft";
  if (!name.starts_with(kBegin) || !name.ends_with(kEnd)) return std::nullopt;
  const std::string digits = name.substr(kBegin.size(), name.size() - kBegin.size() - kEnd.size());
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != digits.npos)
    return std::nullopt;
  return std::stoull(digits);
}

}  // namespace

void write_snapshot(const fs::path& path, const ordered_json& state, const NamedArrays& arrays) {
  ordered_json header = {{"state", state}, {"arrays", ordered_json::array()}};
  for (const auto& [name, values] : arrays)
    header["arrays"].push_back({{"name", name}, {"count", values.size()}});
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto header_bytes = static_cast<uint64_t>(text.size());
  AtomicFile file(path);
  Checksum checksum;
  const auto put = [&](const void* data, size_t size) {
    checksum.add(data, size);
    file.write(data, size);
  };
  put(kMagic.data(), kMagic.size());
  put(&header_bytes, sizeof header_bytes);
  put(text.data(), text.size());
  constexpr size_t kPiece = size_t{1} << 20;  // values: AtomicFile keeps a copy of what is written
  for (const auto& [name, values] : arrays)
    for (size_t first = 0; first < values.size(); first += kPiece)
      put(values.data() + first, std::min(kPiece, values.size() - first) * sizeof(float));
  const uint64_t sum = checksum.value();
  file.write(&sum, sizeof sum);
  file.commit();
}

Snapshot read_snapshot(const fs::path& path) {
  const auto mapped = MappedFile::open(path);
  std::span<const uint8_t> rest = mapped->bytes();
  Checksum checksum;
  const auto refuse = [&](const std::string& why) {
    fail(ErrorKind::kInvalidInput, "{}: {}", path.string(), why);
  };
  const auto take = [&](size_t size) {
    if (size > rest.size())
      refuse(
          fmt::format("ends after {} bytes: the checkpoint is truncated", mapped->bytes().size()));
    const auto part = rest.first(size);
    rest = rest.subspan(size);
    return part;
  };
  const auto get = [&](size_t size) {
    const auto part = take(size);
    checksum.add(part.data(), size);
    return part;
  };
  const auto magic = get(kMagic.size());
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0) refuse("is no checkpoint");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, get(sizeof header_bytes).data(), sizeof header_bytes);
  if (header_bytes > kMaxHeader) refuse("the checkpoint is damaged (its header's length)");
  const auto text = get(static_cast<size_t>(header_bytes));
  const ordered_json header = ordered_json::parse(text.begin(), text.end(), nullptr, false);
  if (!header.is_object() || !header.contains("state") || !header.contains("arrays") ||
      !header["arrays"].is_array())
    refuse("the checkpoint is damaged (its header)");
  Snapshot snapshot;
  snapshot.state = header["state"];
  constexpr size_t kPiece = size_t{1} << 20;  // as it was written, since a piece's length counts
  for (const ordered_json& entry : header["arrays"]) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() ||
        !entry.contains("count") || !entry["count"].is_number_unsigned())
      refuse("the checkpoint is damaged (its list of arrays)");
    const size_t count = entry["count"];
    if (count > rest.size() / sizeof(float))
      refuse(
          fmt::format("ends after {} bytes: the checkpoint is truncated", mapped->bytes().size()));
    std::vector<float>& values = snapshot.arrays[entry["name"].get<std::string>()];
    values.resize(count);
    for (size_t first = 0; first < count; first += kPiece) {
      const size_t bytes = std::min(kPiece, count - first) * sizeof(float);
      std::memcpy(values.data() + first, get(bytes).data(), bytes);
    }
  }
  uint64_t sum = 0;
  std::memcpy(&sum, take(sizeof sum).data(), sizeof sum);
  if (sum != checksum.value() || !rest.empty()) refuse("the checkpoint is damaged (its checksum)");
  return snapshot;
}

fs::path checkpoint_path(const fs::path& folder, size_t step) {
  return folder / fmt::format("checkpoint-{}.weft", step);
}

std::vector<size_t> checkpoint_steps(const fs::path& folder) {
  std::vector<size_t> steps;
  if (!fs::is_directory(folder)) return steps;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const auto step = step_of(entry.path())) steps.push_back(*step);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void keep_last_checkpoints(const fs::path& folder, size_t count) {
  const std::vector<size_t> steps = checkpoint_steps(folder);
  for (size_t i = count; i < steps.size(); ++i) fs::remove(checkpoint_path(folder, steps[i]));
}

std::optional<Snapshot> last_checkpoint(const fs::path& folder, std::vector<std::string>& refused) {
  for (const size_t step : checkpoint_steps(folder)) {
    try {
      return read_snapshot(checkpoint_path(folder, step));
    } catch (const Error& error) {
      refused.emplace_back(error.what());
    }
  }
  return std::nullopt;
}

}  // namespace weft::train
