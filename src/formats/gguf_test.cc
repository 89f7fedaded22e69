#include "formats/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "formats/gguf_test_bytes.h"
#include "kernels/quantize.h"

namespace weft::formats {
namespace {

const std::string kFixture = WEFT_SOURCE_DIR "/tests/data/gguf/all_types.gguf";

TEST(gguf, reads_every_metadata_type_of_the_reference_writer) {
  const GgufFile file = GgufFile::open(kFixture);
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.get_string("general.architecture"), "llama");
  EXPECT_EQ(file.get_int("t.u8"), 255);
  EXPECT_EQ(file.get_int("t.i8"), -128);
  EXPECT_EQ(file.get_int("t.u16"), 65535);
  EXPECT_EQ(file.get_int("t.i16"), -32768);
  EXPECT_EQ(file.get_int("t.u32"), 4294967295);
  EXPECT_EQ(file.get_int("t.i32"), -2147483648LL);
  EXPECT_EQ(file.get_float("t.f32"), double{0.1f});
  EXPECT_EQ(file.get_bool("t.true"), true);
  EXPECT_EQ(file.get_bool("t.false"), false);
  EXPECT_EQ(file.get_string("t.string"), "gr\u00fc\u00df dich");
  EXPECT_THROW(file.get_int("t.u64"), Error) << "2^64 - 1 is no int64";
  EXPECT_EQ(std::get<uint64_t>(file.metadata().at("t.u64")), ~uint64_t{0});
  EXPECT_EQ(file.get_int("t.i64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(file.get_float("t.f64"), 0.1);
  EXPECT_EQ(file.get_array<std::string_view>("t.strings"),
            (std::vector<std::string_view>{"", "a", "\u0120the"}));
  EXPECT_EQ(file.get_array<int64_t>("t.ints"), (std::vector<int64_t>{-1, 0, 7}));
  EXPECT_EQ(file.get_array<double>("t.floats"), (std::vector<double>{0.5, -2}));
  EXPECT_EQ(file.get_array<uint8_t>("t.bools"), (std::vector<uint8_t>{1, 0}));
}

TEST(gguf, reads_tensors_of_the_reference_writer) {
  const GgufFile file = GgufFile::open(kFixture);
  ASSERT_EQ(file.tensors().size(), 3u);
  const TensorView a = file.find("a")->view;
  EXPECT_EQ(a.shape, (Shape{2, 3}));
  for (size_t i = 0; i < 6; ++i)
    EXPECT_EQ(static_cast<const float*>(a.data)[i], static_cast<float>(i));
  EXPECT_EQ(file.find("half")->view.dtype, DType::kF16);
  const TensorView q = file.find("q")->view;
  EXPECT_EQ(q.shape, (Shape{2, 32}));
  float row[32];
  kernels::dequantize(q.dtype, q.row(1), row, 32);
  EXPECT_NEAR(row[31], 1.0f, 1.0f / 127);
  EXPECT_EQ(file.find("nothing"), nullptr);
}

TEST(gguf, look_ups_of_a_wrong_type_name_the_key) {
  const GgufFile file = GgufFile::open(kFixture);
  EXPECT_EQ(file.get_int("absent"), std::nullopt);
  EXPECT_EQ(file.get_array<double>("absent"), std::nullopt);
  EXPECT_EQ(file.get_float("t.u8"), 255.0);
  try {
    file.get_int("t.string");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("'t.string' is not an integer"), std::string::npos);
  }
  EXPECT_THROW(file.get_int("t.f32"), Error);
  EXPECT_THROW(file.get_bool("t.u8"), Error);
  EXPECT_THROW(file.get_float("t.string"), Error);
  EXPECT_THROW(file.get_array<std::string_view>("t.ints"), Error);
  EXPECT_THROW(file.get_array<int64_t>("t.floats"), Error);
  EXPECT_THROW(file.get_array<uint8_t>("t.u8"), Error);
}

TEST(gguf, what_is_written_reads_back) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("weft_gguf_test_" + std::to_string(::getpid()) + ".gguf");
  const GgufFile source = GgufFile::open(kFixture);
  {
    GgufWriter writer(path);
    writer.set_u32("a.u32", 1);
    writer.set_u32("a.u32", 7);  // replaces
    writer.set_f32("a.f32", 0.25f);
    writer.set_bool("a.bool", true);
    writer.set_string("a.string", "x");
    const std::string_view strings[] = {"", "two"};
    writer.set_strings("a.strings", strings);
    const int32_t ints[] = {-5, 6};
    writer.set_i32s("a.ints", ints);
    const float floats[] = {1.5f};
    writer.set_f32s("a.floats", floats);
    for (const auto& [key, value] : source.metadata()) writer.set_raw(key, value.raw);
    writer.declare("v", DType::kF32, {3});
    writer.declare("m", DType::kQ8_0, {2, 32});
    const float v[] = {1, 2, 3};
    const TensorView q = source.find("q")->view;
    writer.write(v, 5);  // pieces need not end where values do
    writer.write(reinterpret_cast<const char*>(v) + 5, 7);
    writer.write(q.data, q.bytes());
    EXPECT_FALSE(std::filesystem::exists(path)) << "nothing appears before commit()";
    writer.commit();
  }
  const GgufFile file = GgufFile::open(path);
  std::filesystem::remove(path);
  EXPECT_EQ(file.get_int("a.u32"), 7);
  EXPECT_EQ(file.get_float("a.f32"), 0.25);
  EXPECT_EQ(file.get_bool("a.bool"), true);
  EXPECT_EQ(file.get_string("a.string"), "x");
  EXPECT_EQ(file.get_array<std::string_view>("a.strings"),
            (std::vector<std::string_view>{"", "two"}));
  EXPECT_EQ(file.get_array<int64_t>("a.ints"), (std::vector<int64_t>{-5, 6}));
  EXPECT_EQ(file.get_array<double>("a.floats"), (std::vector<double>{1.5}));
  for (const auto& [key, value] : source.metadata())
    EXPECT_EQ(file.metadata().at(key), value) << key;
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(static_cast<const float*>(file.find("v")->view.data)[2], 3.0f);
  const TensorView m = file.find("m")->view, q = source.find("q")->view;
  EXPECT_EQ(std::memcmp(m.data, q.data, q.bytes()), 0);
}

struct BadFile {
  const char* name;
  GgufBytes bytes;
  ErrorKind kind;
  const char* message;  // part of it
};

// One entry: `key` with `type` and `payload` as its value.
GgufBytes with_value(uint32_t type, const GgufBytes& payload) {
  return GgufBytes().header(3, 0, 1).string("k").u32(type).append(payload);
}

GgufBytes one_tensor(uint32_t rank, std::vector<uint64_t> dims, uint32_t type, uint64_t offset,
                     size_t data_bytes) {
  GgufBytes out = GgufBytes().header(3, 1, 0).string("t").u32(rank);
  for (const uint64_t d : dims) out.u64(d);
  return out.u32(type).u64(offset).pad().zeros(data_bytes);
}

std::vector<BadFile> bad_files() {
  constexpr auto kBad = ErrorKind::kInvalidInput, kUnknown = ErrorKind::kUnsupported;
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  return {
      {"empty", GgufBytes(), kBad, "has 0 bytes"},
      {"wrong_magic", GgufBytes().text("PK\x03\x04zip"), kBad, "does not begin with 'GGUF'"},
      {"before_gguf", GgufBytes().text("tjgg").u32(3), kUnknown, "before GGUF"},
      {"only_magic", GgufBytes().text("GGUF"), kBad, "the version needs 4 bytes"},
      {"version_1", GgufBytes().text("GGUF").u32(1).zeros(64), kUnknown, "version 1"},
      {"version_4", GgufBytes().text("GGUF").u32(4).zeros(64), kUnknown, "version 4"},
      {"big_endian", GgufBytes().text("GGUF").u32(0x03000000).zeros(64), kUnknown, "big-endian"},
      {"ends_in_the_counts", GgufBytes().text("GGUF").u32(3).u32(0), kBad, "the tensor count"},
      {"lying_tensor_count", GgufBytes().header(3, kHuge, 0).zeros(64), kBad, "tensors do not fit"},
      {"lying_metadata_count", GgufBytes().header(3, 0, kHuge).zeros(64), kBad,
       "metadata entries do not fit"},
      {"endless_key", GgufBytes().header(3, 0, 1).u64(kHuge).zeros(64), kBad, "at most 65535"},
      {"key_past_the_end", GgufBytes().header(3, 0, 1).u64(500).zeros(64), kBad, "left"},
      {"unknown_value_type", with_value(13, GgufBytes().zeros(16)), kBad, "unknown value type 13"},
      {"string_past_the_end", with_value(8, GgufBytes().u64(~uint64_t{0})), kBad, "left"},
      {"array_of_unknown", with_value(9, GgufBytes().u32(99).u64(0)), kBad, "value type 99"},
      {"array_of_arrays", with_value(9, GgufBytes().u32(9).u64(1).zeros(32)), kUnknown,
       "array of arrays"},
      {"lying_number_array", with_value(9, GgufBytes().u32(6).u64(kHuge).zeros(32)), kBad,
       "do not fit"},
      {"overflowing_array", with_value(9, GgufBytes().u32(12).u64(uint64_t{1} << 61).zeros(32)),
       kBad, "do not fit"},
      {"lying_string_array", with_value(9, GgufBytes().u32(8).u64(1 << 20).zeros(64)), kBad,
       "strings do not fit"},
      {"array_above_int64", with_value(9, GgufBytes().u32(10).u64(1).u64(~uint64_t{0})), kBad,
       "above 2^63 - 1"},
      {"key_twice", GgufBytes().header(3, 0, 2).string("k").u32(4).u32(1).string("k").u32(4).u32(2),
       kBad, "'k' appears twice"},
      {"alignment_zero", GgufBytes().header(3, 0, 1).string("general.alignment").u32(4).u32(0),
       kBad, "power of two"},
      {"alignment_odd", GgufBytes().header(3, 0, 1).string("general.alignment").u32(4).u32(24),
       kBad, "power of two"},
      {"alignment_text",
       GgufBytes().header(3, 0, 1).string("general.alignment").u32(8).string("32"), kBad,
       "not an integer"},
      {"no_dimensions", one_tensor(0, {}, 0, 0, 64), kBad, "has 0 dimensions"},
      {"five_dimensions", one_tensor(5, {1, 1, 1, 1, 1}, 0, 0, 64), kBad, "has 5 dimensions"},
      {"dimension_zero", one_tensor(2, {4, 0}, 0, 0, 64), kBad, "dimension 1 is 0"},
      {"overflowing_dimensions", one_tensor(2, {uint64_t{1} << 33, uint64_t{1} << 33}, 0, 0, 64),
       kBad, "impossibly large"},
      {"type_of_ggml_we_lack", one_tensor(1, {256}, 23, 0, 512), kUnknown, "23 (iq4_xs)"},
      {"type_nobody_has", one_tensor(1, {256}, 999, 0, 512), kUnknown, "999 (unknown)"},
      {"half_a_block", one_tensor(1, {40}, 8, 0, 64), kBad, "a multiple of 32"},
      {"offset_not_aligned", one_tensor(1, {4}, 0, 8, 64), kBad, "not aligned"},
      {"offset_past_the_end", one_tensor(1, {4}, 0, 1 << 20, 64), kBad, "offset 1048576"},
      {"offset_overflows", one_tensor(1, {4}, 0, ~uint64_t{31}, 64), kBad, "holds 64 bytes"},
      {"data_missing", one_tensor(1, {64}, 0, 0, 255), kBad, "has 256 bytes at offset 0"},
      {"name_twice",
       GgufBytes().header(3, 2, 0).tensor("t", 4, 0, 0).tensor("t", 4, 0, 0).pad().zeros(32), kBad,
       "'t' appears twice"},
  };
}

TEST(gguf, bad_files_get_one_clear_message_each) {
  for (const BadFile& bad : bad_files()) {
    try {
      GgufFile::parse(bad.bytes.span(), "bad.gguf");
      ADD_FAILURE() << bad.name << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), bad.kind) << bad.name << ": " << error.what();
      const std::string what = error.what();
      EXPECT_EQ(what.find("bad.gguf: "), 0u) << bad.name << ": " << what;
      EXPECT_NE(what.find(bad.message), std::string::npos) << bad.name << ": " << what;
    }
  }
}

TEST(gguf, every_truncation_of_a_good_file_is_refused) {
  const auto mapped = MappedFile::open(kFixture);
  const auto bytes = mapped->bytes();
  const GgufFile whole = GgufFile::parse(bytes, "whole");
  const GgufTensor& last = whole.tensors().back();
  const size_t needed =
      static_cast<const uint8_t*>(last.view.data) + last.view.bytes() - bytes.data();
  for (size_t size = 0; size < needed; ++size) {
    const std::vector<uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_THROW(GgufFile::parse(cut, "cut"), Error) << size;
  }
}

TEST(gguf, a_vocabulary_alone_needs_no_data_section) {
  const GgufBytes bytes = GgufBytes().header(2, 0, 1).string("k").u32(4).u32(7);
  const GgufFile file = GgufFile::parse(bytes.span(), "vocab");
  EXPECT_EQ(file.version(), 2u);
  EXPECT_EQ(file.get_int("k"), 7);
  EXPECT_TRUE(file.tensors().empty());
}

TEST(gguf, tensors_may_share_bytes) {
  const GgufBytes bytes =
      GgufBytes().header(3, 2, 0).tensor("a", 4, 0, 0).tensor("b", 4, 0, 0).pad().zeros(32);
  const GgufFile file = GgufFile::parse(bytes.span(), "shared");
  EXPECT_EQ(file.find("a")->view.data, file.find("b")->view.data);
}

}  // namespace
}  // namespace weft::formats
