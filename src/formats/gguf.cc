#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace weft::formats {
namespace {

static_assert(std::endian::native == std::endian::little,
              "values are read as they lie in the file");

constexpr size_t kDefaultAlignment = 32;
constexpr uint64_t kMaxKeyBytes = 65535;  // the format's own limit
constexpr uint32_t kVersion = 3;

enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

// Bytes of a value in the file; 0 for strings and arrays (which have a length of their own).
size_t value_bytes(uint32_t type) {
  constexpr std::array<size_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kBytes[type];
}

// Tensor types that ggml has and we do not, so that the message can name them.
const char* foreign_type_name(uint32_t type) {
  constexpr struct {
    uint32_t type;
    const char* name;
  } kForeign[] = {{9, "q8_1"},   {15, "q8_K"},   {16, "iq2_xxs"}, {17, "iq2_xs"}, {18, "iq3_xxs"},
                  {19, "iq1_s"}, {20, "iq4_nl"}, {21, "iq3_s"},   {22, "iq2_s"},  {23, "iq4_xs"},
                  {29, "iq1_m"}, {34, "tq1_0"},  {35, "tq2_0"},   {39, "mxfp4"},  {40, "nvfp4"}};
  for (const auto& row : kForeign)
    if (row.type == type) return row.name;
  return "unknown";
}

// Reads forward through the bytes and knows where it is.
class Cursor {
 public:
  Cursor(std::span<const uint8_t> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  size_t at() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }
  std::span<const uint8_t> rest() const { return bytes_.subspan(at_); }

  template <typename... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::kInvalidInput, "{}: at byte {}: {}", name_, at_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  std::span<const uint8_t> take(uint64_t size, const char* what) {
    if (size > left())
      fail_here(
          "{} needs {} bytes, but the file has {} left. The file is truncated or damaged: fetch "
          "it again.",
          what, size, left());
    const auto piece = bytes_.subspan(at_, static_cast<size_t>(size));
    at_ += static_cast<size_t>(size);
    return piece;
  }

  template <typename T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string_view string(const char* what, uint64_t limit = std::numeric_limits<uint64_t>::max()) {
    const auto length = number<uint64_t>(what);
    if (length > limit)
      fail_here("{} is {} bytes long, at most {} are allowed", what, length, limit);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  // A count of things of at least `min_bytes` each, which the rest of the file must have room for.
  size_t count(uint64_t count, size_t min_bytes, const char* what) {
    if (count > left() / min_bytes)
      fail_here(
          "{} {} do not fit into the {} bytes left. The file is truncated or damaged: fetch it "
          "again.",
          count, what, left());
    return static_cast<size_t>(count);
  }

 private:
  std::span<const uint8_t> bytes_;
  const std::string& name_;
  size_t at_ = 0;
};

template <typename To, typename From>
std::vector<To> convert(std::span<const uint8_t> bytes) {
  std::vector<To> out(bytes.size() / sizeof(From));
  for (size_t i = 0; i < out.size(); ++i) {
    From value;
    std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
    out[i] = static_cast<To>(value);
  }
  return out;
}

std::optional<std::vector<uint8_t>> decode(const GgufArray& array, uint8_t /*wanted*/) {
  if (array.type != kU8 && array.type != kBool) return std::nullopt;
  return convert<uint8_t, uint8_t>(array.bytes);
}

std::optional<std::vector<int64_t>> decode(const GgufArray& array, int64_t /*wanted*/) {
  switch (array.type) {
    case kI8:
      return convert<int64_t, int8_t>(array.bytes);
    case kU16:
      return convert<int64_t, uint16_t>(array.bytes);
    case kI16:
      return convert<int64_t, int16_t>(array.bytes);
    case kU32:
      return convert<int64_t, uint32_t>(array.bytes);
    case kI32:
      return convert<int64_t, int32_t>(array.bytes);
    case kU64:
    case kI64:
      return convert<int64_t, int64_t>(array.bytes);
    default:
      return std::nullopt;
  }
}

std::optional<std::vector<double>> decode(const GgufArray& array, double /*wanted*/) {
  if (array.type == kF32) return convert<double, float>(array.bytes);
  if (array.type == kF64) return convert<double, double>(array.bytes);
  return std::nullopt;
}

// Lengths were checked when the file was opened.
std::optional<std::vector<std::string_view>> decode(const GgufArray& array,
                                                    std::string_view /*wanted*/) {
  if (array.type != kString) return std::nullopt;
  std::vector<std::string_view> out(array.count);
  const uint8_t* at = array.bytes.data();
  for (std::string_view& text : out) {
    uint64_t length;
    std::memcpy(&length, at, sizeof length);
    text = {reinterpret_cast<const char*>(at) + sizeof length, static_cast<size_t>(length)};
    at += sizeof length + length;
  }
  return out;
}

constexpr const char* kind_name(uint8_t) { return "bytes"; }
constexpr const char* kind_name(int64_t) { return "integers"; }
constexpr const char* kind_name(double) { return "numbers"; }
constexpr const char* kind_name(std::string_view) { return "strings"; }

GgufValue read_array(Cursor& cursor, const std::string& name, std::string_view key) {
  const auto type = cursor.number<uint32_t>("an array's type");
  const auto count = cursor.number<uint64_t>("an array's length");
  if (type > kF64) cursor.fail_here("array of unknown value type {}", type);
  if (type == kArray)
    fail(ErrorKind::kUnsupported, "{}: '{}' is an array of arrays, which no known model uses", name,
         key);
  GgufArray out{.type = type, .count = 0, .bytes = {}};
  if (type == kString) {
    out.count = cursor.count(count, sizeof(uint64_t), "strings");
    out.bytes = cursor.rest();
    for (size_t i = 0; i < out.count; ++i) cursor.string("a string of an array");
    out.bytes = out.bytes.first(out.bytes.size() - cursor.left());
    return out;
  }
  out.count = cursor.count(count, value_bytes(type), "array values");
  out.bytes = cursor.take(out.count * value_bytes(type), "an array");
  if (type == kU64) {
    const auto values = convert<int64_t, uint64_t>(out.bytes);
    if (std::any_of(values.begin(), values.end(), [](int64_t v) { return v < 0; }))
      cursor.fail_here("an array holds an integer above 2^63 - 1");
  }
  return out;
}

GgufValue read_value(Cursor& cursor, uint32_t type, const std::string& name, std::string_view key) {
  switch (type) {
    case kU8:
      return uint64_t{cursor.number<uint8_t>("a value")};
    case kI8:
      return int64_t{cursor.number<int8_t>("a value")};
    case kU16:
      return uint64_t{cursor.number<uint16_t>("a value")};
    case kI16:
      return int64_t{cursor.number<int16_t>("a value")};
    case kU32:
      return uint64_t{cursor.number<uint32_t>("a value")};
    case kI32:
      return int64_t{cursor.number<int32_t>("a value")};
    case kF32:
      return double{cursor.number<float>("a value")};
    case kBool:
      return cursor.number<uint8_t>("a value") != 0;
    case kString:
      return std::string(cursor.string("a value"));
    case kArray:
      return read_array(cursor, name, key);
    case kU64:
      return cursor.number<uint64_t>("a value");
    case kI64:
      return cursor.number<int64_t>("a value");
    case kF64:
      return cursor.number<double>("a value");
    default:
      cursor.fail_here("'{}' has unknown value type {} (0 to 12 exist)", key, type);
  }
}

// Magic and version; returns the version.
uint32_t read_preamble(Cursor& cursor, const std::string& name) {
  if (cursor.left() < 4) cursor.fail_here("the file has {} bytes: not a GGUF file", cursor.left());
  const auto magic_bytes = cursor.take(4, "the magic");
  const std::string_view magic(reinterpret_cast<const char*>(magic_bytes.data()), 4);
  if (magic == "lmgg" || magic == "fmgg" || magic == "tjgg")
    fail(ErrorKind::kUnsupported,
         "{}: this is ggml's format from before GGUF. Fetch or convert the model as GGUF.", name);
  if (magic != "GGUF")
    fail(ErrorKind::kInvalidInput, "{}: not a GGUF file: it does not begin with 'GGUF'", name);
  const auto version = cursor.number<uint32_t>("the version");
  if (version != 0 && (version & 0xffffu) == 0)  // a byte-swapped small number
    fail(ErrorKind::kUnsupported,
         "{}: a big-endian GGUF file. Convert the model on a little-endian machine.", name);
  if (version < 2 || version > kVersion)
    fail(ErrorKind::kUnsupported,
         "{}: GGUF version {}, but 2 and 3 can be read. Convert the model "
         "again.",
         name, version);
  return version;
}

struct TensorEntry {
  std::string name;
  DType type;
  Shape shape;
  uint64_t offset;
  size_t bytes;
};

Shape read_shape(Cursor& cursor, std::string_view tensor) {
  const auto rank = cursor.number<uint32_t>("a tensor's number of dimensions");
  if (rank == 0 || rank > kMaxDims)
    cursor.fail_here("tensor '{}' has {} dimensions, 1 to {} are allowed", tensor, rank, kMaxDims);
  std::array<uint64_t, kMaxDims> dims{};
  uint64_t elements = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    dims[i] = cursor.number<uint64_t>("a tensor's dimension");
    if (dims[i] == 0) cursor.fail_here("tensor '{}': dimension {} is 0", tensor, i);
    // Any tensor's bytes must fit into 63 bits, at up to 8 bytes a value.
    if (dims[i] > (uint64_t{1} << 60) / elements)
      cursor.fail_here("tensor '{}' is impossibly large", tensor);
    elements *= dims[i];
  }
  Shape shape;
  for (uint32_t i = rank; i-- > 0;) shape.push_back(static_cast<size_t>(dims[i]));
  return shape;
}

TensorEntry read_tensor_entry(Cursor& cursor, const std::string& name) {
  TensorEntry entry;
  entry.name = cursor.string("a tensor's name", kMaxKeyBytes);
  entry.shape = read_shape(cursor, entry.name);
  const auto type = cursor.number<uint32_t>("a tensor's type");
  const std::optional<DType> dtype = dtype_from_ggml(type);
  if (!dtype)
    fail(ErrorKind::kUnsupported,
         "{}: tensor '{}' has type {} ({}). Supported are f32, f16, bf16, "
         "q4_0, q4_1, q5_0, q5_1, q8_0 and q2_K to q6_K: fetch the model in one of them.",
         name, entry.name, type, foreign_type_name(type));
  entry.type = *dtype;
  const size_t block = traits(*dtype).block_elements;
  if (entry.shape.columns() % block != 0)
    cursor.fail_here("tensor '{}' has rows of {} values, but {} needs a multiple of {}", entry.name,
                     entry.shape.columns(), weft::name(*dtype), block);
  entry.bytes = bytes_of(*dtype, entry.shape.elements());
  entry.offset = cursor.number<uint64_t>("a tensor's offset");
  return entry;
}

size_t padding(size_t position, size_t alignment) {
  return (alignment - position % alignment) % alignment;
}

}  // namespace

template <typename T>
std::optional<std::vector<T>> GgufArray::as() const {
  return decode(*this, T{});
}

template std::optional<std::vector<std::string_view>> GgufArray::as() const;
template std::optional<std::vector<double>> GgufArray::as() const;
template std::optional<std::vector<int64_t>> GgufArray::as() const;
template std::optional<std::vector<uint8_t>> GgufArray::as() const;

bool GgufArray::operator==(const GgufArray& other) const {
  return type == other.type && count == other.count && std::ranges::equal(bytes, other.bytes);
}

GgufFile GgufFile::open(const std::filesystem::path& path) {
  auto file = MappedFile::open(path);
  GgufFile gguf = parse(file->bytes(), path.string());
  gguf.file_ = std::move(file);
  return gguf;
}

GgufFile GgufFile::parse(std::span<const uint8_t> bytes, std::string name) {
  GgufFile gguf;
  gguf.name_ = std::move(name);
  Cursor cursor(bytes, gguf.name_);
  gguf.version_ = read_preamble(cursor, gguf.name_);
  // Smallest entries: a tensor's name length, rank, one dimension, type, offset; a key's length,
  // type, one byte.
  const size_t num_tensors =
      cursor.count(cursor.number<uint64_t>("the tensor count"), 32, "tensors");
  const size_t num_metadata =
      cursor.count(cursor.number<uint64_t>("the metadata count"), 13, "metadata entries");

  for (size_t i = 0; i < num_metadata; ++i) {
    const std::string_view key = cursor.string("a metadata key", kMaxKeyBytes);
    if (gguf.metadata_.contains(key)) cursor.fail_here("metadata key '{}' appears twice", key);
    const size_t begin = cursor.at();
    const auto type = cursor.number<uint32_t>("a value's type");
    GgufValue value = read_value(cursor, type, gguf.name_, key);
    value.raw = bytes.subspan(begin, cursor.at() - begin);
    gguf.metadata_.emplace(key, std::move(value));
  }

  const int64_t alignment = gguf.get_int("general.alignment").value_or(kDefaultAlignment);
  if (alignment <= 0 || alignment > (1 << 30) || (alignment & (alignment - 1)) != 0)
    fail(ErrorKind::kInvalidInput, "{}: general.alignment is {}, expected a power of two",
         gguf.name_, alignment);

  std::vector<TensorEntry> entries;
  entries.reserve(num_tensors);
  for (size_t i = 0; i < num_tensors; ++i) entries.push_back(read_tensor_entry(cursor, gguf.name_));

  const size_t begin = cursor.at() + padding(cursor.at(), static_cast<size_t>(alignment));
  const size_t data_bytes = bytes.size() > begin ? bytes.size() - begin : 0;
  for (TensorEntry& entry : entries) {
    if (entry.offset % static_cast<uint64_t>(alignment) != 0)
      fail(ErrorKind::kInvalidInput,
           "{}: tensor '{}' starts at offset {}, which is not aligned to {}", gguf.name_,
           entry.name, entry.offset, alignment);
    if (entry.bytes > data_bytes || entry.offset > data_bytes - entry.bytes)
      fail(ErrorKind::kInvalidInput,
           "{}: tensor '{}' has {} bytes at offset {}, but the file holds {} bytes of tensors. The "
           "file "
           "is truncated or damaged: fetch it again.",
           gguf.name_, entry.name, entry.bytes, entry.offset, data_bytes);
    if (!gguf.index_.emplace(entry.name, gguf.tensors_.size()).second)
      fail(ErrorKind::kInvalidInput, "{}: tensor '{}' appears twice", gguf.name_, entry.name);
    gguf.tensors_.push_back(
        {std::move(entry.name), {entry.type, entry.shape, bytes.data() + begin + entry.offset}});
  }
  return gguf;
}

const GgufTensor* GgufFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

template <typename T>
const T* GgufFile::get(std::string_view key, const char* wanted) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return nullptr;
  const T* value = std::get_if<T>(&it->second);
  if (value == nullptr)
    fail(ErrorKind::kInvalidInput, "{}: metadata '{}' is not {}", name_, key, wanted);
  return value;
}

std::optional<std::string> GgufFile::get_string(std::string_view key) const {
  const auto* value = get<std::string>(key, "a string");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<int64_t> GgufFile::get_int(std::string_view key) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return std::nullopt;
  if (const auto* value = std::get_if<uint64_t>(&it->second)) {
    if (*value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return static_cast<int64_t>(*value);
    fail(ErrorKind::kInvalidInput, "{}: metadata '{}' is {}, too large", name_, key, *value);
  }
  return *get<int64_t>(key, "an integer");
}

std::optional<double> GgufFile::get_float(std::string_view key) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return std::nullopt;
  if (const auto* value = std::get_if<uint64_t>(&it->second)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<int64_t>(&it->second)) return static_cast<double>(*value);
  return *get<double>(key, "a number");
}

std::optional<bool> GgufFile::get_bool(std::string_view key) const {
  const auto* value = get<bool>(key, "a boolean");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

template <typename T>
std::optional<std::vector<T>> GgufFile::get_array(std::string_view key) const {
  const auto it = metadata_.find(key);
  if (it == metadata_.end()) return std::nullopt;
  const auto* array = std::get_if<GgufArray>(&it->second);
  auto out = array == nullptr ? std::nullopt : array->as<T>();
  if (!out)
    fail(ErrorKind::kInvalidInput, "{}: metadata '{}' is not an array of {}", name_, key,
         kind_name(T{}));
  return out;
}

template std::optional<std::vector<std::string_view>> GgufFile::get_array(std::string_view) const;
template std::optional<std::vector<double>> GgufFile::get_array(std::string_view) const;
template std::optional<std::vector<int64_t>> GgufFile::get_array(std::string_view) const;
template std::optional<std::vector<uint8_t>> GgufFile::get_array(std::string_view) const;

namespace {

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void append_string(std::string& out, std::string_view text) {
  append(out, uint64_t{text.size()});
  out.append(text);
}

template <typename T>
void append_array(std::string& out, ValueType type, std::span<const T> values) {
  append(out, uint32_t{kArray});
  append(out, uint32_t{type});
  append(out, uint64_t{values.size()});
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

}  // namespace

std::string& GgufWriter::entry(std::string_view key) {
  WEFT_ASSERT(!header_written_);
  for (auto& [name, value] : metadata_) {
    if (name != key) continue;
    value.clear();
    return value;
  }
  return metadata_.emplace_back(key, "").second;
}

void GgufWriter::set_u32(std::string_view key, uint32_t value) {
  std::string& out = entry(key);
  append(out, uint32_t{kU32});
  append(out, value);
}

void GgufWriter::set_f32(std::string_view key, float value) {
  std::string& out = entry(key);
  append(out, uint32_t{kF32});
  append(out, value);
}

void GgufWriter::set_bool(std::string_view key, bool value) {
  std::string& out = entry(key);
  append(out, uint32_t{kBool});
  append(out, static_cast<uint8_t>(value));
}

void GgufWriter::set_string(std::string_view key, std::string_view value) {
  std::string& out = entry(key);
  append(out, uint32_t{kString});
  append_string(out, value);
}

void GgufWriter::set_strings(std::string_view key, std::span<const std::string_view> values) {
  std::string& out = entry(key);
  append(out, uint32_t{kArray});
  append(out, uint32_t{kString});
  append(out, uint64_t{values.size()});
  for (const std::string_view value : values) append_string(out, value);
}

void GgufWriter::set_i32s(std::string_view key, std::span<const int32_t> values) {
  append_array(entry(key), kI32, values);
}

void GgufWriter::set_f32s(std::string_view key, std::span<const float> values) {
  append_array(entry(key), kF32, values);
}

void GgufWriter::set_raw(std::string_view key, std::span<const uint8_t> raw) {
  entry(key).assign(reinterpret_cast<const char*>(raw.data()), raw.size());
}

void GgufWriter::declare(std::string_view name, DType type, const Shape& shape) {
  WEFT_ASSERT(!header_written_);
  tensors_.push_back({std::string(name), type, shape});
}

void GgufWriter::write_header() {
  std::string out = "GGUF";
  append(out, kVersion);
  append(out, uint64_t{tensors_.size()});
  append(out, uint64_t{metadata_.size()});
  for (const auto& [key, value] : metadata_) {
    append_string(out, key);
    out += value;
  }
  uint64_t offset = 0;
  for (const Declared& tensor : tensors_) {
    append_string(out, tensor.name);
    append(out, static_cast<uint32_t>(tensor.shape.rank()));
    for (size_t i = tensor.shape.rank(); i-- > 0;) append(out, uint64_t{tensor.shape[i]});
    append(out, to_ggml(tensor.type));
    append(out, offset);
    offset += bytes_of(tensor.type, tensor.shape.elements());
    offset += padding(offset, kDefaultAlignment);
  }
  file_.write(out);
  pad_to_alignment();
  header_written_ = true;
  if (!tensors_.empty())
    current_remaining_ = bytes_of(tensors_[0].type, tensors_[0].shape.elements());
}

void GgufWriter::pad_to_alignment() {
  file_.write(std::string(padding(file_.position(), kDefaultAlignment), '\0'));
}

void GgufWriter::write(const void* data, size_t size) {
  if (!header_written_) write_header();
  const auto* bytes = static_cast<const uint8_t*>(data);
  while (size > 0) {
    WEFT_ASSERT(current_ < tensors_.size());
    const size_t piece = std::min(size, current_remaining_);
    file_.write(bytes, piece);
    bytes += piece;
    size -= piece;
    current_remaining_ -= piece;
    if (current_remaining_ != 0) continue;
    pad_to_alignment();
    if (++current_ == tensors_.size()) continue;
    current_remaining_ = bytes_of(tensors_[current_].type, tensors_[current_].shape.elements());
  }
}

void GgufWriter::commit() {
  if (!header_written_) write_header();
  WEFT_ASSERT(current_ == tensors_.size());
  file_.commit();
}

}  // namespace weft::formats
