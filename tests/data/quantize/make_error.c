// Prints the squared error that ggml's reference quantiser leaves on weights.bin, per K-quant.
#include <ggml.h>
#include <stdio.h>

int main(void) {
  enum { kValues = 32 * 256 };
  static float x[kValues], y[kValues];
  static char blocks[kValues * 4];
  FILE* file = fopen("weights.bin", "rb");
  if (!file || fread(x, sizeof(float), kValues, file) != kValues) return 1;
  const enum ggml_type types[] = {GGML_TYPE_Q2_K, GGML_TYPE_Q3_K, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K,
                                  GGML_TYPE_Q6_K};
  for (int t = 0; t < 5; ++t) {
    ggml_quantize_chunk(types[t], x, blocks, 0, 1, kValues, NULL);
    ggml_get_type_traits(types[t])->to_float(blocks, y, kValues);
    double sum = 0;
    for (int i = 0; i < kValues; ++i) sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    printf("%s %.9g\n", ggml_type_name(types[t]), sum);
  }
  return 0;
}
