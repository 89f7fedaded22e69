// For tests: the tiny Megrez2 models of tests/data/megrez2 and variants of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/requantize.h"
#include "text/model_runner.h"

namespace weft::text {

inline const std::filesystem::path kMegrez2Data = WEFT_SOURCE_DIR "/tests/data/megrez2";

// A folder of its own, gone afterwards.
struct ScratchFolder {
  std::filesystem::path path;
  ScratchFolder() {
    static std::atomic<int> count{0};
    path = std::filesystem::path(::testing::TempDir()) /
           ("weft_mixture_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path);
  }
  ~ScratchFolder() { std::filesystem::remove_all(path); }
};

// What a rewritten GGUF file differs in.
struct GgufChanges {
  std::map<std::string, uint32_t> numbers = {};    // hyper-parameters, without architecture
  std::map<std::string, std::string> copies = {};  // new tensor -> one of the source
  std::vector<std::string> without = {};           // tensors
  std::function<void(const std::string&, std::vector<uint8_t>&)> edit = {};  // a tensor's bytes
};

inline void rewrite_gguf(const std::filesystem::path& from, const std::filesystem::path& to,
                         const GgufChanges& changes) {
  const formats::GgufFile source = formats::GgufFile::open(from);
  formats::GgufWriter writer(to);
  const std::string prefix = *source.get_string("general.architecture") + ".";
  for (const auto& [key, value] : source.metadata()) writer.set_raw(key, value.raw);
  for (const auto& [key, number] : changes.numbers) writer.set_u32(prefix + key, number);
  std::vector<std::pair<std::string, TensorView>> tensors;
  for (const formats::GgufTensor& tensor : source.tensors())
    if (std::find(changes.without.begin(), changes.without.end(), tensor.name) ==
        changes.without.end())
      tensors.emplace_back(tensor.name, tensor.view);
  for (const auto& [name, original] : changes.copies)
    tensors.emplace_back(name, source.find(original)->view);
  for (const auto& [name, view] : tensors) writer.declare(name, view.dtype, view.shape);
  for (const auto& [name, view] : tensors) {
    const auto* data = static_cast<const uint8_t*>(view.data);
    std::vector<uint8_t> bytes(data, data + view.bytes());
    if (changes.edit) changes.edit(name, bytes);
    writer.write(bytes.data(), bytes.size());
  }
  writer.commit();
}

// The fixture's folder with pre-gating switched on or off.
inline std::filesystem::path megrez2_folder(const ScratchFolder& scratch, int frequency,
                                            bool pre_gate) {
  const auto source = kMegrez2Data / ("shared_" + std::to_string(frequency));
  if (pre_gate) return source;
  const auto folder = scratch.path / ("off_" + std::to_string(frequency));
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(source / "model.safetensors", folder / "model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  std::string config = read_file(source / "config.json");
  const std::string on = "\"pre_gate\": true";
  config.replace(config.find(on), on.size(), "\"pre_gate\": false");
  std::ofstream(folder / "config.json") << config;
  return folder;
}

// The same as a GGUF file of a type.
inline std::filesystem::path megrez2_gguf(const ScratchFolder& scratch, int frequency,
                                          const char* type) {
  const auto path = scratch.path / ("shared_" + std::to_string(frequency) + "_" + type + ".gguf");
  formats::requantize(
      *formats::open_checkpoint(kMegrez2Data / ("shared_" + std::to_string(frequency))), path,
      formats::quant_mix(type), CoreSet());
  return path;
}

}  // namespace weft::text
