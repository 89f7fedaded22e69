#include "cli/kv_methods.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/kv_transform.h"
#include "text/kv_calibration.h"

namespace weft::cli {
namespace {

using text::ForeignKv;
using text::KvMode;
using text::KvWidths;
using text::ReplayMethod;

// Every way of storing that ends at about `bits` a value.
std::vector<ReplayMethod> methods(size_t bits, bool can_rotate) {
  std::vector<ReplayMethod> all;
  const auto engine = [&](const std::string& name, KvMode mode, KvWidths widths,
                          std::optional<kernels::KvTransform> transform = {}) {
    all.push_back({.name = name,
                   .policy = {.mode = mode, .widths = widths, .transform = transform}});
  };
  const auto foreign = [&](const std::string& name, const ForeignKv& format) {
    if (!format.hadamard || can_rotate) all.push_back({.name = name, .foreign = format});
  };
  const auto blocks = [&](size_t width) {
    const auto w = static_cast<uint8_t>(width);
    const std::string name = fmt::format("q{}_0", width);
    foreign(name, {.format = ForeignKv::Format::kBlocks, .widths = {w, w}});
    foreign(name + " hadamard",
            {.format = ForeignKv::Format::kBlocks, .widths = {w, w}, .hadamard = true});
  };
  const auto f = static_cast<uint8_t>(bits);
  const KvWidths narrow{f, f};
  const auto plain = kernels::KvTransform::kNone;
  if (bits != 8) {
    engine("direct 8", KvMode::kDirect, {8, 8});
    blocks(8);
  }
  engine(fmt::format("direct {}", bits), KvMode::kDirect, narrow);
  if (can_rotate) engine(fmt::format("direct {} unrotated", bits), KvMode::kDirect, narrow, plain);
  foreign(fmt::format("kivi {}", bits), {.format = ForeignKv::Format::kKivi, .widths = narrow});
  if (bits != 2) blocks(bits);
  foreign(fmt::format("two-tier {}", bits), {.format = ForeignKv::Format::kTwoTier,
                                             .widths = narrow,
                                             .hadamard = can_rotate});
  engine(fmt::format("progressive {}", bits), KvMode::kProgressive, narrow);
  if (can_rotate)
    engine(fmt::format("progressive {} unrotated", bits), KvMode::kProgressive, narrow, plain);
  if (bits < 8) {
    const auto wider = static_cast<uint8_t>(2 * bits);
    engine(fmt::format("direct k{} v{}", wider, bits), KvMode::kDirect, {wider, f});
    engine(fmt::format("direct k{} v{}", bits, wider), KvMode::kDirect, {f, wider});
    engine(fmt::format("progressive k{} v{}", wider, bits), KvMode::kProgressive, {wider, f});
  }
  return all;
}

void add_allocated(const KvMethodOptions& options, const ModelOptions& model_options,
                   std::vector<ReplayMethod>& all) {
  const auto checkpoint = formats::open_checkpoint(model_path(model_options.model));
  const text::KvCalibration c = text::load_kv_calibration(options.sidecar, *checkpoint);
  const auto widths = text::allocate_kv(c.layers, c.layers.size() * 2 * options.bits, 2);
  for (const auto& [name, mode] :
       {std::pair{"direct", KvMode::kDirect}, {"progressive", KvMode::kProgressive}}) {
    ReplayMethod& method = all.emplace_back();
    method.name = fmt::format("{} {} allocated", name, options.bits);
    method.policy.mode = mode;
    method.policy.layer_widths = widths;
    if (mode == KvMode::kProgressive) method.policy.sensitivities = text::sensitivities(c);
  }
  const auto f = static_cast<uint8_t>(options.bits);
  for (const auto& [name, transform] :
       {std::pair{"smooth", kernels::KvTransform::kSmooth},
        {"smooth hadamard", kernels::KvTransform::kSmoothHadamard}}) {
    if (kernels::rotates(transform) && !kernels::has_hadamard(c.head_dim)) continue;
    for (const auto& [way, mode] :
         {std::pair{"direct", KvMode::kDirect}, {"progressive", KvMode::kProgressive}}) {
      ReplayMethod& method = all.emplace_back();
      method.name = fmt::format("{} {} {}", way, options.bits, name);
      method.policy = {.mode = mode, .widths = {f, f}, .transform = transform};
      method.policy.smoothing = text::factors(c);
    }
  }
}

}  // namespace

void add_kv_method_options(CLI::App& command, KvMethodOptions& options) {
  command.add_option("--bits", options.bits, "The final width of a value: 8, 4 or 2")
      ->capture_default_str()
      ->check(CLI::IsMember({8, 4, 2}));
  command.add_option("--sidecar", options.sidecar,
                     "Of weft calibrate kv: adds methods with widths allocated by layer, and with smoothed keys");
  command.add_option("--only", options.only, "Of the methods, those with these names")
      ->delimiter(',')
      ->type_name("NAME");
}

std::vector<ReplayMethod> kv_methods(const KvMethodOptions& options,
                                     const ModelOptions& model_options,
                                     const models::LanguageModel& model) {
  std::vector<ReplayMethod> all =
      methods(options.bits, kernels::has_hadamard(model.kv_shape().head_dim));
  if (!options.sidecar.empty()) add_allocated(options, model_options, all);
  if (options.only.empty()) return all;
  for (const std::string& name : options.only) {
    if (std::any_of(all.begin(), all.end(), [&](const auto& m) { return m.name == name; })) continue;
    std::string names;
    for (const ReplayMethod& m : all) names += (names.empty() ? "" : ", ") + m.name;
    fail(ErrorKind::kInvalidInput, "--only: no method '{}'; there are: {}", name, names);
  }
  std::erase_if(all, [&](const ReplayMethod& m) {
    return std::find(options.only.begin(), options.only.end(), m.name) == options.only.end();
  });
  return all;
}

}  // namespace weft::cli
