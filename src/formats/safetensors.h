// Safetensors files (Hugging Face's container), and folders of them, read through memory maps.
//
//   u64 header_bytes (little-endian), header (JSON, padded with spaces), tensor data
//   header: {"name": {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, ...,
//            "__metadata__": {"key": "text"}}          offsets count from the end of the header
//   model.safetensors.index.json of a sharded model: {"weight_map": {"tensor": "file"}}
//
// Nothing is believed before it has been compared with the file's size. Errors: kInvalidInput with
// the file and tensor; kUnsupported for number formats that Weft has none of (float8 and the like).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"

namespace weft::formats {

// Immutable, so thread-safe. Views live as long as file() (or parse()'s bytes); data need not be
// aligned to its type.
class SafetensorsFile {
 public:
  using Tensors = std::map<std::string, TensorView, std::less<>>;

  static SafetensorsFile open(const std::filesystem::path& path);
  // The bytes must outlive the object (fuzzing, tests).
  static SafetensorsFile parse(std::span<const uint8_t> bytes, std::string name);

  const std::string& name() const { return name_; }
  const Tensors& tensors() const { return tensors_; }
  const std::shared_ptr<const MappedFile>& file() const { return file_; }  // null after parse()

 private:
  std::string name_;
  std::shared_ptr<const MappedFile> file_;
  Tensors tensors_;
};

// All tensors of a folder: those that model.safetensors.index.json lists, or model.safetensors.
// kNotFound if the folder has neither; kInvalidInput if a shard lacks a tensor that the index
// promises.
struct SafetensorsFolder {
  SafetensorsFile::Tensors tensors;
  std::vector<std::shared_ptr<const MappedFile>> files;
};
SafetensorsFolder open_safetensors_folder(const std::filesystem::path& folder);

// The index's weight_map, checked: file names are plain names inside the folder.
std::map<std::string, std::string> parse_safetensors_index(std::string_view json,
                                                           const std::string& name);

}  // namespace weft::formats
