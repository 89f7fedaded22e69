"""Writes types.txt: the type that llama.cpp's llama-quantize would give every matrix of three models.
usage: make.py LLAMA_QUANTIZE SHAPE=FILE.gguf...   (f16 files of those shapes, from weft_random_gguf)

One line per model, mix and kind of tensor: the type in each layer, in layer order."""
import collections, pathlib, re, subprocess, sys

here = pathlib.Path(__file__).parent
program, *models = sys.argv[1:]
MIXES = "Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 Q3_K_L Q3_K_M Q3_K_S Q2_K".split()
lines = []
for model in models:
    shape, file = model.split("=")
    for mix in MIXES:
        log = subprocess.run([program, "--dry-run", file, mix], capture_output=True, text=True)
        rows = re.findall(r"\] (\S+) +- \[ *(\d+), *(\d+),.*?(?:\((\w+)\))?\n", log.stdout + log.stderr)
        kinds = collections.defaultdict(dict)
        for name, columns, count, kind in rows:
            if int(count) == 1:
                continue
            layer = re.match(r"blk\.(\d+)\.(.*)", name)
            number, stem = (int(layer[1]), layer[2]) if layer else (0, name)
            kinds[stem, int(count), int(columns)][number] = kind or "f16"
        for (stem, count, columns), types in sorted(kinds.items()):
            lines.append(f"{shape} {mix} {stem} {count} {columns} " +
                         ",".join(types[i] for i in sorted(types)))
(here / "types.txt").write_text("\n".join(lines) + "\n")
(here / "versions.txt").write_text("llama.cpp, as in llama-cpp-python 0.3.36\n")
