"""Makes the fixtures of src/kernels/quantize_test.cc with the `gguf` package (the reference).

  TYPE.bin        for every type: u32 n_bytes, blocks; then the values they stand for, f32
  TYPE.quant.bin  for types that gguf can quantise: u32 n_values, f32 values; then the blocks
  weights.bin     f32 "weights" (normal, and heavy-tailed), 32 super-blocks, for the K-quants' error

ggml_error.txt holds the squared error that ggml's own quantiser leaves on weights.bin; make_error.c
prints it (build it against a checkout of ggml: cc make_error.c libggml-base.a -lm -lstdc++ -lpthread).
"""
import pathlib, struct, sys
import numpy as np
import gguf
from gguf import GGMLQuantizationType as T, quants

here = pathlib.Path(__file__).parent
rng = np.random.default_rng(20240607)
TYPES = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
# Scales: ordinary, zero, negative, subnormal (smallest and largest), largest finite, one.
SCALES = np.array([0.0123, 0.0, -0.37, 6e-8, 6.09e-5, 65504.0, -65504.0, 1.0], dtype=np.float16)


def blocks(t, count):
    n, size = gguf.GGML_QUANT_SIZES[t]
    out = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES[t]:
        out[:, at:at + 2] = rng.permutation(np.resize(SCALES, count)).view(np.uint8).reshape(count, 2)
    return out


for t in TYPES:
    if t in HALVES:
        raw = blocks(t, 16).reshape(-1)
    elif t == T.F16:
        raw = np.concatenate([SCALES, rng.integers(0, 0x7c00, 200).astype(np.uint16).view(np.float16),
                              np.array([np.inf, -np.inf, -0.0], dtype=np.float16)]).view(np.uint8)
    else:
        raw = rng.integers(0, 65536, 256).astype(np.uint16)
        raw = raw[(raw & 0x7f80) != 0x7f80].view(np.uint8)
    values = quants.dequantize(raw.reshape(1, -1), t).astype(np.float32).reshape(-1)
    name = t.name.lower()
    (here / f"{name}.bin").write_bytes(struct.pack("<I", raw.size) + raw.tobytes() + values.tobytes())

x = np.concatenate([
    rng.normal(0, 0.02, 512), rng.standard_t(2, 512), rng.uniform(0, 5, 256), rng.uniform(-5, -1, 256),
    np.zeros(32), np.full(32, 3.0), np.full(32, -3.0), np.eye(32)[3] * -7, rng.normal(0, 1e-7, 32),
    rng.normal(0, 1e4, 32), np.arange(32) / 2 - 8, np.linspace(-8, 7.5, 32),
]).astype(np.float32)
for t in [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]:
    raw = quants.quantize(x, t).view(np.uint8).reshape(-1)
    name = t.name.lower()
    (here / f"{name}.quant.bin").write_bytes(struct.pack("<I", x.size) + x.tobytes() + raw.tobytes())

w = np.concatenate([rng.normal(0, 0.02, 24 * 256), rng.standard_t(4, 4 * 256) * 0.02,
                    rng.normal(0.01, 0.005, 4 * 256)]).astype(np.float32)
(here / "weights.bin").write_bytes(w.tobytes())
(here / "versions.txt").write_text(f"python {sys.version.split()[0]}\nnumpy {np.__version__}\n"
                                   f"gguf {__import__('importlib.metadata', fromlist=['x']).version('gguf')}\n")
