#include "cli/kv_options.h"

#include <algorithm>

#include "base/error.h"
#include "base/size_text.h"
#include "formats/checkpoint.h"
#include "text/kv_calibration.h"

namespace weft::cli {

void KvOptions::apply(text::TextModelOptions& options, const std::filesystem::path& model) const {
  using text::KvMode;
  options.kv_format = kind == "bf16" ? kernels::KvFormat::kBF16 : kernels::KvFormat::kF16;
  text::KvPolicyOptions& kv = options.kv;
  const bool progressive = kind == "progressive", pressure = kind == "pressure";
  if (progressive && budget_bytes == 0)
    fail(ErrorKind::kInvalidInput,
         "--kv progressive needs --kv-budget, the bytes that one sequence's keys and values may take, "
         "such as 64MiB");
  if (!progressive && !pressure && budget_bytes != 0)
    fail(ErrorKind::kInvalidInput,
         "--kv-budget belongs to --kv progressive or pressure, but --kv is {}", kind);
  if (max_length != 0 && !progressive)
    fail(ErrorKind::kInvalidInput, "--kv-max-length belongs to --kv progressive, but --kv is {}",
         kind);
  if (bits && calibration.empty())
    fail(ErrorKind::kInvalidInput,
         "--kv-bits shares bits out over the layers, by what --kv-calibration says: 'weft calibrate kv' "
         "writes that file");
  if (bits && (k || v))
    fail(ErrorKind::kInvalidInput, "--kv-bits decides all widths; leave out --kv-k and --kv-v");
  if (bits && !progressive && !pressure && kind != "f16" && kind != "16" && kind != "bf16")
    fail(ErrorKind::kInvalidInput, "--kv {} is one width for all layers; leave it out beside --kv-bits",
         kind);
  const bool smooths = transform.starts_with("smooth");
  if (smooths && calibration.empty())
    fail(ErrorKind::kInvalidInput,
         "--kv-transform {} takes its factors from --kv-calibration: 'weft calibrate kv' writes that file",
         transform);
  if (!calibration.empty() && !progressive && !pressure && !bits && !smooths)
    fail(ErrorKind::kInvalidInput,
         "--kv-calibration says which layers are narrowed first under --kv progressive or pressure, "
         "shares out --kv-bits, or smooths keys, but --kv is {}",
         kind);
  uint8_t both = 16;
  if (progressive || pressure)
    both = 0;  // the model's size decides
  else if (kind == "8" || kind == "4" || kind == "2")
    both = static_cast<uint8_t>(kind[0] - '0');
  kv.widths = {static_cast<uint8_t>(k.value_or(both)), static_cast<uint8_t>(v.value_or(both))};
  kv.mode = progressive                     ? KvMode::kProgressive
            : pressure                      ? KvMode::kPressure
            : kv.widths == text::KvWidths{} ? KvMode::kPlain
                                            : KvMode::kDirect;
  if (transform == "none") kv.transform = kernels::KvTransform::kNone;
  if (transform == "smooth") kv.transform = kernels::KvTransform::kSmooth;
  if (transform == "smooth+hadamard") kv.transform = kernels::KvTransform::kSmoothHadamard;
  kv.budget_bytes = budget_bytes;
  kv.max_length = max_length;
  if (calibration.empty()) return;
  const auto measured = text::load_kv_calibration(calibration, *formats::open_checkpoint(model));
  kv.sensitivities = text::sensitivities(measured);
  if (smooths) kv.smoothing = text::factors(measured);
  if (!bits) return;
  const size_t sides = 2 * measured.layers.size();
  kv.layer_widths = text::allocate_kv(
      measured.layers, static_cast<size_t>(*bits * static_cast<double>(sides)), 2);
  if (kv.mode == KvMode::kPlain) kv.mode = KvMode::kDirect;
}

void add_kv_options(CLI::App& command, KvOptions& options) {
  const std::string group = "Keys and values";
  const auto width = CLI::IsMember({16, 8, 4, 2});
  command
      .add_option("--kv", options.kind,
                  "How they are kept: f16 (or 16), bf16; 8, 4 or 2 bit; progressive: 16 bit until "
                  "--kv-budget is full, then narrower; pressure: 16 bit until the memory of all "
                  "requests is full, then narrower, so that answers depend on the load")
      ->capture_default_str()
      ->check(CLI::IsMember({"f16", "bf16", "16", "8", "4", "2", "progressive", "pressure"}))
      ->group(group);
  command.add_option("--kv-k", options.k, "Bits of keys; progressive, pressure: as few as they may get to")
      ->default_str("--kv's; progressive, pressure: 4, or 2 from 3e9 parameters on")
      ->check(width)
      ->type_name("16|8|4|2")
      ->group(group);
  command.add_option("--kv-v", options.v, "Bits of values, as --kv-k")
      ->check(width)
      ->type_name("16|8|4|2")
      ->group(group);
  command
      .add_option("--kv-budget", options.budget_bytes,
                  "Bytes of memory such as 64MiB, for one sequence (progressive) or for all together "
                  "(pressure)")
      ->transform(CLI::Validator(
          [](std::string& text) {
            const auto bytes = parse_size(text);
            if (!bytes)
              return fmt::format("'{}' is no amount of memory: give 64MiB, 1.5G or bytes", text);
            text = std::to_string(*bytes);
            return std::string();
          },
          "SIZE"))
      ->type_name("SIZE")
      ->group(group);
  command
      .add_option("--kv-transform", options.transform,
                  "What is done to narrow ones first: hadamard (where the heads' size is a power of "
                  "two), none, or smooth and smooth+hadamard with --kv-calibration")
      ->capture_default_str()
      ->check(CLI::IsMember({"hadamard", "none", "smooth", "smooth+hadamard"}))
      ->group(group);
  command
      .add_option("--kv-calibration", options.calibration,
                  "What 'weft calibrate kv' wrote: the layers that mind least are narrowed first "
                  "(progressive, pressure)")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--kv-bits", options.bits,
                  "Bits of a value on average at the narrowest, shared out over layers so that the least "
                  "is lost (with --kv-calibration; from the first token, or progressive, pressure)")
      ->check(CLI::Range(2.0, 16.0))
      ->type_name("BITS")
      ->group(group);
  command
      .add_option("--kv-max-length", options.max_length,
                  "Tokens that the budget must hold; without it the context is what it holds")
      ->check(CLI::Range(size_t{1}, size_t{1} << 24))
      ->type_name("TOKENS")
      ->group(group);
}

}  // namespace weft::cli
