#include "train/export.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "formats/gguf.h"
#include "formats/hf_tokenizer_writer.h"
#include "formats/quant_mix.h"
#include "formats/requantize.h"
#include "formats/tokenizer.h"
#include "kernels/quantize.h"

namespace weft::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

struct Source {
  std::string name;
  Shape shape;
  const float* values;
};

// See formats/safetensors.h for the layout.
void write_safetensors(const fs::path& path, std::span<const Source> tensors, bool is_bf16) {
  const size_t value_bytes = is_bf16 ? 2 : 4;
  ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  size_t offset = 0;
  for (const Source& t : tensors) {
    ordered_json shape = ordered_json::array();
    for (size_t i = 0; i < t.shape.rank(); ++i) shape.push_back(t.shape[i]);
    const size_t bytes = t.shape.elements() * value_bytes;
    header[t.name] = {{"dtype", is_bf16 ? "BF16" : "F32"},
                      {"shape", shape},
                      {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  AtomicFile file(path);
  const auto header_bytes = static_cast<uint64_t>(text.size());
  file.write(&header_bytes, sizeof header_bytes);
  file.write(text);
  constexpr size_t kStep = size_t{1} << 20;
  std::vector<uint8_t> converted(kStep * 2);
  for (const Source& t : tensors) {
    const size_t count = t.shape.elements();
    for (size_t first = 0; first < count; first += kStep) {
      const size_t n = std::min(kStep, count - first);
      if (is_bf16) {
        kernels::quantize(DType::kBF16, t.values + first, converted.data(), n);
        file.write(converted.data(), n * 2);
      } else {
        file.write(t.values + first, n * 4);
      }
    }
  }
  file.commit();
}

ordered_json generation_config(const formats::Tokenizer& tokenizer, size_t vocab_size) {
  ordered_json config = ordered_json::object();
  const auto& special = tokenizer.special();
  if (special.bos) config["bos_token_id"] = *special.bos;
  ordered_json ends = ordered_json::array();
  for (size_t i = 0; i < std::min(vocab_size, tokenizer.vocab_size()); ++i)
    if (tokenizer.is_end(static_cast<formats::Token>(i))) ends.push_back(i);
  if (!ends.empty()) config["eos_token_id"] = ends.size() == 1 ? ends[0] : ends;
  if (special.padding) config["pad_token_id"] = *special.padding;
  return config;
}

}  // namespace

void write_tokenizer(const std::string& from, const fs::path& folder) {
  constexpr const char* kFiles[] = {"tokenizer.json",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json",
                                    "chat_template.jinja",
                                    "vocab.json",
                                    "merges.txt"};
  fs::create_directories(folder);
  if (!fs::is_directory(from))
    return formats::write_hf_tokenizer(formats::GgufFile::open(from), folder);
  for (const char* file : kFiles) {
    const fs::path source = fs::path(from) / file;
    if (fs::exists(source)) write_text(folder / file, read_file(source));
  }
}

void check_finite(const ParameterTable& table, std::span<const float> weights) {
  for (const Parameter& p : table.parameters) {
    const auto values = weights.subspan(p.offset, p.size());
    const auto bad = std::ranges::find_if_not(values, [](float v) { return std::isfinite(v); });
    if (bad == values.end()) continue;
    fail(ErrorKind::kInvalidInput,
         "the trained weights are of no use: value {} of {} is {}. Train again with a lower lr, or "
         "go on from an earlier checkpoint.",
         bad - values.begin(), p.name, *bad);
  }
}

void write_hf_folder(const fs::path& folder, const ModelShape& shape, const ParameterTable& table,
                     std::span<const float> weights, std::span<const float> router_bias,
                     const ExportOptions& options) {
  fs::create_directories(folder);
  std::vector<Source> tensors;
  for (const Parameter& p : table.parameters)
    tensors.push_back({p.name, p.shape, weights.data() + p.offset});
  for (size_t i = 0; i < shape.num_moe_layers(); ++i)
    tensors.push_back({router_bias_name(shape.first_dense + i),
                       {shape.num_experts},
                       router_bias.data() + i * shape.num_experts});
  write_safetensors(folder / "model.safetensors", tensors, options.is_bf16);

  ordered_json config = hf_config(shape, options.from, options.is_bf16);
  if (!options.tokenizer.empty()) {
    write_tokenizer(options.tokenizer, folder);
    const auto tokenizer = formats::load_tokenizer(options.tokenizer);
    ordered_json generation = generation_config(*tokenizer, shape.vocab_size);
    if (options.from == nullptr) config.update(generation);
    write_text(folder / "generation_config.json", generation.dump(2) + "\n");
  }
  write_text(folder / "config.json", config.dump(2) + "\n");
}

void write_gguf(const fs::path& folder, const fs::path& out, const std::string& type,
                const CoreSet& cores) {
  const auto checkpoint = formats::open_checkpoint(folder);
  formats::requantize(*checkpoint, out, formats::quant_mix(type), cores);
}

}  // namespace weft::train
