#include "formats/safetensors.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/error.h"
#include "formats/bounded_json.h"

namespace weft::formats {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100 << 20;  // the reference implementation's limit
constexpr size_t kMaxIndexBytes = 64 << 20;
constexpr const char* kDamaged = "The file is truncated or damaged: fetch it again.";

std::optional<DType> dtype_from_safetensors(const std::string& name) {
  static const std::map<std::string, DType> kTypes = {
      {"F64", DType::kF64}, {"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBF16},
      {"I64", DType::kI64}, {"I32", DType::kI32}, {"I16", DType::kI16}, {"I8", DType::kI8},
      {"U8", DType::kI8},   {"BOOL", DType::kI8}};
  const auto it = kTypes.find(name);
  return it == kTypes.end() ? std::nullopt : std::optional(it->second);
}

// A non-negative integer member, or kInvalidInput.
uint64_t unsigned_of(const json& value, const std::string& where, const char* what) {
  if (!value.is_number_unsigned())
    fail(ErrorKind::kInvalidInput, "{}: {} is {}, expected a non-negative integer", where, what,
         value.dump(-1, ' ', false, json::error_handler_t::replace));
  return value.get<uint64_t>();
}

const json& member(const json& object, const char* key, json::value_t type,
                   const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end() || it->type() != type)
    fail(ErrorKind::kInvalidInput, "{}: '{}' is missing or has the wrong type. {}", where, key,
         kDamaged);
  return *it;
}

TensorView read_tensor(const json& entry, std::span<const uint8_t> data, const std::string& where) {
  if (!entry.is_object()) fail(ErrorKind::kInvalidInput, "{}: not an object. {}", where, kDamaged);
  const auto& dtype_name =
      member(entry, "dtype", json::value_t::string, where).get_ref<const std::string&>();
  const json& shape = member(entry, "shape", json::value_t::array, where);
  const json& offsets = member(entry, "data_offsets", json::value_t::array, where);

  const std::optional<DType> dtype = dtype_from_safetensors(dtype_name);
  if (!dtype)
    fail(ErrorKind::kUnsupported,
         "{}: number format {} is not supported (F32, F16 and BF16 weights "
         "are): save the model in one of them",
         where, dtype_name);
  if (shape.size() > kMaxDims)
    fail(ErrorKind::kUnsupported, "{}: has {} dimensions, at most {} are supported", where,
         shape.size(), kMaxDims);
  if (offsets.size() != 2)
    fail(ErrorKind::kInvalidInput, "{}: data_offsets has {} values, expected 2. {}", where,
         offsets.size(), kDamaged);

  TensorView view{*dtype, {}, nullptr};
  uint64_t elements = 1;
  for (const json& value : shape) {
    const uint64_t dim = unsigned_of(value, where, "a dimension");
    if (dim != 0 && elements > (uint64_t{1} << 60) / dim)
      fail(ErrorKind::kInvalidInput, "{}: impossibly large. {}", where, kDamaged);
    elements *= dim;
    view.shape.push_back(static_cast<size_t>(dim));
  }
  const uint64_t begin = unsigned_of(offsets[0], where, "an offset");
  const uint64_t end = unsigned_of(offsets[1], where, "an offset");
  if (begin > end || end > data.size())
    fail(ErrorKind::kInvalidInput,
         "{}: lies at bytes {} to {}, but the file holds {} of tensors. {}", where, begin, end,
         data.size(), kDamaged);
  const uint64_t needed = elements * traits(*dtype).block_bytes;
  if (needed != end - begin)
    fail(ErrorKind::kInvalidInput,
         "{}: its shape and type need {} bytes, its offsets give it {}. {}", where, needed,
         end - begin, kDamaged);
  view.data = data.data() + begin;
  return view;
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  auto mapped = MappedFile::open(path);
  SafetensorsFile file = parse(mapped->bytes(), path.string());
  file.file_ = std::move(mapped);
  return file;
}

SafetensorsFile SafetensorsFile::parse(std::span<const uint8_t> bytes, std::string name) {
  SafetensorsFile file;
  file.name_ = std::move(name);
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes)
    fail(ErrorKind::kInvalidInput, "{}: has {} bytes: not a safetensors file", file.name_,
         bytes.size());
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const auto rest = bytes.subspan(sizeof header_bytes);
  if (header_bytes > kMaxHeaderBytes || header_bytes > rest.size())
    fail(ErrorKind::kInvalidInput,
         "{}: claims a header of {} bytes, but {} follow (and {} are allowed): not a safetensors "
         "file, "
         "or a truncated one",
         file.name_, header_bytes, rest.size(), kMaxHeaderBytes);
  const std::string_view text(reinterpret_cast<const char*>(rest.data()),
                              static_cast<size_t>(header_bytes));
  if (text.empty() || text[0] != '{')
    fail(ErrorKind::kInvalidInput, "{}: not a safetensors file: its header is not a JSON object",
         file.name_);
  const json header = parse_bounded_json(text, file.name_, 3);
  const auto data = rest.subspan(static_cast<size_t>(header_bytes));
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") continue;
    file.tensors_.emplace(
        key, read_tensor(entry, data, fmt::format("{}: tensor '{}'", file.name_, key)));
  }
  return file;
}

std::map<std::string, std::string> parse_safetensors_index(std::string_view text,
                                                           const std::string& name) {
  const json index = parse_bounded_json(text, name, 4);
  if (!index.is_object()) fail(ErrorKind::kInvalidInput, "{}: not a JSON object", name);
  const json& weights = member(index, "weight_map", json::value_t::object, name);
  std::map<std::string, std::string> out;
  for (const auto& [tensor, value] : weights.items()) {
    if (!value.is_string())
      fail(ErrorKind::kInvalidInput, "{}: weight_map['{}'] is not a file name", name, tensor);
    const auto& file = value.get_ref<const std::string&>();
    if (file.empty() || file[0] == '.' ||
        file.find_first_of(std::string_view("/\\\0", 3)) != file.npos)
      fail(ErrorKind::kInvalidInput,
           "{}: weight_map['{}'] is '{}', expected a plain file name in the "
           "same folder",
           name, tensor, file);
    out.emplace(tensor, file);
  }
  return out;
}

SafetensorsFolder open_safetensors_folder(const std::filesystem::path& folder) {
  SafetensorsFolder out;
  const auto index_path = folder / "model.safetensors.index.json";
  if (!std::filesystem::exists(index_path)) {
    const auto single = folder / "model.safetensors";
    if (!std::filesystem::exists(single))
      fail(ErrorKind::kNotFound,
           "{}: holds neither model.safetensors nor model.safetensors.index.json. "
           "Weights in other formats (pytorch_model.bin) must be saved as safetensors first.",
           folder.string());
    const SafetensorsFile file = SafetensorsFile::open(single);
    out.tensors = file.tensors();
    out.files.push_back(file.file());
    return out;
  }
  const auto weight_map =
      parse_safetensors_index(read_file(index_path, kMaxIndexBytes), index_path.string());
  std::map<std::string, SafetensorsFile> shards;
  for (const auto& [tensor, file_name] : weight_map) {
    auto shard = shards.find(file_name);
    if (shard == shards.end()) {
      shard = shards.emplace(file_name, SafetensorsFile::open(folder / file_name)).first;
      out.files.push_back(shard->second.file());
    }
    const auto found = shard->second.tensors().find(tensor);
    if (found == shard->second.tensors().end())
      fail(ErrorKind::kInvalidInput,
           "{}: says that tensor '{}' is in {}, which has none of that name. "
           "Fetch the folder again.",
           index_path.string(), tensor, file_name);
    out.tensors.emplace(tensor, found->second);
  }
  return out;
}

}  // namespace weft::formats
