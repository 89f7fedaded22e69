#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/error.h"
#include "kernels/quantize.h"

namespace weft::formats {
namespace {

const std::filesystem::path kData = WEFT_SOURCE_DIR "/tests/data/safetensors";

TEST(safetensors, reads_the_reference_writer) {
  const SafetensorsFile file = SafetensorsFile::open(kData / "all_types.safetensors");
  ASSERT_EQ(file.tensors().size(), 6u);
  const TensorView a = file.tensors().at("a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(a.shape, (Shape{2, 3}));
  for (const char* name : {"a", "half", "brain"}) {
    const TensorView view = file.tensors().at(name);
    std::vector<float> values(view.shape.elements());
    kernels::dequantize(view.dtype, view.data, values.data(), values.size());
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(i)) << name;
  }
  int64_t last = 0;
  std::memcpy(&last, static_cast<const uint8_t*>(file.tensors().at("ints").data) + 8, 8);
  EXPECT_EQ(last, -2);
  EXPECT_EQ(file.tensors().at("scalar").shape.rank(), 0u);
  EXPECT_EQ(file.tensors().at("none").shape.elements(), 0u);
}

TEST(safetensors, shards_read_as_one_folder) {
  const SafetensorsFolder folder = open_safetensors_folder(kData / "sharded");
  ASSERT_EQ(folder.tensors.size(), 2u);
  EXPECT_EQ(folder.files.size(), 2u);
  float value = 0;
  std::memcpy(&value, folder.tensors.at("second").data, 4);
  EXPECT_EQ(value, 2.0f);
}

std::vector<uint8_t> file_of(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::vector<uint8_t> out(8 + header.size() + data_bytes);
  std::memcpy(out.data(), &size, 8);
  std::memcpy(out.data() + 8, header.data(), header.size());
  return out;
}

struct BadFile {
  const char* name;
  std::vector<uint8_t> bytes;
  const char* message;
  ErrorKind kind = ErrorKind::kInvalidInput;
};

std::vector<uint8_t> one(const std::string& dtype, const std::string& shape,
                         const std::string& offsets, size_t data_bytes = 8) {
  return file_of(R"({"t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
                     offsets + "}}",
                 data_bytes);
}

std::vector<BadFile> bad_files() {
  const auto text = [](std::string s) { return std::vector<uint8_t>(s.begin(), s.end()); };
  return {
      {"empty", {}, "has 0 bytes"},
      {"seven_bytes", text("1234567"), "has 7 bytes"},
      {"a_zip", text("PK\x03\x04pytorch_model"), "claims a header"},
      {"header_past_the_end", text(std::string("\x40\0\0\0\0\0\0\0{}", 10)), "but 2 follow"},
      {"header_overflow", text(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)),
       "but 2 follow"},
      {"not_an_object", file_of("[1,2]", 0), "not a JSON object"},
      {"no_header", file_of("", 0), "not a JSON object"},
      {"broken_json", file_of(R"({"t":)", 0), "not valid JSON at byte"},
      {"invalid_utf8", file_of("{\"\xff\":{}}", 0), "not valid JSON at byte"},
      {"bottomless", file_of(R"({"t":)" + std::string(100000, '['), 0), "nested deeper"},
      {"key_twice", file_of(R"({"t":{},"t":{}})", 0), "appears twice"},
      {"number_overflow", file_of(R"({"t":1e999})", 0), "number too large"},
      {"entry_is_a_number", file_of(R"({"t":1})", 0), "not an object"},
      {"dtype_missing", file_of(R"({"t":{"shape":[],"data_offsets":[0,4]}})", 4), "'dtype'"},
      {"float8", one("F8_E4M3", "[8]", "[0,8]"), "F8_E4M3", ErrorKind::kUnsupported},
      {"five_dimensions", one("F32", "[1,1,1,1,2]", "[0,8]"), "5 dimensions",
       ErrorKind::kUnsupported},
      {"negative_dimension", one("F32", "[-2]", "[0,8]"), "a dimension is -2"},
      {"fractional_dimension", one("F32", "[2.0]", "[0,8]"), "a dimension is 2.0"},
      {"overflowing_shape", one("F32", "[4294967296,4294967296]", "[0,0]"), "impossibly large"},
      {"three_offsets", one("F32", "[2]", "[0,8,8]"), "has 3 values"},
      {"offsets_backwards", one("F32", "[2]", "[8,0]"), "bytes 8 to 0"},
      {"offsets_past_the_end", one("F32", "[2]", "[8,16]"), "bytes 8 to 16"},
      {"offset_overflow", one("F32", "[2]", "[0,18446744073709551615]"), "the file holds 8"},
      {"shape_against_offsets", one("F32", "[3]", "[0,8]"), "need 12 bytes"},
  };
}

TEST(safetensors, bad_files_get_one_clear_message_each) {
  for (const BadFile& bad : bad_files()) {
    try {
      SafetensorsFile::parse(bad.bytes, "bad.safetensors");
      ADD_FAILURE() << bad.name << " was accepted";
    } catch (const Error& error) {
      const std::string what = error.what();
      EXPECT_EQ(error.kind(), bad.kind) << bad.name << ": " << what;
      EXPECT_EQ(what.find("bad.safetensors"), 0u) << bad.name << ": " << what;
      EXPECT_NE(what.find(bad.message), std::string::npos) << bad.name << ": " << what;
    }
  }
}

TEST(safetensors, an_index_names_files_of_its_folder_only) {
  for (const char* file : {"../secret", "/etc/passwd", "a/b.safetensors", "", ".hidden", "a\\\\b"})
    EXPECT_THROW(parse_safetensors_index(fmt::format(R"({{"weight_map": {{"t": "{}"}}}})", file),
                                         "index.json"),
                 Error)
        << file;
  EXPECT_THROW(parse_safetensors_index(R"({"weight_map": {"t": 1}})", "index.json"), Error);
  EXPECT_THROW(parse_safetensors_index("[]", "index.json"), Error);
  EXPECT_THROW(parse_safetensors_index("{}", "index.json"), Error);
  EXPECT_EQ(
      parse_safetensors_index(R"({"metadata":{},"weight_map":{"t":"a.safetensors"}})", "i").at("t"),
      "a.safetensors");
}

TEST(safetensors, a_folder_without_weights_says_what_it_looked_for) {
  try {
    open_safetensors_folder(kData);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
    EXPECT_NE(std::string(error.what()).find("model.safetensors.index.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace weft::formats
