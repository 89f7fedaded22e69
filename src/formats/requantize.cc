#include "formats/requantize.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "formats/gguf_tokenizer_writer.h"
#include "kernels/quantize.h"

namespace weft::formats {
namespace {

// Rows of Llama's q and k per head: Hugging Face's RoPE turns (i, i + dim/2), GGUF's (2i, 2i + 1).
class RowOrder {
 public:
  RowOrder(const Checkpoint& source, std::string_view tensor) {
    if (source.rope_interleaved() || source.architecture() != "llama") return;
    const bool is_q = tensor.ends_with(".attn_q.weight") || tensor.ends_with(".attn_q.bias");
    const bool is_k = tensor.ends_with(".attn_k.weight") || tensor.ends_with(".attn_k.bias");
    if (!is_q && !is_k) return;
    head_dim_ = static_cast<size_t>(source.require_int("attention.key_length"));
    turned_ = static_cast<size_t>(source.require_int("rope.dimension_count"));
  }

  // The source's row that becomes row `row`.
  size_t operator()(size_t row) const {
    if (head_dim_ == 0) return row;
    const size_t in_head = row % head_dim_;
    if (in_head >= turned_) return row;
    return row - in_head + in_head % 2 * (turned_ / 2) + in_head / 2;
  }

 private:
  size_t head_dim_ = 0, turned_ = 0;
};

// A vector is a column of rows of one value, so that a bias is permuted as its matrix is.
Shape as_rows(const Shape& shape) {
  return shape.rank() == 1 ? Shape{shape[0], 1} : Shape{shape.rows(), shape.columns()};
}

QuantMixModel describe(const Checkpoint& source) {
  QuantMixModel model;
  model.num_layers = static_cast<size_t>(std::max<int64_t>(0, source.require_int("block_count")));
  const int64_t heads = source.get_int("attention.head_count").value_or(1);
  const int64_t kv_heads = source.get_int("attention.head_count_kv").value_or(heads);
  model.queries_per_kv_head =
      kv_heads > 0 ? static_cast<size_t>(std::max<int64_t>(1, heads / kv_heads)) : 1;
  model.has_output = source.find("output.weight").has_value();
  return model;
}

// Converts one tensor, a bounded number of rows at a time.
class TensorConverter {
 public:
  TensorConverter(const Checkpoint& source, const std::string& name, const TensorView& view,
                  DType type)
      : name_(name), view_(view), type_(type), order_(source, name) {
    const Shape rows = as_rows(view.shape);
    num_rows_ = rows[0];
    columns_ = rows[1];
    source_row_bytes_ = bytes_of(view.dtype, columns_);
    row_bytes_ = bytes_of(type, columns_);
  }

  size_t num_rows() const { return num_rows_; }
  size_t row_bytes() const { return row_bytes_; }
  size_t source_row_bytes() const { return source_row_bytes_; }

  void convert(size_t first, size_t count, uint8_t* out, const CoreSet& cores) const try {
    cores.parallel_for(count, grain(), [&](size_t begin, size_t end, size_t) {
      std::vector<float> values(columns_);
      for (size_t r = begin; r < end; ++r) {
        const uint8_t* row =
            static_cast<const uint8_t*>(view_.data) + order_(first + r) * source_row_bytes_;
        if (view_.dtype == type_) {
          std::memcpy(out + r * row_bytes_, row, row_bytes_);
          continue;
        }
        kernels::dequantize(view_.dtype, row, values.data(), columns_);
        kernels::quantize(type_, values.data(), out + r * row_bytes_, columns_);
      }
    });
  } catch (const Error& error) {
    throw error.in(fmt::format("tensor '{}'", name_));
  }

 private:
  // Some thousand values at a time: small enough to share out, large enough to be worth it.
  size_t grain() const { return std::max<size_t>(1, 4096 / columns_); }

  const std::string& name_;
  TensorView view_;
  DType type_;
  RowOrder order_;
  size_t num_rows_ = 0, columns_ = 0, source_row_bytes_ = 0, row_bytes_ = 0;
};

DType target_type(const QuantMix& mix, const QuantMixModel& model, const std::string& name,
                  const TensorView& view) {
  return traits(view.dtype).is_weight ? mixed_type(mix, model, name, view.shape) : view.dtype;
}

// A tensor of the file that is written: one of the source, or a layer's experts, which folders keep
// apart and GGUF stacks.
struct Target {
  std::string name;
  std::vector<std::string> parts;
  Shape shape;
  DType type;
};

// "blk.1.ffn_up_exps.3.weight" -> "blk.1.ffn_up_exps.weight" and 3; any other name stays.
std::pair<std::string, size_t> without_expert(const std::string& name) {
  constexpr std::string_view kStack = "_exps.", kSuffix = ".weight";
  const size_t at = name.find(kStack);
  if (at == name.npos || !name.ends_with(kSuffix)) return {name, 0};
  const size_t begin = at + kStack.size(), end = name.size() - kSuffix.size();
  if (begin >= end) return {name, 0};
  return {name.substr(0, begin - 1) + std::string(kSuffix),
          std::stoul(name.substr(begin, end - begin))};
}

std::vector<Target> targets_of(const Checkpoint& source, const QuantMix& mix,
                               const QuantMixModel& model) {
  std::vector<Target> targets;
  std::map<std::string, size_t> stacks;  // name -> index in targets
  for (const std::string& name : source.tensor_names()) {
    const TensorView view = source.require(name);
    if (view.shape.elements() == 0)
      fail(ErrorKind::kInvalidInput, "{}: tensor '{}' is empty", source.name(), name);
    const auto [stack, expert] = without_expert(name);
    if (stack == name) {
      targets.push_back({name, {name}, view.shape, target_type(mix, model, name, view)});
      continue;
    }
    const auto [it, is_new] = stacks.try_emplace(stack, targets.size());
    if (is_new) targets.push_back({stack, {}, view.shape, target_type(mix, model, stack, view)});
    auto& parts = targets[it->second].parts;
    parts.resize(std::max(parts.size(), expert + 1));
    parts[expert] = name;
  }
  for (const auto& [name, index] : stacks) {
    Target& target = targets[index];
    for (size_t e = 0; e < target.parts.size(); ++e)
      if (target.parts[e].empty() || !(source.require(target.parts[e]).shape == target.shape))
        fail(ErrorKind::kInvalidInput, "{}: expert {} of '{}' is missing or of another shape",
             source.name(), e, name);
    target.shape = {target.parts.size(), target.shape.rows(), target.shape.columns()};
  }
  return targets;
}

// Returns whether the file has a tokenizer.
bool write_metadata(GgufWriter& writer, const Checkpoint& source, const QuantMix& mix) {
  bool has_tokenizer = true;
  if (source.gguf() != nullptr) {
    for (const auto& [key, value] : source.gguf()->metadata())
      if (key != "general.alignment") writer.set_raw(key, value.raw);
    has_tokenizer = source.gguf()->metadata().contains("tokenizer.ggml.tokens");
  } else {
    writer.set_string("general.name", std::filesystem::path(source.name()).filename().string());
    write_hyperparameters(writer, source.architecture(), source.hyperparameters());
    has_tokenizer = write_gguf_tokenizer(writer, source.name(),
                                         static_cast<size_t>(source.require_int("vocab_size")));
    if (const auto chat_template = source.chat_template())
      writer.set_string("tokenizer.chat_template", *chat_template);
  }
  write_file_type(writer, mix);
  return has_tokenizer;
}

}  // namespace

void write_hyperparameters(GgufWriter& writer, const std::string& architecture,
                           const Hyperparameters& hyperparameters) {
  writer.set_string("general.architecture", architecture);
  for (const auto& [key, value] : hyperparameters) {
    const std::string full = architecture + "." + key;
    if (const auto* number = std::get_if<int64_t>(&value)) {
      if (*number < 0 || *number > std::numeric_limits<uint32_t>::max())
        fail(ErrorKind::kInvalidInput, "hyper-parameter '{}' is {}, which GGUF cannot hold", full,
             *number);
      writer.set_u32(full, static_cast<uint32_t>(*number));
    } else if (const auto* real = std::get_if<double>(&value)) {
      writer.set_f32(full, static_cast<float>(*real));
    } else if (const auto* flag = std::get_if<bool>(&value)) {
      writer.set_bool(full, *flag);
    } else {
      writer.set_string(full, std::get<std::string>(value));
    }
  }
}

void write_file_type(GgufWriter& writer, const QuantMix& mix) {
  writer.set_u32("general.file_type", mix.file_type);
  if (is_block_quantised(mix.base)) writer.set_u32("general.quantization_version", 2);
}

RequantizeReport requantize(const Checkpoint& source, const std::filesystem::path& out,
                            const QuantMix& mix, const CoreSet& cores, StopToken stop,
                            const ProgressFn& progress) {
  const QuantMixModel model = describe(source);
  const std::vector<Target> targets = targets_of(source, mix, model);
  RequantizeReport report;
  GgufWriter writer(out);
  report.has_tokenizer = write_metadata(writer, source, mix);
  for (const Target& target : targets) {
    writer.declare(target.name, target.type, target.shape);
    for (const std::string& part : target.parts) {
      const TensorView view = source.require(part);
      report.source_bytes += view.bytes();
      report.was_quantised |= is_block_quantised(view.dtype);
    }
    report.written_bytes += bytes_of(target.type, target.shape.elements());
    ++report.tensors[target.type];
  }

  constexpr size_t kChunkValues = size_t{1} << 22;  // rows of about this many values at a time
  Scratch<uint8_t> chunk;
  size_t done_bytes = 0;
  const auto convert = [&](const std::string& name, DType type) {
    const TensorView view = source.require(name);
    const TensorConverter converter(source, name, view, type);
    const size_t rows = converter.num_rows();
    const size_t step = std::max<size_t>(1, kChunkValues / (view.shape.elements() / rows));
    for (size_t first = 0; first < rows; first += step) {
      stop.throw_if_stopped();
      const size_t count = std::min(step, rows - first);
      uint8_t* bytes = chunk.need(count * converter.row_bytes());
      try {
        converter.convert(first, count, bytes, cores);
      } catch (const Error& error) {
        throw error.in(source.name());
      }
      writer.write(bytes, count * converter.row_bytes());
      done_bytes += count * converter.source_row_bytes();
      if (progress) progress(done_bytes, report.source_bytes);
    }
    source.release(view);
  };
  for (const Target& target : targets)
    for (const std::string& part : target.parts) convert(part, target.type);
  writer.commit();
  return report;
}

}  // namespace weft::formats
