// Writes a GGUF file of a real model's shape with random weights, for benches:
//   weft_random_gguf --shape llama-3.2-1b --type q4_0 --seed 1 out.gguf
#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/error.h"
#include "formats/random_model.h"

int main(int argc, char** argv) {
  using namespace weft;
  CLI::App program{"Writes a GGUF file with random weights and the shape of a real model."};
  std::string shape = "tiny", type = "q8_0", out;
  uint64_t seed = 1;
  std::string shapes;
  for (const std::string& name : formats::random_model_shapes()) shapes += " " + name;
  program.add_option("out", out, "The file to write")->required();
  program.add_option("--shape", shape, "One of:" + shapes)->capture_default_str();
  program.add_option("--type", type, "f16, bf16, q8_0, q4_0, q4_K_M, ...")->capture_default_str();
  program.add_option("--seed", seed, "Same seed, same bytes")->capture_default_str();
  CLI11_PARSE(program, argc, argv);
  try {
    const StopToken stop = install_interrupt_handlers();
    ThreadPool pool(available_cores());
    Progress progress("Writing", 0, "bytes");
    formats::write_random_model(out, shape, formats::quant_mix(type), seed, pool.cores(), stop,
                                progress.callback());
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "weft_random_gguf: %s\n", error.what());
    return exit_code(error.kind());
  }
}
