// GGUF v2 and v3 files (ggml's container), read through a memory map and written atomically.
//
//   "GGUF" u32 version, u64 tensor_count, u64 metadata_count
//   metadata: string key, u32 type, value        string = u64 length + bytes
//   tensors:  string name, u32 n_dims, u64 dims[n_dims] (fastest first), u32 ggml_type, u64 offset
//   padding to general.alignment (32), then tensor data, each at its offset from here
//
//   value types: 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool (one byte), 8 string,
//                9 array (u32 type, u64 count, values), 10 u64, 11 i64, 12 f64. Little-endian.
//
// Every count and offset is checked against the file's size before it is used. Errors:
// kInvalidInput with the file, the byte offset and what was expected; kUnsupported for well-formed
// files that this version cannot use (version 1, big-endian, nested arrays, tensor types it does
// not know).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/progress.h"
#include "base/tensor.h"

namespace weft::formats {

// An array as it lies in the file, decoded when it is asked for: a vocabulary has 150k texts and
// merges, which are read once and would be in the way as long as the model is loaded.
struct GgufArray {
  uint32_t type = 0;  // of the elements, as in the file
  size_t count = 0;
  std::span<const uint8_t> bytes;  // of the elements

  // T: std::string_view (into the file), double, int64_t (of integers of all widths but u8),
  // uint8_t (of u8 and bool). Nothing if the elements are of another kind.
  template <typename T>
  std::optional<std::vector<T>> as() const;
  bool operator==(const GgufArray& other) const;
};

// A metadata value. Integers of all widths become int64/uint64, floats double.
struct GgufValue : std::variant<bool, int64_t, uint64_t, double, std::string, GgufArray> {
  using variant::variant;
  std::span<const uint8_t> raw;  // u32 type and value as in the file, for copying
};

struct GgufTensor {
  std::string name;
  TensorView view;  // shape slowest first: a GGUF (576, 49152) matrix is (49152, 576) here
};

// Immutable, so thread-safe. Views and string_views live as long as file() (or parse()'s bytes).
class GgufFile {
 public:
  static GgufFile open(const std::filesystem::path& path);
  // The bytes must outlive the object (fuzzing, tests).
  static GgufFile parse(std::span<const uint8_t> bytes, std::string name);

  uint32_t version() const { return version_; }
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find(std::string_view name) const;  // nullptr if absent
  const std::string& name() const { return name_; }
  const std::shared_ptr<const MappedFile>& file() const { return file_; }  // null after parse()

  // Typed look-ups: nothing if absent, kInvalidInput naming the key for a wrong type. A float may
  // be stored as an integer; an integer may not be stored as a float.
  std::optional<std::string> get_string(std::string_view key) const;
  std::optional<int64_t> get_int(std::string_view key) const;
  std::optional<double> get_float(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;
  // T as of GgufArray::as.
  template <typename T>
  std::optional<std::vector<T>> get_array(std::string_view key) const;

 private:
  template <typename T>
  const T* get(std::string_view key, const char* wanted) const;
  std::string name_;
  uint32_t version_ = 0;
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
};

// Writes a GGUF v3 file: first all metadata and the list of tensors, then the tensors' bytes in the
// order they were declared, in pieces of any size. Nothing appears at `path` before commit().
class GgufWriter {
 public:
  explicit GgufWriter(std::filesystem::path path) : file_(std::move(path)) {}

  void set_u32(std::string_view key, uint32_t value);
  void set_f32(std::string_view key, float value);
  void set_bool(std::string_view key, bool value);
  void set_string(std::string_view key, std::string_view value);
  void set_strings(std::string_view key, std::span<const std::string_view> values);
  void set_i32s(std::string_view key, std::span<const int32_t> values);
  void set_f32s(std::string_view key, std::span<const float> values);
  void set_raw(std::string_view key, std::span<const uint8_t> raw);  // GgufValue::raw

  // A key set before is replaced. (`general.alignment` is left at 32 and must not be set.)
  void declare(std::string_view name, DType type, const Shape& shape);

  // The next `size` bytes of tensor data; tensors follow each other without saying so.
  void write(const void* data, size_t size);

  // kIo as AtomicFile. All declared tensors must have been written (asserted).
  void commit();

 private:
  void write_header();
  void pad_to_alignment();
  struct Declared {
    std::string name;
    DType type;
    Shape shape;
  };
  AtomicFile file_;
  std::vector<std::pair<std::string, std::string>>
      metadata_;  // key, raw value; in order of setting
  std::vector<Declared> tensors_;
  bool header_written_ = false;
  size_t current_ = 0;  // the tensor being written
  size_t current_remaining_ = 0;
  std::string& entry(std::string_view key);
};

}  // namespace weft::formats
