// GGUF v2 and v3 files (ggml's container), read through a memory map and written atomically.
//
//   "GGUF" u32 version, u64 tensor_count, u64 metadata_count
//   metadata: string key, u32 type, value        string = u64 length + bytes
//   tensors:  string name, u32 n_dims, u64 dims[n_dims] (fastest first), u32 ggml_type, u64 offset
//   padding to general.alignment (32), then tensor data, each at its offset from here
//
// Every count and offset is checked against the file's size before it is used. Errors: kInvalidInput
// with the file, the byte offset and what was expected.
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

// A metadata value. Integers of all widths become int64/uint64, floats double.
// Arrays of strings and of numbers are kept flat: a vocabulary has 150k of them.
struct GgufValue
    : std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<std::string_view>,
                   std::vector<double>, std::vector<int64_t>, std::vector<uint8_t>> {
  using variant::variant;
};

struct GgufTensor {
  std::string name;
  TensorView view;  // shape slowest first: a GGUF (576, 49152) matrix is (49152, 576) here
};

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
  const std::shared_ptr<const MappedFile>& file() const { return file_; }

  // Typed look-ups. The `require` forms throw kInvalidInput naming the key; a wrong type does too.
  std::optional<std::string> get_string(std::string_view key) const;
  std::optional<int64_t> get_int(std::string_view key) const;
  std::optional<double> get_float(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;

 private:
  std::string name_;
  uint32_t version_ = 0;
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace weft::formats
